//! Every sslmode with every kind of server certificate.

use rcgen::date_time_ymd;

use super::certificates::{Ca, install, self_signed};
use super::harness::{Lab, Row, connects, fails};
use crate::support::{Cluster, Tool};
use crate::{require_program, require_server};

const TLS: &str = "postgres tls t";
const PLAIN: &str = "postgres plain t";
const FAILED: &str = "SSL error: certificate verify failed";

fn cluster() -> Cluster {
    Cluster::builder().tls().setting("cluster_name", "t").start()
}

fn base(cluster: &Cluster) -> String {
    format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres user=postgres", cluster.port())
}

#[test]
fn modes_with_a_good_certificate() {
    require_server!();
    let (cluster, mut lab) = (cluster(), Lab::new());
    let base = base(&cluster);
    let root = cluster.root_cert().display().to_string();
    let other = lab.file("other.crt", 0o644, Ca::new("another authority").certificate);
    let junk = lab.file("junk.crt", 0o644, "nothing to see");
    let with = |rest: &str| format!("{base} {rest}");
    let ip = with("").replace("host=localhost hostaddr=127.0.0.1", "host=127.0.0.1");
    let nameless = with("").replace("host=localhost ", "");
    let elsewhere = with("").replace("host=localhost", "host=elsewhere.example");
    lab.check([
        connects(with("sslmode=disable"), PLAIN),
        connects(with("sslmode=allow"), PLAIN),
        connects(with("sslmode=prefer"), TLS),
        connects(with("sslmode=require"), TLS),
        connects(with(&format!("sslmode=require sslrootcert={root}")), TLS),
        connects(with("sslmode=require sslrootcert=/nowhere"), TLS),
        fails(with(&format!("sslmode=require sslrootcert={other}")), FAILED),
        fails(with(&format!("sslmode=require sslrootcert={junk}")), "could not read root certificate file"),
        connects(with(&format!("sslmode=prefer sslrootcert={root}")), TLS),
        connects(with(&format!("sslmode=prefer sslrootcert={other}")), PLAIN),
        fails(with("sslmode=verify-ca"), "root certificate file"),
        fails(with("sslmode=verify-ca sslrootcert=/nowhere"), "root certificate file \"/nowhere\" does not exist"),
        connects(with(&format!("sslmode=verify-ca sslrootcert={root}")), TLS),
        fails(with(&format!("sslmode=verify-ca sslrootcert={other}")), FAILED),
        connects(with(&format!("sslmode=verify-full sslrootcert={root}")), TLS),
        connects(format!("{ip} sslmode=verify-full sslrootcert={root}"), TLS),
        connects(format!("{nameless} sslmode=verify-ca sslrootcert={root}"), TLS),
        fails(format!("{nameless} sslmode=verify-full sslrootcert={root}"), "host name must be specified for a verified SSL connection"),
        connects(format!("{elsewhere} sslmode=verify-ca sslrootcert={root}"), TLS),
        fails(
            format!("{elsewhere} sslmode=verify-full sslrootcert={root}"),
            "server certificate for \"localhost\" (and 1 other name) does not match host name \"elsewhere.example\"",
        ),
        connects(with("sslmode=require ssl_min_protocol_version=TLSv1.3"), TLS),
        connects(with("sslmode=require ssl_max_protocol_version=TLSv1.2"), TLS),
        connects(with("sslmode=require ssl_min_protocol_version=TLSv1"), TLS),
        fails(with("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2"), "invalid SSL protocol version range"),
        connects(with("sslmode=require sslsni=0 sslcompression=1"), TLS),
        connects(with("").replace("host=localhost hostaddr=127.0.0.1", "host=LOCALHOST") + &format!(" sslmode=verify-full sslrootcert={root}"), TLS),
        // a Unix socket has no TLS, and libpq says nothing
        connects(cluster.conninfo() + " sslmode=verify-full sslrootcert=/nowhere", PLAIN),
        connects(with("requiressl=1"), TLS),
        connects(with(""), TLS).variable("PGREQUIRESSL", "1"),
        connects(with(""), PLAIN).variable("PGSSLMODE", "disable"),
        connects(with(&format!("sslrootcert={root}")), TLS).variable("PGSSLMODE", "verify-full"),
    ]);
    lab.check([
        fails(with("sslrootcert=system"), FAILED).newer(),
        fails(
            with("sslrootcert=system sslmode=require"),
            "weak sslmode \"require\" may not be used with sslrootcert=system",
        )
        .newer(),
        fails(
            with("sslnegotiation=direct"),
            "weak sslmode \"prefer\" may not be used with sslnegotiation=direct",
        )
        .newer(),
        // servers speak it from 17 on
        if cluster.major() >= 17 {
            connects(with("sslnegotiation=direct sslmode=require"), TLS).newer()
        } else {
            fails(with("sslnegotiation=direct sslmode=require"), "SSL").newer()
        },
        connects(with("sslnegotiation=postgres sslmode=require"), TLS).newer(),
        fails(with("sslkeylogfile=/tmp/keys"), "\"sslkeylogfile\" is not supported")
            .newer_and_unlike("would give the session's keys away"),
    ]);
    // the usual place, last: it changes what "require" means
    lab.file("home/.postgresql/root.crt", 0o644, std::fs::read(&root).expect("read a certificate"));
    lab.check([
        connects(with("sslmode=verify-full"), TLS),
        fails(format!("{elsewhere} sslmode=verify-full"), FAILED),
    ]);
    lab.file("home/.postgresql/root.crt", 0o644, std::fs::read(&other).expect("read a certificate"));
    lab.check([fails(with("sslmode=require"), FAILED), connects(with("sslmode=prefer"), PLAIN)]);
    lab.verdict();
}

