use super::super::environment::tests::FakeEnvironment;
use super::super::{HostAddress, PrimaryConninfoOptions};
use super::*;
use proptest::prelude::*;

fn settings(string: &str) -> Settings {
    resolve(string, &FakeEnvironment::default()).unwrap()
}

fn resolve(string: &str, environment: &FakeEnvironment) -> Result<Settings, ConnInfoError> {
    Settings::resolve(&ConnInfo::parse(string)?, environment)
}

fn refusal(string: &str) -> String {
    resolve(string, &FakeEnvironment::default()).unwrap_err().to_string()
}

#[test]
fn defaults_are_libpqs() {
    let settings = settings("host=h");
    assert_eq!((settings.user.as_str(), settings.dbname.as_str()), ("me", "me"));
    assert_eq!(settings.hosts[0].port, 5432);
    assert_eq!(settings.tls.mode, SslMode::Prefer);
    assert_eq!(settings.tls.root_file(), Some(Path::new("/home/me/.postgresql/root.crt")));
    assert_eq!(settings.tls.certificate.as_deref(), Some(Path::new("/home/me/.postgresql/postgresql.crt")));
    assert!(settings.tls.sni && settings.tls.crl_is_default);
    assert_eq!((settings.tls.min_version, settings.tls.max_version), (TlsVersion::V1_2, TlsVersion::V1_3));
    assert_eq!(settings.target_session_attrs, TargetSessionAttrs::Any);
    assert_eq!(settings.connect_timeout, None);
    assert_eq!(settings.max_protocol_version, ProtocolVersion::V3_0);
    assert!(settings.keepalives.enabled);
    assert_eq!(settings.application_name, None);
}

#[test]
fn what_is_written_wins_over_service_environment_and_default() {
    let environment = FakeEnvironment::default()
        .with_variable("PGUSER", "environment")
        .with_variable("PGDATABASE", "environment")
        .with_variable("PGAPPNAME", "environment")
        .with_variable("PGPORT", "7")
        .with_file("/home/me/.pg_service.conf", 0o644, "[s]\nuser=service\ndbname=service\n");
    let settings = resolve("service=s user=written fallback_application_name=x", &environment).unwrap();
    assert_eq!(settings.user, "written");
    assert_eq!(settings.dbname, "service");
    assert_eq!(settings.application_name.as_deref(), Some("environment"));
    assert_eq!((settings.hosts[0].port, &settings.hosts[0].address), (7, &HostAddress::DefaultSocketDir));
}

#[test]
fn application_name_hides_the_fallback_even_when_empty() {
    let name = |string: &str| settings(string).application_name;
    assert_eq!(name("fallback_application_name=f").as_deref(), Some("f"));
    assert_eq!(name("fallback_application_name=f application_name=a").as_deref(), Some("a"));
    assert_eq!(name("fallback_application_name=f application_name=''"), None);
}

