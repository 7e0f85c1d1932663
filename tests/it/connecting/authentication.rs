//! Every method of authentication, good and bad; passwords from every place.

use super::harness::{Lab, connects, fails};
use crate::require_server;
use crate::support::Cluster;

fn cluster() -> Cluster {
    let mut builder = Cluster::builder().tls().setting("cluster_name", "a");
    for line in [
        "host all plain_user 127.0.0.1/32 password",
        "host all md5_user 127.0.0.1/32 md5",
        "host all,replication scram_user 127.0.0.1/32 scram-sha-256",
        "local all scram_user scram-sha-256",
        "host all odd_user 127.0.0.1/32 scram-sha-256",
        "hostssl all cert_user 127.0.0.1/32 cert",
        "hostssl all both_user 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
        "hostnossl all both_user 127.0.0.1/32 reject",
        "hostssl all tls_user 127.0.0.1/32 trust",
        "hostnossl all tls_user 127.0.0.1/32 reject",
        "hostnossl all clear_user 127.0.0.1/32 trust",
        "hostssl all clear_user 127.0.0.1/32 reject",
    ] {
        builder = builder.hba(line);
    }
    let cluster = builder.start();
    for name in ["plain_user", "scram_user", "both_user"] {
        cluster.create_role(name, "REPLICATION", Some("se cret"));
    }
    for name in ["cert_user", "tls_user", "clear_user"] {
        cluster.create_role(name, "", None);
    }
    // SASLprep maps the soft hyphen to nothing, and the ideographic space to a space
    cluster.create_role("odd_user", "", Some("p\u{ad}ä\u{3000}ß"));
    cluster.psql("SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'se cret'");
    cluster
}

#[test]
fn methods() {
    require_server!();
    let cluster = cluster();
    let mut lab = Lab::new();
    let base = format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres", cluster.port());
    let user = |name: &str, rest: &str| format!("{base} user={name} {rest}");
    const WRONG: &str = "password authentication failed for user";
    const NONE: &str = "fe_sendauth: no password supplied";
    const NO_BINDING: &str = "channel binding required but not supported by server's authentication request";
    for (name, tls, plain) in [
        ("plain_user", "plain_user tls a", "plain_user plain a"),
        ("md5_user", "md5_user tls a", "md5_user plain a"),
        ("scram_user", "scram_user tls a", "scram_user plain a"),
    ] {
        lab.check([
            connects(user(name, "password='se cret'"), tls),
            connects(user(name, "password='se cret' sslmode=disable"), plain),
            connects(user(name, "password='se cret' sslmode=require channel_binding=disable"), tls),
            fails(user(name, "password=wrong"), WRONG),
            fails(user(name, "password=wrong sslmode=disable"), WRONG),
            fails(user(name, "sslmode=disable"), NONE),
            fails(user(name, "password='' sslmode=require"), NONE),
        ]);
    }
    lab.check([
        connects(
            user("scram_user", "password='se cret' channel_binding=require sslmode=require"),
            "scram_user tls a",
        ),
        fails(
            user("scram_user", "password='se cret' channel_binding=require sslmode=disable"),
            "channel binding required, but SSL not in use",
        ),
        fails(user("scram_user", "password=wrong channel_binding=require sslmode=require"), WRONG),
        fails(user("md5_user", "password='se cret' channel_binding=require sslmode=require"), NO_BINDING),
        fails(user("plain_user", "password='se cret' channel_binding=require sslmode=require"), NO_BINDING),
        fails(
            user("tls_user", "channel_binding=require sslmode=require"),
            "channel binding required, but server authenticated client without channel binding",
        ),
        fails(user("scram_user", "channel_binding=maybe"), "invalid channel_binding value: \"maybe\""),
        connects(user("odd_user", "password='pä ß'"), "odd_user tls a"),
        connects(user("odd_user", "password='p\u{ad}ä\u{3000}ß'"), "odd_user tls a"),
        fails(user("odd_user", "password='pä  ß'"), WRONG),
        fails(user("nobody", "sslmode=disable"), "role \"nobody\" does not exist"),
        fails(
            user("postgres", "").replace("dbname=postgres", "dbname=nowhere"),
            "database \"nowhere\" does not exist",
        ),
    ]);
    // sslmode and what pg_hba.conf thinks of it
    lab.check([
        connects(user("tls_user", ""), "tls_user tls a"),
        connects(user("tls_user", "sslmode=allow"), "tls_user tls a"),
        fails(user("tls_user", "sslmode=disable"), "pg_hba.conf rejects connection"),
        connects(user("clear_user", ""), "clear_user plain a"),
        connects(user("clear_user", "sslmode=allow"), "clear_user plain a"),
        fails(user("clear_user", "sslmode=require"), "pg_hba.conf rejects connection"),
    ]);
    lab.verdict();
}