#[test]
fn a_server_without_tls() {
    require_server!();
    let cluster = Cluster::builder().setting("cluster_name", "t").start();
    let mut lab = Lab::new();
    let base = cluster.tcp_conninfo();
    lab.check([
        connects(format!("{base} sslmode=disable"), PLAIN),
        connects(format!("{base} sslmode=allow"), PLAIN),
        connects(format!("{base} sslmode=prefer"), PLAIN),
        connects(format!("{base} sslmode=prefer channel_binding=prefer"), PLAIN),
        fails(format!("{base} sslmode=require"), "server does not support SSL, but SSL was required"),
        fails(
            format!("{base} sslmode=verify-ca sslrootcert=/etc/passwd"),
            "server does not support SSL, but SSL was required",
        ),
        fails(format!("{base} sslmode=prefer channel_binding=require"), "channel binding required"),
    ]);
    lab.verdict();
}

#[test]
fn certificates_good_and_bad() {
    require_server!();
    let (cluster, mut lab) = (cluster(), Lab::new());
    let base = base(&cluster);
    let (ca, other_ca) = (Ca::new("root"), Ca::new("other"));
    let root = lab.file("root.crt", 0o644, &ca.certificate);
    let both = lab.file("both.crt", 0o644, other_ca.certificate.clone() + &ca.certificate);
    let mode = |mode: &str, roots: &str| format!("{base} sslmode={mode} sslrootcert={roots}");
    let require = format!("{base} sslmode=require");
    let good = ca.server(&["localhost"], |_| {});

    install(&cluster, &ca.server(&["db.example", "*.example.org"], |_| {}));
    let named = |name: &str| mode("verify-full", &root).replace("host=localhost", &format!("host={name}"));
    lab.check([
        connects(require.clone(), TLS),
        connects(mode("verify-ca", &root), TLS),
        connects(mode("verify-ca", &both), TLS),
        fails(mode("verify-full", &root), "does not match host name \"localhost\""),
        connects(named("db.example"), TLS),
        connects(named("a.example.org"), TLS),
        fails(named("example.org"), "does not match"),
        fails(named("a.b.example.org"), "does not match"),
    ]);

    install(&cluster, &ca.server(&[], |_| {}));
    lab.check([
        connects(mode("verify-full", &root), TLS),
        fails(named("db.example"), "for \"localhost\" does not match"),
    ]);

    install(&cluster, &ca.server(&["localhost"], |params| params.not_after = date_time_ymd(2024, 1, 1)));
    lab.check([
        connects(require.clone(), TLS),
        fails(mode("verify-ca", &root), "certificate has expired"),
        fails(mode("require", &root), "certificate has expired"),
        connects(mode("prefer", &root), PLAIN),
    ]);

    install(&cluster, &ca.server(&["localhost"], |params| params.not_before = date_time_ymd(2090, 1, 1)));
    lab.check([
        connects(require.clone(), TLS),
        fails(mode("verify-ca", &root), "certificate is not yet valid"),
    ]);

    let alone = self_signed(&["localhost"]);
    let itself = lab.file("self.crt", 0o644, &alone.certificate);
    install(&cluster, &alone);
    lab.check([
        connects(require.clone(), TLS),
        fails(mode("verify-ca", &root), FAILED),
        connects(mode("verify-ca", &itself), TLS),
        connects(mode("verify-full", &itself), TLS),
        fails(mode("verify-full", &itself).replace("host=localhost", "host=other"), "does not match"),
    ]);

    let intermediate = ca.intermediate("between");
    let between = lab.file("between.crt", 0o644, &intermediate.certificate);
    let mut below = intermediate.server(&["localhost"], |_| {});
    install(&cluster, &below);
    lab.check([
        fails(mode("verify-ca", &root), FAILED),
        connects(mode("verify-ca", &between), TLS)
            .unlike_psql("OpenSSL trusts only what ends in a self-signed root"),
    ]);
    below.certificate += &intermediate.certificate;
    install(&cluster, &below);
    let list = |name: &str, text: String| lab.file(name, 0o644, text);
    let (of_root, of_both) = (
        list("root.crl", ca.revoke(&[], 2090)),
        list("both.crl", ca.revoke(&[], 2090) + &intermediate.revoke(&[], 2090)),
    );
    let revoked_below = list("below.crl", ca.revoke(&[], 2090) + &intermediate.revoke(&[7], 2090));
    lab.check([
        connects(mode("verify-full", &root), TLS),
        connects(mode("verify-full", &root) + " sslcrl=" + &of_both, TLS),
        fails(mode("verify-full", &root) + " sslcrl=" + &of_root, "unable to get certificate CRL"),
        fails(mode("verify-full", &root) + " sslcrl=" + &revoked_below, "certificate revoked"),
    ]);

    install(&cluster, &good);
    let list = |name: &str, text: String| lab.file(name, 0o644, text);
    let empty = list("empty.crl", ca.revoke(&[8], 2090));
    let revoked = list("revoked.crl", ca.revoke(&[6, 7], 2090));
    let old = list("old.crl", ca.revoke(&[], 2025));
    let foreign = list("foreign.crl", other_ca.revoke(&[], 2090));
    let forged = list("forged.crl", Ca::new("root").revoke(&[], 2090));
    let crl = |sslmode: &str, file: &str| mode(sslmode, &root) + " sslcrl=" + file;
    lab.check([
        connects(crl("verify-full", &empty), TLS),
        fails(crl("verify-full", &revoked), "certificate revoked"),
        fails(crl("require", &revoked), "certificate revoked"),
        connects(crl("prefer", &revoked), PLAIN),
        fails(crl("verify-ca", &old), "CRL has expired"),
        fails(crl("verify-ca", &foreign), "unable to get certificate CRL"),
        fails(crl("verify-ca", &forged), "unable to get certificate CRL"),
        fails(crl("verify-ca", "/nowhere"), "could not read certificate revocation list file \"/nowhere\"")
            .unlike_psql("a list that was asked for and cannot be read is not nothing"),
    ]);
    lab.file("home/.postgresql/root.crl", 0o644, ca.revoke(&[7], 2090));
    lab.check([
        fails(mode("verify-ca", &root), "certificate revoked"),
        connects(crl("verify-ca", &empty), TLS),
    ]);
    lab.verdict();
}