#[test]
fn units_are_libpqs() {
    let settings = settings(
        "connect_timeout=1 tcp_user_timeout=1500 keepalives_idle=3 keepalives_count=4 keepalives_interval=-1",
    );
    assert_eq!(settings.connect_timeout, Some(Duration::from_secs(1)));
    assert_eq!(settings.tcp_user_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(settings.keepalives.idle, Some(Duration::from_secs(3)));
    assert_eq!((settings.keepalives.interval, settings.keepalives.count), (None, Some(4)));
    assert_eq!(super::tests::settings("connect_timeout=-1").connect_timeout, None);
    assert!(!super::tests::settings("keepalives=0").keepalives.enabled);
}

#[test]
fn what_cannot_be_done_is_refused() {
    for (string, error) in [
        ("sslmode=foo", "invalid sslmode value: \"foo\""),
        ("sslmode=''", "invalid sslmode value: \"\""),
        (
            "gssencmode=require",
            "connection option \"gssencmode\" with the value \"require\" is not supported",
        ),
        ("gssencmode=foo", "invalid gssencmode value: \"foo\""),
        ("sslkeylogfile=/tmp/k", "connection option \"sslkeylogfile\" is not supported"),
        ("oauth_issuer=https://x", "connection option \"oauth_issuer\" is not supported"),
        ("scram_client_key=abc", "connection option \"scram_client_key\" is not supported"),
        (
            "require_auth=gss",
            "require_auth \"gss\" cannot be satisfied: it allows no method that is supported",
        ),
        ("channel_binding=yes", "invalid channel_binding value: \"yes\""),
        ("target_session_attrs=master", "invalid target_session_attrs value: \"master\""),
        ("load_balance_hosts=1", "invalid load_balance_hosts value: \"1\""),
        ("sslcertmode=x", "invalid sslcertmode value: \"x\""),
        ("sslnegotiation=x", "invalid sslnegotiation value: \"x\""),
        ("connect_timeout=soon", "invalid integer value \"soon\" for connection option \"connect_timeout\""),
        ("ssl_min_protocol_version=SSLv3", "invalid ssl_min_protocol_version value: \"SSLv3\""),
        (
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "invalid SSL protocol version range",
        ),
        (
            "ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.1",
            "ssl_max_protocol_version \"TLSv1.1\" cannot be satisfied: TLSv1.2 is the oldest that pgwake speaks",
        ),
        ("min_protocol_version=3.1", "invalid min_protocol_version value: \"3.1\""),
        (
            "min_protocol_version=3.2 max_protocol_version=3.0",
            "\"min_protocol_version\" is greater than \"max_protocol_version\"",
        ),
        (
            "sslrootcert=system sslmode=require",
            "weak sslmode \"require\" may not be used with sslrootcert=system (use \"verify-full\")",
        ),
        (
            "sslnegotiation=direct",
            "weak sslmode \"prefer\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")",
        ),
    ] {
        assert_eq!(refusal(string), error, "{string}");
    }
    assert!(resolve("host=h", &FakeEnvironment::default().with_variable("PGGSSENCMODE", "require")).is_err());
    assert!(resolve("host=h", &FakeEnvironment::default().with_variable("PGSSLMODE", "strict")).is_err());
}

#[test]
fn what_changes_nothing_is_accepted() {
    settings(
        "sslcompression=1 krbsrvname=x gsslib=gssapi gssdelegation=1 gssencmode=disable replication=1 oauth_scope=''",
    );
}

#[test]
fn system_roots_imply_the_strictest_mode() {
    assert_eq!(settings("sslrootcert=system").tls.mode, SslMode::VerifyFull);
    assert_eq!(settings("sslrootcert=system").tls.roots, TlsRoots::System);
    let environment = FakeEnvironment::default().with_variable("PGSSLROOTCERT", "system");
    assert_eq!(resolve("host=h", &environment).unwrap().tls.mode, SslMode::VerifyFull);
    assert!(resolve("sslmode=prefer", &environment).is_err());
    assert_eq!(resolve("sslrootcert=/f", &environment).unwrap().tls.mode, SslMode::Prefer);
    let require = FakeEnvironment::default().with_variable("PGREQUIRESSL", "1");
    assert_eq!(resolve("host=h", &require).unwrap().tls.mode, SslMode::Require);
    assert_eq!(resolve("sslmode=disable", &require).unwrap().tls.mode, SslMode::Disable);
}