#[test]
fn required_methods() {
    require_server!();
    let cluster = cluster();
    let mut lab = Lab::new();
    let base = format!("host=127.0.0.1 port={} dbname=postgres password='se cret'", cluster.port());
    let user = |name: &str, rest: &str| format!("{base} user={name} {rest}");
    lab.check(
        [
            connects(user("scram_user", "require_auth=scram-sha-256"), "scram_user tls a"),
            connects(user("scram_user", "require_auth=md5,scram-sha-256"), "scram_user tls a"),
            connects(user("scram_user", "require_auth=!md5,!password"), "scram_user tls a"),
            fails(
                user("scram_user", "require_auth=md5"),
                "authentication method requirement \"md5\" failed: server requested SASL authentication",
            ),
            fails(user("scram_user", "require_auth=!scram-sha-256"), "server requested SASL authentication"),
            fails(user("scram_user", "require_auth=none"), "server requested SASL authentication"),
            connects(user("md5_user", "require_auth=md5"), "md5_user tls a"),
            fails(user("md5_user", "require_auth=scram-sha-256"), "server requested a hashed password"),
            connects(user("plain_user", "require_auth=password"), "plain_user tls a"),
            fails(user("plain_user", "require_auth=!password"), "server requested a cleartext password"),
            connects(user("tls_user", "require_auth=none"), "tls_user tls a"),
            connects(user("tls_user", "require_auth=none,md5"), "tls_user tls a"),
            connects(user("tls_user", "require_auth=!md5"), "tls_user tls a"),
            fails(user("tls_user", "require_auth=scram-sha-256"), "server did not complete authentication"),
            fails(user("tls_user", "require_auth=!none"), "server did not complete authentication"),
            fails(user("tls_user", "require_auth=!none,md5"), "cannot be mixed with negative methods"),
            fails(user("tls_user", "require_auth=md5,md5"), "is specified more than once"),
            fails(user("tls_user", "require_auth=magic"), "invalid require_auth value: \"magic\""),
            fails(user("scram_user", "require_auth=gss"), "require_auth \"gss\" cannot be satisfied"),
            fails(
                user("scram_user", "gssencmode=require"),
                "\"gssencmode\" with the value \"require\" is not supported",
            ),
        ]
        .map(super::harness::Row::newer),
    );
    lab.check([connects(user("scram_user", "require_auth=''"), "scram_user tls a")
        .newer_and_unlike("libpq forbids every request when the list is empty")]);
    lab.verdict();
}

