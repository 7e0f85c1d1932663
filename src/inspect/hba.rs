//! The rules of `pg_hba.conf`, and which of them a replication connection meets first.
//!
//! Answers to `check_hba` in PostgreSQL's `hba.c`. The view shows what is in the files now: the server goes by what it
//! has read last.

use std::net::IpAddr;

use super::role::Role;
use super::{InspectError, ask};
use crate::client::{Carrier, Sql};

/// A line of `pg_hba.conf`, or of a file that it includes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HbaRule {
    /// The file where it is not `pg_hba.conf` itself (16).
    pub file: Option<String>,
    /// Its line.
    pub line: u32,
    /// `local`, `host`, `hostssl` …
    pub kind: String,
    /// Databases, and words that stand for some.
    pub databases: Vec<String>,
    /// Roles, and words that stand for some.
    pub roles: Vec<String>,
    /// An address, a host's name, or `all`, `samehost`, `samenet`.
    pub address: Option<String>,
    /// The mask of an address.
    pub netmask: Option<String>,
    /// `trust`, `scram-sha-256`, `reject` …
    pub method: String,
    /// Why the server cannot read it.
    pub error: Option<String>,
}

/// What the rules say about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The first that fits.
    Rule(&'a HbaRule),
    /// Perhaps this one: whether it fits depends on names or networks that only the server knows.
    Perhaps(&'a HbaRule),
    /// None fits.
    NoRule,
}

/// Asks for the rules, in the order in which they are tried.
pub async fn hba_rules(sql: &Sql) -> Result<Vec<HbaRule>, InspectError> {
    let included = sql.version().has_included_hba_files();
    let file = match included {
        // current_setting() would be an error for a role that may not know
        true => "nullif(file_name, (SELECT setting FROM pg_settings WHERE name = 'hba_file'))",
        false => "NULL::text",
    };
    let order = if included { "rule_number NULLS LAST, line_number" } else { "line_number" };
    let question = format!(
        "SELECT {file}, line_number, type, database, user_name, address, netmask, auth_method, error \
         FROM pg_hba_file_rules() ORDER BY {order}"
    );
    ask(sql, "the rules of pg_hba.conf", &question, |row| {
        let text = |column| row.get::<Option<String>>(column).map(Option::unwrap_or_default);
        let list = |column| row.get::<Option<Vec<String>>>(column).map(Option::unwrap_or_default);
        let line: Option<i32> = row.get(1)?;
        Ok(HbaRule {
            file: row.get(0)?,
            line: line.and_then(|line| u32::try_from(line).ok()).unwrap_or_default(),
            kind: text(2)?,
            databases: list(3)?,
            roles: list(4)?,
            address: row.get(5)?,
            netmask: row.get(6)?,
            method: text(7)?,
            error: row.get(8)?,
        })
    })
    .await
}

/// Whether a rule fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Unknown,
}

/// Which rule a physical replication connection of this role meets.
pub fn verdict<'a>(rules: &'a [HbaRule], role: &Role, carrier: Carrier) -> Verdict<'a> {
    for rule in rules.iter().filter(|rule| rule.error.is_none()) {
        let fits = [
            kind_fits(rule, carrier),
            // "all" is not meant: only this word lets a physical replication connection in
            if rule.databases.iter().any(|database| database == "replication") { Fit::Yes } else { Fit::No },
            role_fits(rule, role),
            address_fits(rule, role.address),
        ];
        if fits.iter().all(|fit| *fit == Fit::Yes) {
            return Verdict::Rule(rule);
        }
        if !fits.contains(&Fit::No) {
            return Verdict::Perhaps(rule);
        }
    }
    Verdict::NoRule
}

fn kind_fits(rule: &HbaRule, carrier: Carrier) -> Fit {
    let fits = matches!(
        (rule.kind.as_str(), carrier),
        ("local", Carrier::Local)
            | ("host" | "hostnogssenc", Carrier::Tcp | Carrier::Tls { .. })
            | ("hostssl", Carrier::Tls { .. })
            | ("hostnossl", Carrier::Tcp)
    );
    if fits { Fit::Yes } else { Fit::No }
}