#[test]
fn passwords_come_from_the_string_or_the_file() {
    let file = "/run:5432:*:u:socket\nlocalhost:*:replication:u:default\nh:5432:d:u:host\n";
    let environment = FakeEnvironment::default().with_file("/home/me/.pgpass", 0o600, file);
    let password = |string: &str, database: &str| {
        let settings = resolve(string, &environment).unwrap();
        let found = settings.hosts.iter().map(|host| settings.password_for(host, database));
        found.map(|password| password.map(|password| password.expose().to_owned())).collect::<Vec<_>>()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(password("host=h,/run user=u", "d"), [some("host"), some("socket")]);
    assert_eq!(password("user=u", "replication"), [some("default")]);
    assert_eq!(password("host=/tmp user=u", "replication"), [some("default")]);
    assert_eq!(password("host=h user=u password=p", "d"), [some("p")]);
    assert_eq!(password("host=h user=u port=1", "d"), [None]);
    assert_eq!(password("hostaddr=127.0.0.1 host=h user=u", "d"), [some("host")]);
}

#[test]
fn keepalives_have_a_default_of_our_own_unless_anything_is_said_of_them() {
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    let of = |string: &str| settings(string).keepalives;
    let ours = Keepalives { enabled: true, idle: seconds(60), interval: seconds(10), count: Some(6) };
    assert_eq!(of("host=h"), ours);
    let said = Keepalives { enabled: true, idle: seconds(5), interval: None, count: None };
    assert_eq!(of("host=h keepalives_idle=5"), said);
    assert!(!of("host=h keepalives=0").enabled);
}

#[test]
fn pinned_settings_know_one_host_and_ask_no_more_than_that() {
    let file = "b:2:*:u:second\n*:*:*:u:other\n";
    let environment = FakeEnvironment::default().with_file("/home/me/.pgpass", 0o600, file);
    let string = "host=a,b port=1,2 user=u target_session_attrs=standby load_balance_hosts=random";
    let settings = resolve(string, &environment).unwrap();
    let address = HostAddress::Address("10.0.0.2".to_owned());
    let host = HostSpec { address, ..settings.hosts[1].clone() };
    let pinned = settings.pinned_to(&host);
    assert_eq!(pinned.hosts, [host]);
    assert_eq!(pinned.target_session_attrs, TargetSessionAttrs::Any);
    assert_eq!(pinned.load_balance_hosts, LoadBalanceHosts::Disable);
    let password = pinned.password_for(&pinned.hosts[0], "d").unwrap();
    assert_eq!(password.expose(), "second");
}

#[test]
fn a_password_file_that_others_can_read_is_told_of_and_not_used() {
    let environment = FakeEnvironment::default().with_file("/home/me/.pgpass", 0o644, "*:*:*:*:p");
    let settings = resolve("host=h", &environment).unwrap();
    assert_eq!(settings.password_for(&settings.hosts[0], "d"), None);
    assert_eq!(
        settings.warnings[0].to_string(),
        "password file \"/home/me/.pgpass\" has group or world access; permissions should be u=rw (0600) or less"
    );
}

#[test]
fn debug_shows_no_password() {
    let shown = format!("{:?}", settings("host=h password=hidden sslpassword=hidden"));
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn primary_conninfo_says_the_same_without_the_password() {
    let string = "host=a,b port=1,2 user='the user' password=hidden dbname=d replication=1 sslmode=verify-full \
                  sslrootcert=ca/root.crt sslcert=/c channel_binding=require require_auth=scram-sha-256 service='' \
                  keepalives_idle=5 application_name=mine fallback_application_name=x options='-c a=\\'b\\''";
    let environment = FakeEnvironment::default();
    let original = resolve(&string.replace(" service=''", ""), &environment).unwrap();
    let own = PrimaryConninfoOptions {
        major: 18,
        passfile: Some(Path::new("/data/.pgpass")),
        application_name: Some("standby 1"),
        dbname: None,
    };
    let line = original.to_primary_conninfo(&own, &environment).unwrap();
    assert_eq!(line.omitted, [""; 0]);
    assert_eq!(
        line.conninfo,
        "user='the user' passfile='/data/.pgpass' channel_binding=require host='a,b' port='1,2' \
         options='-c a=\\'b\\'' keepalives_idle=5 sslmode='verify-full' sslcert='/c' \
         sslrootcert='/srv/ca/root.crt' require_auth='scram-sha-256' application_name='standby 1'"
    );
    let again = resolve(&line.conninfo, &environment).unwrap();
    assert_eq!(again.hosts, original.hosts);
    assert_eq!(
        (&again.user, &again.options, &again.tls.mode),
        (&original.user, &original.options, &original.tls.mode)
    );
    assert_eq!(again.require_auth, original.require_auth);

    let files: Vec<_> = line.files().iter().map(|path| path.display().to_string()).collect();
    assert_eq!(files, ["/c", "/srv/ca/root.crt"]);
}

#[test]
fn what_an_older_libpq_does_not_know_is_left_out_unless_it_protects() {
    let at = |string: &str, major| {
        let own = PrimaryConninfoOptions { major, ..Default::default() };
        settings(string).to_primary_conninfo(&own, &FakeEnvironment::default())
    };
    for (option, since, fails) in [
        ("require_auth=scram-sha-256", 16, true),
        ("require_auth=!password,!oauth", 18, false),
        ("require_auth=!oauth", 18, false),
        ("sslcertmode=require", 16, true),
        ("sslcertmode=disable", 16, false),
        ("sslcrldir=/d", 14, true),
        ("sslrootcert=system", 16, true),
        ("sslnegotiation=direct", 17, false),
        ("target_session_attrs=primary", 14, false),
        ("target_session_attrs=prefer-standby", 14, false),
        ("load_balance_hosts=random", 16, false),
    ] {
        let keyword = option.split_once('=').unwrap().0;
        let value = option.split_once('=').unwrap().1;
        let string = format!("host=h {option} sslmode=verify-full");
        let new = at(&string, since).unwrap();
        assert_eq!(new.omitted, [""; 0], "{option}");
        assert!(ConnInfo::parse(&new.conninfo).unwrap().value(keyword) == Some(value), "{option}");
        match at(&string, since - 1) {
            Err(error) => assert!(fails && error.to_string().contains(option), "{option}: {error}"),
            Ok(old) => assert!(!fails && !old.conninfo.contains(value), "{option}: {}", old.conninfo),
        }
    }
    assert!(at("host=h target_session_attrs=read-write", 13).unwrap().omitted.is_empty());
    assert_eq!(at("host=h target_session_attrs=standby", 13).unwrap().omitted, ["target_session_attrs"]);
    let mixed = at("host=h require_auth=!password,!oauth", 17).unwrap().conninfo;
    assert_eq!(ConnInfo::parse(&mixed).unwrap().value("require_auth"), Some("!password"));
}

#[test]
fn a_standby_is_told_of_the_files_in_our_home() {
    let home = |name: &str| format!("/home/me/.postgresql/{name}");
    let names = ["root.crt", "root.crl", "postgresql.crt", "postgresql.key"];
    let environment = names
        .iter()
        .fold(FakeEnvironment::default(), |environment, name| environment.with_file(&home(name), 0o600, ""));
    let line = |string: &str, environment: &FakeEnvironment| {
        let own = PrimaryConninfoOptions { major: 18, ..Default::default() };
        resolve(string, environment).unwrap().to_primary_conninfo(&own, environment).unwrap()
    };
    for mode in ["allow", "prefer", "require", "verify-ca"] {
        let written = line(&format!("host=h sslmode={mode}"), &environment);
        let parsed = ConnInfo::parse(&written.conninfo).unwrap();
        for (keyword, name) in ["sslrootcert", "sslcrl", "sslcert", "sslkey"].into_iter().zip(names) {
            assert_eq!(parsed.value(keyword), Some(home(name).as_str()), "{mode}");
        }
        assert_eq!(written.files().len(), 4);
    }
    let quiet = |string: &str, environment: &FakeEnvironment| {
        let written = line(string, environment);
        assert!(!written.conninfo.contains(".postgresql") && written.files().is_empty(), "{written:?}");
    };
    quiet("host=h sslmode=disable", &environment);
    quiet("host=/run sslmode=require", &environment);
    quiet("host=h sslmode=require", &FakeEnvironment::default());
    let named = line("host=h sslrootcert=/r sslcrldir=/d sslcertmode=disable", &environment);
    assert_eq!(named.files(), [PathBuf::from("/r"), PathBuf::from("/d")]);
}

#[test]
fn primary_conninfo_is_short_when_nothing_was_asked() {
    let own = PrimaryConninfoOptions { major: 18, ..Default::default() };
    let line = |string: &str| {
        settings(string).to_primary_conninfo(&own, &FakeEnvironment::default()).unwrap().conninfo
    };
    assert_eq!(line("host=h"), "user=me host=h port=5432");
    let line = line("host=h sslmode=verify-ca");
    assert!(line.contains("sslrootcert='/home/me/.postgresql/root.crt'"), "{line}");
}

proptest! {
    #[test]
    fn primary_conninfo_reads_back(
        user in "[^\\x00]{1,12}", host in "[^\\x00,/@]{1,12}", port in 1u16.., options in "[^\\x00]{0,12}",
        name in "[^\\x00]{1,12}", passfile in "/[^\\x00]{1,12}",
    ) {
        let mut conninfo = ConnInfo::new();
        for (keyword, value) in [("user", &user), ("host", &host), ("port", &port.to_string()), ("options", &options)] {
            conninfo.set(keyword, value).unwrap();
        }
        let environment = FakeEnvironment::default();
        let original = Settings::resolve(&conninfo, &environment).unwrap();
        let own = PrimaryConninfoOptions {
            major: 13,
            passfile: Some(Path::new(&passfile)),
            application_name: Some(&name),
            dbname: Some("d"),
        };
        let again = resolve(&original.to_primary_conninfo(&own, &environment).unwrap().conninfo, &environment).unwrap();
        prop_assert_eq!(&again.hosts, &original.hosts);
        prop_assert_eq!((&again.user, &again.options), (&original.user, &original.options));
        prop_assert_eq!(again.application_name.as_ref(), Some(&name));
        prop_assert_eq!(again.passfile.path(), Path::new(&passfile));
    }

    #[test]
    fn no_string_panics(string in any::<String>()) {
        let _ = resolve(&string, &FakeEnvironment::default());
    }
}