#[test]
fn certificates_as_openssl_makes_them() {
    require_server!();
    require_program!("openssl");
    let (cluster, mut lab) = (cluster(), Lab::new());
    cluster.create_role("rose", "", Some("secret"));
    cluster.prepend_hba("host all rose 127.0.0.1/32 scram-sha-256");
    let base = base(&cluster).replace("user=postgres", "user=rose password=secret");
    let ca = Ca::new("root");
    let root = lab.file("root.crt", 0o644, &ca.certificate);
    let wrong = lab.file("wrong.crt", 0o644, Ca::new("root").certificate);
    const ROSE: &str = "rose tls t";
    let sign = |key: &str, options: &str| {
        format!(
            "openssl req -new -nodes -newkey {key} -keyout out.key -out out.csr -subj /CN=localhost; \
             openssl x509 -req -in out.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days 30 -out out.crt {options}"
        )
    };
    // version 1, as in PostgreSQL's manual
    install(&cluster, &ca.openssl(&lab, &sign("rsa:2048", "")));
    lab.check([
        connects(format!("{base} sslmode=require"), ROSE),
        connects(format!("{base} sslmode=require ssl_max_protocol_version=TLSv1.2"), ROSE),
        connects(format!("{base} sslmode=verify-ca sslrootcert={root}"), ROSE),
        connects(format!("{base} sslmode=verify-full sslrootcert={root} channel_binding=require"), ROSE),
        fails(format!("{base} sslmode=verify-ca sslrootcert={wrong}"), FAILED),
        fails(
            format!("{base} sslmode=verify-full sslrootcert={root}").replace("=localhost", "=other"),
            "does not match",
        ),
    ]);
    // a revocation list of version 1, as `openssl ca` makes it unless told otherwise
    let revoke = "touch index.txt; printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\n' >ca.conf; \
                  openssl ca -config ca.conf -revoke out.crt -keyfile ca.key -cert ca.crt -md sha256; \
                  openssl ca -config ca.conf -gencrl -keyfile ca.key -cert ca.crt -md sha256 -crldays 30 -out list.crl; \
                  mkdir -p crls; cp list.crl crls/$(openssl crl -hash -noout -in list.crl).r0";
    Tool::new("/bin/sh").args(["-ec", revoke]).dir(lab.dir.path()).run().succeeded();
    let (list, dir) = (lab.dir.join("list.crl"), lab.dir.join("crls"));
    let verify = format!("{base} sslmode=verify-ca sslrootcert={root}");
    lab.check([
        fails(format!("{verify} sslcrl={}", list.display()), "certificate revoked"),
        fails(format!("{verify} sslcrldir={}", dir.display()), "certificate revoked"),
    ]);
    // every digest that channel binding has
    let self_signed = |key: &str, options: &str| {
        format!(
            "openssl req -new -x509 -nodes -newkey {key} -days 30 -keyout out.key -out out.crt -subj /CN=localhost {options}"
        )
    };
    for script in [
        self_signed("rsa:2048", "-sha384"),
        self_signed("rsa:2048", "-sha512"),
        self_signed("rsa:2048", "-sha384 -sigopt rsa_padding_mode:pss"),
        self_signed("ec -pkeyopt ec_paramgen_curve:P-384", "-sha384"),
        self_signed("ec -pkeyopt ec_paramgen_curve:P-256", "-sha256"),
        sign("rsa:3072", "-sha512"),
    ] {
        let pair = ca.openssl(&lab, &script);
        let itself = lab.file("self.crt", 0o644, &pair.certificate);
        install(&cluster, &pair);
        lab.check([connects(format!("{base} sslmode=require channel_binding=require"), ROSE)]);
        if script.contains("-x509 -nodes") && !script.contains("pss") {
            lab.check([connects(format!("{base} sslmode=verify-full sslrootcert={itself}"), ROSE)]);
        }
    }
    install(&cluster, &ca.openssl(&lab, &self_signed("ed25519", "")));
    lab.check([
        fails(format!("{base} sslmode=require channel_binding=require"), "channel binding"),
        connects(format!("{base} sslmode=require channel_binding=disable"), ROSE),
        connects(format!("{base} sslmode=require"), ROSE)
            .unlike_psql("binding is a preference, and it cannot be had"),
    ]);
    lab.verdict();
}

#[test]
fn direct_tls() {
    require_server!(17);
    let cluster = Cluster::builder().major(17).tls().setting("cluster_name", "t").start();
    let mut lab = Lab::new();
    let base = format!("{} sslnegotiation=direct", base(&cluster));
    let root = cluster.root_cert().display().to_string();
    lab.check(
        [
            connects(format!("{base} sslmode=require"), TLS),
            connects(format!("{base} sslmode=verify-full sslrootcert={root}"), TLS),
            fails(format!("{base} sslmode=allow"), "weak sslmode"),
        ]
        .map(Row::newer),
    );
    lab.verdict();
}