#[test]
fn client_certificates() {
    require_server!();
    let cluster = cluster();
    let mut lab = Lab::new();
    let (cert, key) = cluster.credentials("cert_user");
    let (both_cert, both_key) = cluster.credentials("both_user");
    let [cert, key, both_cert, both_key] =
        [cert, key, both_cert, both_key].map(|path| path.display().to_string());
    let open_key = lab.file("open.key", 0o644, std::fs::read(&key).expect("read a key"));
    let other_key = both_key.clone();
    let base = format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres", cluster.port());
    let with = |user: &str, rest: String| format!("{base} user={user} {rest}");
    let good = format!("sslcert={cert} sslkey={key}");
    lab.check([
        connects(with("cert_user", good.clone()), "cert_user tls a"),
        connects(with("cert_user", format!("{good} sslmode=require")), "cert_user tls a"),
        fails(
            with("cert_user", "sslmode=require".to_owned()),
            "connection requires a valid client certificate",
        ),
        fails(
            with("tls_user", format!("sslmode=require sslcert={cert} sslkey=/nowhere")),
            "certificate present, but not private key file \"/nowhere\"",
        ),
        fails(
            with("cert_user", format!("sslmode=require sslcert={cert} sslkey={open_key}")),
            "has group or world access",
        ),
        fails(
            with("cert_user", format!("sslmode=require sslcert={cert} sslkey={other_key}")),
            "certificate does not match private key file",
        ),
        fails(
            with("postgres", format!("sslmode=require sslcert={cert} sslkey=/tmp")),
            "is not a regular file",
        ),
        // a key that cannot be used is no reason against going without TLS, where that is allowed
        connects(with("postgres", format!("sslcert={cert} sslkey={open_key}")), "postgres plain a"),
        fails(with("both_user", format!("{good} password='se cret'")), "password authentication failed"),
        connects(
            with(
                "both_user",
                format!("sslcert={both_cert} sslkey={both_key} password='se cret' channel_binding=require"),
            ),
            "both_user tls a",
        ),
        fails(with("both_user", "password='se cret' sslmode=require".to_owned()), "certificate"),
    ]);
    lab.check(
        [
            fails(
                with("cert_user", format!("{good} sslcertmode=disable sslmode=require")),
                "connection requires a valid client certificate",
            ),
            connects(with("cert_user", format!("{good} sslcertmode=require")), "cert_user tls a"),
            connects(
                with("postgres", format!("{good} sslcertmode=require sslmode=require")),
                "postgres tls a",
            ),
            fails(
                with("postgres", "sslcertmode=require sslmode=require".to_owned()),
                "server accepted connection without a valid SSL certificate",
            ),
            fails(
                with("postgres", "sslcertmode=require sslmode=disable".to_owned()),
                "server did not request an SSL certificate",
            ),
        ]
        .map(super::harness::Row::newer),
    );
    // the usual places
    lab.file("home/.postgresql/postgresql.crt", 0o644, std::fs::read(&cert).expect("read a certificate"));
    lab.file("home/.postgresql/postgresql.key", 0o600, std::fs::read(&key).expect("read a key"));
    lab.check([connects(with("cert_user", String::new()), "cert_user tls a")]);
    lab.verdict();
}

