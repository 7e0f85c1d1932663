//! `primary_conninfo` as `pg_basebackup -R` writes it: all that the connection was made with.
//!
//! Answers to `GenerateRecoveryConfig` in PostgreSQL's `recovery_gen.c`, without departure: defaults are written out, and
//! a password that was given is in it. What `standby create` writes is in `primary`.

use super::options::OPTIONS;
use super::{Environment, Settings, keywords};

/// Options that the original leaves out; `dbname` comes last, and only when somebody gave it.
const LEFT_OUT: [&str; 3] = ["replication", "dbname", "fallback_application_name"];

impl Settings {
    /// The line for a server of version `major`, whose libpq knows no younger options. `dbname` is for slot
    /// synchronisation (17).
    pub fn to_recovery_conninfo(
        &self,
        major: u16,
        dbname: Option<&str>,
        environment: &dyn Environment,
    ) -> String {
        let known = OPTIONS.iter().filter(|spec| spec.since_major <= major);
        let mut words: Vec<String> = known
            .filter(|spec| !LEFT_OUT.contains(&spec.keyword))
            .filter_map(|spec| {
                let value = self.connected_with(spec.keyword, environment)?;
                Some(format!("{}={}", spec.keyword, keywords::quote(&value)))
            })
            .collect();
        words.extend(dbname.map(|name| format!("dbname={}", keywords::quote(name))));
        words.join(" ")
    }

    fn connected_with(&self, keyword: &str, environment: &dyn Environment) -> Option<String> {
        let resolved = || self.resolved.value(keyword).map(str::to_owned);
        let value = match keyword {
            "user" => Some(self.user.clone()),
            // it may have been typed
            "password" => self.password.as_ref().map(|password| password.expose().to_owned()),
            "passfile" => resolved().filter(|path| !path.is_empty()).or_else(|| {
                // libpq looks for the usual one only where no password was given
                if self.password.as_ref().is_some_and(|password| !password.expose().is_empty()) {
                    return None;
                }
                let home = environment.home_dir()?;
                Some(home.join(".pgpass").to_string_lossy().into_owned())
            }),
            _ => resolved(),
        };
        value.filter(|value| !value.is_empty())
    }

    /// The database that somebody named, in the environment or a service file: slot synchronisation connects to it.
    pub fn named_dbname(&self) -> Option<&str> {
        self.resolved.value("dbname").filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConnInfo;
    use super::super::environment::tests::FakeEnvironment;

    use super::*;

    #[test]
    fn everything_is_written_out() {
        let environment = FakeEnvironment::default().with_variable("PGDATABASE", "db");
        let conninfo = ConnInfo::parse("host=/run user=u password='a b'").unwrap();
        let settings = Settings::resolve(&conninfo, &environment).unwrap();
        let line = settings.to_recovery_conninfo(17, settings.named_dbname(), &environment);
        assert_eq!(
            line,
            "user=u password='a b' channel_binding=prefer host='/run' port=5432 \
             sslmode=prefer sslnegotiation=postgres sslcompression=0 sslcertmode=allow sslsni=1 \
             ssl_min_protocol_version=TLSv1.2 gssencmode=prefer krbsrvname=postgres gssdelegation=0 \
             target_session_attrs=any load_balance_hosts=disable dbname=db"
        );
        assert!(!settings.to_recovery_conninfo(15, None, &environment).contains("sslcertmode"));
    }

    #[test]
    fn the_usual_passfile_is_named_where_no_password_was_given() {
        let environment = FakeEnvironment::default();
        for (given, expected) in [
            ("user=u", Some(" passfile='/home/me/.pgpass' ")),
            ("user=u password=''", Some(" passfile='/home/me/.pgpass' ")),
            ("user=u password=x", None),
            ("user=u password=x passfile=/p", Some(" passfile='/p' ")),
        ] {
            let settings = Settings::resolve(&ConnInfo::parse(given).unwrap(), &environment).unwrap();
            let line = settings.to_recovery_conninfo(17, None, &environment);
            assert_eq!(line.contains("passfile"), expected.is_some(), "{line}");
            assert!(expected.is_none_or(|expected| line.contains(expected)), "{line}");
        }
    }
}
