//! Bodies of the fuzz targets.

use std::io;
use std::path::{Path, PathBuf};

use super::conninfo::{ConnInfo, Environment, FileStatus, PrimaryConninfoOptions, Settings};
pub use super::tls::fuzz_certificate;

/// A connection string: no input panics, and what is understood survives being written as `primary_conninfo`.
pub fn fuzz_conninfo(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(conninfo) = ConnInfo::parse(text) else { return };
    let Ok(settings) = Settings::resolve(&conninfo, &NoEnvironment) else { return };
    let own = PrimaryConninfoOptions { major: u16::MAX, ..PrimaryConninfoOptions::default() };
    let line_of = |settings: &Settings| {
        settings.to_primary_conninfo(&own, &NoEnvironment).expect("nothing is too new for it").conninfo
    };
    let line = line_of(&settings);
    let again = ConnInfo::parse(&line).map(|conninfo| Settings::resolve(&conninfo, &NoEnvironment));
    let again = again.expect("our own line is well-formed").expect("our own line is understood");
    assert_eq!(line_of(&again), line);
    assert_eq!((&again.user, again.tls.mode), (&settings.user, settings.tls.mode));
    assert_eq!(
        (again.channel_binding, &again.require_auth),
        (settings.channel_binding, &settings.require_auth)
    );
    assert_eq!(again.password, None);
}

/// A file that says something: a service file, read for the service `s`, and a password file.
pub fn fuzz_configuration_files(data: &[u8]) {
    struct OneFile(String);
    impl Environment for OneFile {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "PGSERVICE").then(|| "s".to_owned())
        }
        fn read(&self, _path: &Path) -> io::Result<String> {
            Ok(self.0.clone())
        }
        fn status(&self, _path: &Path) -> io::Result<FileStatus> {
            Ok(FileStatus { is_file: true, mode: 0o600, owner: 0 })
        }
        fn home_dir(&self) -> Option<PathBuf> {
            NoEnvironment.home_dir()
        }
        fn user_name(&self) -> io::Result<String> {
            NoEnvironment.user_name()
        }
        fn current_dir(&self) -> io::Result<PathBuf> {
            NoEnvironment.current_dir()
        }
    }
    let files = OneFile(String::from_utf8_lossy(data).into_owned());
    if let Ok(settings) = Settings::resolve(&ConnInfo::new(), &files) {
        let _ = settings.password_for(&settings.hosts[0], "replication");
    }
}

/// Nothing is set and nothing is there.
struct NoEnvironment;

impl Environment for NoEnvironment {
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn status(&self, _path: &Path) -> io::Result<FileStatus> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn home_dir(&self) -> Option<PathBuf> {
        Some("/home".into())
    }
    fn user_name(&self) -> io::Result<String> {
        Ok("user".to_owned())
    }
    fn current_dir(&self) -> io::Result<PathBuf> {
        Ok("/".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn strings_of_real_options_survive(
            options in prop::collection::vec(("(host|hostaddr|port|user|password|sslmode|sslrootcert|sslcert|require_auth|channel_binding|options|passfile|target_session_attrs|keepalives_idle)",
                "(require|verify-ca|system|1|a,b|1,2|::1|scram-sha-256|!md5|/x|@y|'[ a\\\\']{0,3}'|[a-z/, ]{0,4})"), 0..6),
        ) {
            let text: Vec<String> = options.iter().map(|(keyword, value)| format!("{keyword}={value}")).collect();
            fuzz_conninfo(text.join(" ").as_bytes());
        }

        #[test]
        fn files_of_any_kind_are_read(text in "(\\[s\\]\n)?([a-z*:\\\\=]{0,8}\n){0,6}") {
            fuzz_configuration_files(text.as_bytes());
        }
    }
}