#[test]
fn passwords_services_and_variables() {
    require_server!();
    let cluster = cluster();
    let mut lab = Lab::new();
    let port = cluster.port();
    let socket_dir = cluster.socket_dir().display().to_string();
    let base = format!("host=127.0.0.1 port={port} dbname=postgres user=scram_user");
    const OK: &str = "scram_user tls a";
    const NONE: &str = "no password supplied";
    let pgpass = |lines: &str, mode| lab.file(&format!("pass{mode:o}{}", lines.len()), mode, lines);
    let good = pgpass(&format!("127.0.0.1:{port}:postgres:scram_user:se cret\n"), 0o600);
    let open = pgpass("*:*:*:*:se cret\n", 0o640);
    let late = pgpass("# a comment\nother:*:*:*:x\n*:*:*:scram_user:se cret\n*:*:*:*:wrong\n", 0o600);
    let escaped = pgpass("127\\.0.0.1:*:*:scram\\_user:se\\ cret", 0o400);
    let replication = pgpass("*:*:replication:scram_user:se cret", 0o600);
    let socket = pgpass(&format!("{socket_dir}:{port}:*:*:se cret"), 0o600);
    let service = lab.file(
        "service.conf",
        0o644,
        format!("[s]\nhost=127.0.0.1\nport={port}\ndbname=postgres\nuser=scram_user\npassword=se cret\n[bad]\nhots=x\n"),
    );
    let nested = lab.file("nested.conf", 0o644, "[s]\nservice=t\n");
    lab.check([
        connects(format!("{base} passfile={good}"), OK),
        fails(format!("{base} passfile={open} sslmode=disable"), NONE),
        connects(format!("{base} passfile={late}"), OK),
        connects(format!("{base} passfile={escaped}"), OK),
        fails(format!("{base} passfile=/nowhere sslmode=disable"), NONE),
        fails(format!("{base} passfile={replication} sslmode=disable"), NONE),
        connects(format!("{base} passfile={replication}").replace("dbname=postgres", ""), "walsender")
            .physical()
            .unlike_psql(
                "without dbname=replication, as pg_basebackup has it, libpq looks for the user's name",
            ),
        connects(
            format!("{base} passfile={replication}").replace("dbname=postgres", "dbname=replication"),
            "walsender",
        )
        .physical(),
        connects(base.clone(), OK).variable("PGPASSFILE", good.clone()),
        connects(base.clone(), OK).variable("PGPASSWORD", "se cret"),
        fails(format!("{base} password=wrong"), "password authentication failed")
            .variable("PGPASSWORD", "se cret"),
        connects(
            format!("host={socket_dir} port={port} dbname=postgres user=scram_user passfile={socket}"),
            "scram_user plain a",
        ),
        connects("service=s", OK).variable("PGSERVICEFILE", service.clone()),
        connects("", OK).variable("PGSERVICEFILE", service.clone()).variable("PGSERVICE", "s"),
        fails("service=s password=wrong", "password authentication failed")
            .variable("PGSERVICEFILE", service.clone()),
        connects("service=s user=postgres", "postgres tls a")
            .variable("PGSERVICEFILE", service.clone())
            .variable("PGUSER", "nobody"),
        fails("service=t", "definition of service \"t\" not found")
            .variable("PGSERVICEFILE", service.clone()),
        fails("service=bad", "syntax error in service file").variable("PGSERVICEFILE", service),
        fails("service=s", "nested \"service\" specifications").variable("PGSERVICEFILE", nested),
        fails("service=s", "not found").variable("PGSERVICEFILE", "/nowhere"),
        connects(format!("host=127.0.0.1 port={port} user=postgres"), "postgres tls a")
            .variable("PGDATABASE", "template1"),
        connects("postgres", "postgres plain a")
            .variable("PGHOST", socket_dir.clone())
            .variable("PGPORT", port.to_string())
            .variable("PGUSER", "postgres"),
        connects(
            format!("postgresql://scram_user:se%20cret@127.0.0.1:{port}/postgres?sslmode=disable"),
            "scram_user plain a",
        ),
        connects(format!("postgres://127.0.0.1:{port}/postgres?user=postgres&ssl=true"), "postgres tls a"),
        connects(
            format!("postgres://postgres@{}:{port}/", socket_dir.replace('/', "%2F")),
            "postgres plain a",
        ),
        fails(format!("{base} hots=x"), "invalid connection option \"hots\""),
        fails(format!("{base} port='1 2'"), "invalid integer value"),
        fails(format!("{base} port=0"), "invalid port number: \"0\""),
        fails(
            format!("{base} connect_timeout=x"),
            "invalid integer value \"x\" for connection option \"connect_timeout\"",
        ),
        fails(format!("{base} sslmode=maybe"), "invalid sslmode value: \"maybe\""),
        fails(format!("{base} target_session_attrs=maybe"), "invalid target_session_attrs value: \"maybe\""),
    ]);
    lab.verdict();
}

#[tokio::test]
async fn what_the_startup_packet_says_is_what_the_server_sees() {
    use pgwake::client::Purpose;
    require_server!();
    let cluster = cluster();
    let lab = Lab::new();
    let conninfo = format!(
        "{} application_name='a name' options='-c work_mem=7MB' client_encoding=LATIN1 connect_timeout=20 \
         keepalives_idle=11 keepalives_interval=7 keepalives_count=3 tcp_user_timeout=9000",
        cluster.tcp_conninfo()
    );
    let variables = [("PGTZ", "Asia/Tokyo".to_owned()), ("PGDATESTYLE", "German".to_owned())];
    let connected = lab.connect(&conninfo, &variables, Purpose::LogicalReplication).await.expect("connect");
    assert!(connected.stream.is_tls());
    assert_eq!(connected.parameters["application_name"], "a name");
    assert_eq!(connected.parameters["client_encoding"], "LATIN1");
    assert_eq!(connected.backend_key.as_ref().map(|key| key.secret.len()), Some(4));
    let mut connection = connected.into_connection().expect("a connection");
    for (setting, value) in [("work_mem", "7MB"), ("TimeZone", "Asia/Tokyo"), ("DateStyle", "German, DMY")] {
        assert_eq!(connection.show(setting).await.expect("SHOW"), value);
    }
    // a walsender in a database takes both
    assert_eq!(
        connection.identify_system().await.expect("IDENTIFY_SYSTEM").database.as_deref(),
        Some("postgres")
    );
    let sets = connection.query("SELECT 1", "SELECT").await.expect("SELECT");
    assert_eq!(sets[0].rows[0].text(0), Some("1"));
}
