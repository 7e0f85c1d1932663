//! The service file: options under a name.
//!
//! Answers to `parseServiceInfo` and `parseServiceFile` in libpq's `fe-connect.c`. Departure: an `ldap` line is an
//! error here whatever the platform.

use std::io;
use std::path::{Path, PathBuf};

use super::{ConnInfo, ConnInfoError, Environment, options};

/// Where the system-wide file is when `PGSYSCONFDIR` does not say.
const SYSTEM_DIR: &str = "/etc/postgresql-common";

/// Fills in what the service says and nobody wrote.
pub(super) fn apply(conninfo: &mut ConnInfo, environment: &dyn Environment) -> Result<(), ConnInfoError> {
    let variable = |name| environment.variable(name);
    let Some(service) = conninfo.value("service").map(str::to_owned).or_else(|| variable("PGSERVICE")) else {
        return Ok(());
    };
    let named = conninfo.value("servicefile").map(str::to_owned).or_else(|| variable("PGSERVICEFILE"));
    if let Some(path) = named.map(PathBuf::from) {
        match environment.read(&path) {
            Ok(text) if apply_file(conninfo, &service, &path, &text)? => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ConnInfoError::ServiceFileNotFound { path });
            }
            Err(source) => return Err(ConnInfoError::ReadServiceFile { path, source }),
        }
    } else if let Some(home) = environment.home_dir()
        && apply_if_there(conninfo, &service, home.join(".pg_service.conf"), environment)?
    {
        return Ok(());
    }
    let system_dir = variable("PGSYSCONFDIR").map_or(PathBuf::from(SYSTEM_DIR), PathBuf::from);
    if apply_if_there(conninfo, &service, system_dir.join("pg_service.conf"), environment)? {
        return Ok(());
    }
    Err(ConnInfoError::ServiceNotFound { service })
}

fn apply_if_there(
    conninfo: &mut ConnInfo,
    service: &str,
    path: PathBuf,
    environment: &dyn Environment,
) -> Result<bool, ConnInfoError> {
    match environment.read(&path) {
        Ok(text) => apply_file(conninfo, service, &path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ConnInfoError::ReadServiceFile { path, source }),
    }
}

/// Reads one file; the answer is whether it defines the service.
fn apply_file(
    conninfo: &mut ConnInfo,
    service: &str,
    path: &Path,
    text: &str,
) -> Result<bool, ConnInfoError> {
    let mut found = false;
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0B'), index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found {
                break;
            }
            found = header.strip_prefix(service).is_some_and(|rest| rest.starts_with(']'));
        } else if found {
            apply_line(conninfo, line, path, number)?;
        }
    }
    Ok(found)
}

fn apply_line(conninfo: &mut ConnInfo, line: &str, path: &Path, number: usize) -> Result<(), ConnInfoError> {
    let path = || path.to_owned();
    if line.starts_with("ldap") {
        return Err(ConnInfoError::LdapService { path: path(), line: number });
    }
    let syntax = || ConnInfoError::ServiceSyntax { path: path(), line: number };
    let (keyword, value) = line.split_once('=').ok_or_else(syntax)?;
    let spec = options::find(keyword).ok_or_else(syntax)?;
    if matches!(spec.keyword, "service" | "servicefile") {
        return Err(ConnInfoError::NestedService { keyword: spec.keyword, path: path(), line: number });
    }
    if value.contains('\0') {
        return Err(syntax());
    }
    conninfo.set_default(spec, value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::FakeEnvironment;
    use super::*;

    fn resolve(string: &str, environment: &FakeEnvironment) -> Result<ConnInfo, ConnInfoError> {
        let mut conninfo = ConnInfo::parse(string).unwrap();
        apply(&mut conninfo, environment)?;
        Ok(conninfo)
    }

    const FILE: &str =
        "# comment\n[other]\nhost=no\n\n [mine] \n  host=a b \nport=1\nport=2\ndbname=\n[mine]\nuser=no\n";

    #[test]
    fn a_service_fills_in_what_is_not_written() {
        let environment = FakeEnvironment::default().with_file("/home/me/.pg_service.conf", 0o644, FILE);
        let conninfo = resolve("service=mine port=5", &environment).unwrap();
        assert_eq!(conninfo.value("host"), Some("a b"));
        assert_eq!(conninfo.value("port"), Some("5"));
        assert_eq!(conninfo.value("dbname"), Some(""));
        assert_eq!(conninfo.value("user"), None);
        let conninfo = resolve("user=x", &environment.with_variable("PGSERVICE", "mine")).unwrap();
        assert_eq!((conninfo.value("port"), conninfo.value("user")), (Some("1"), Some("x")));
    }

    #[test]
    fn looks_where_libpq_looks() {
        let system = FakeEnvironment::default().with_file("/sys/pg_service.conf", 0o644, "[s]\nhost=sys\n");
        let system = system.with_variable("PGSYSCONFDIR", "/sys");
        assert_eq!(resolve("service=s", &system).unwrap().value("host"), Some("sys"));
        let own = system.clone().with_file("/home/me/.pg_service.conf", 0o644, "[s]\nhost=own\n");
        assert_eq!(resolve("service=s", &own).unwrap().value("host"), Some("own"));
        let named =
            own.with_file("/named", 0o644, "[s]\nhost=named\n").with_variable("PGSERVICEFILE", "/named");
        assert_eq!(resolve("service=s", &named).unwrap().value("host"), Some("named"));
        let missing = system.clone().with_variable("PGSERVICEFILE", "/missing");
        assert_eq!(
            resolve("service=s", &missing).unwrap_err().to_string(),
            "service file \"/missing\" not found"
        );
        let elsewhere = system.with_file("/f", 0o644, "[t]\n");
        assert_eq!(resolve("service=s servicefile=/f", &elsewhere).unwrap().value("host"), Some("sys"));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let resolve = |text| {
            let environment = FakeEnvironment::default().with_file("/home/me/.pg_service.conf", 0o644, text);
            resolve("service=s", &environment).unwrap_err().to_string()
        };
        assert_eq!(resolve("[t]\n"), "definition of service \"s\" not found");
        assert_eq!(
            resolve("[s]\nhost"),
            "syntax error in service file \"/home/me/.pg_service.conf\", line 2"
        );
        assert_eq!(
            resolve("[s]\nhots=a"),
            "syntax error in service file \"/home/me/.pg_service.conf\", line 2"
        );
        assert!(resolve("[s]\nservice=t").starts_with("nested \"service\" specifications not supported"));
        assert!(resolve("[s]\nldap://host/dn").starts_with("LDAP lookups are not supported"));
    }
}