fn role_fits(rule: &HbaRule, role: &Role) -> Fit {
    let mut fit = Fit::No;
    for name in &rule.roles {
        let fits = match name.strip_prefix('+') {
            Some(group) => role.member_of.iter().any(|member| member == group),
            None => name == "all" || *name == role.name,
        };
        if fits {
            return Fit::Yes;
        }
        if name.starts_with('/') {
            fit = Fit::Unknown;
        }
    }
    fit
}

fn address_fits(rule: &HbaRule, client: Option<IpAddr>) -> Fit {
    let Some(client) = client else { return Fit::Yes };
    match rule.address.as_deref() {
        Some("all") => Fit::Yes,
        None => Fit::No,
        Some(address) => match (address.parse(), rule.netmask.as_deref().map(str::parse)) {
            (Ok(IpAddr::V4(network)), Some(Ok(IpAddr::V4(mask)))) => match client {
                IpAddr::V4(client) if client & mask == network & mask => Fit::Yes,
                _ => Fit::No,
            },
            (Ok(IpAddr::V6(network)), Some(Ok(IpAddr::V6(mask)))) => match client {
                IpAddr::V6(client) if client & mask == network & mask => Fit::Yes,
                _ => Fit::No,
            },
            _ => Fit::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(line: u32, kind: &str, database: &str, role: &str, address: &str, netmask: &str) -> HbaRule {
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        HbaRule {
            line,
            kind: kind.to_owned(),
            databases: vec![database.to_owned()],
            roles: vec![role.to_owned()],
            address: set(address),
            netmask: set(netmask),
            method: "trust".to_owned(),
            ..HbaRule::default()
        }
    }

    fn line(rules: &[HbaRule], role: &Role, carrier: Carrier) -> (u32, bool) {
        match verdict(rules, role, carrier) {
            Verdict::Rule(rule) => (rule.line, true),
            Verdict::Perhaps(rule) => (rule.line, false),
            Verdict::NoRule => (0, true),
        }
    }

    #[test]
    fn the_first_rule_that_fits_is_found() {
        let rose = |address: &str| Role {
            name: "rose".to_owned(),
            member_of: vec!["rose".to_owned(), "flowers".to_owned()],
            address: address.parse().ok(),
            ..Role::default()
        };
        let rules = [
            HbaRule { error: Some("nonsense".to_owned()), ..rule(1, "local", "replication", "all", "", "") },
            rule(2, "local", "all", "all", "", ""),
            rule(3, "local", "replication", "walter", "", ""),
            rule(4, "local", "replication", "+flowers", "", ""),
            rule(5, "hostssl", "replication", "rose", "10.0.0.0", "255.0.0.0"),
            rule(6, "hostnossl", "replication", "rose", "10.1.0.0", "255.255.0.0"),
            rule(7, "host", "replication", "all", "fe80::", "ffff::"),
            rule(8, "host", "replication", "/^ro", "192.168.0.0", "255.255.0.0"),
            rule(9, "host", "replication", "rose", "samenet", ""),
        ];
        let tls = Carrier::Tls { version: "TLSv1.3" };
        for (address, carrier, found) in [
            ("", Carrier::Local, (4, true)),
            ("10.2.3.4", tls, (5, true)),
            ("10.1.3.4", Carrier::Tcp, (6, true)),
            ("fe80::1", Carrier::Tcp, (7, true)),
            ("192.168.7.7", Carrier::Tcp, (8, false)),
            ("172.16.0.1", Carrier::Tcp, (9, false)),
        ] {
            assert_eq!(line(&rules, &rose(address), carrier), found, "{address} {carrier:?}");
        }
        assert_eq!(line(&rules[..8], &rose("172.16.0.1"), Carrier::Tcp), (0, true));
        assert_eq!(line(&[], &rose(""), Carrier::Local), (0, true));
        let walter = Role { name: "walter".to_owned(), ..Role::default() };
        assert_eq!(line(&rules, &walter, Carrier::Local), (3, true));
    }
}
