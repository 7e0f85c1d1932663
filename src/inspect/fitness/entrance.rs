//! The way in: version, protection, password, the role's right, and `pg_hba.conf`, tried for real.

use std::net::IpAddr;

use super::finding::{Finding, Fix, Level, Needs, Place, shown};
use super::seen::{Refusal, RefusalKind, Seen, Trial};
use super::settings::capitalized;
use crate::client::Carrier;
use crate::inspect::hba::{HbaRule, Verdict, verdict};
use crate::inspect::role::StoredPassword;
use crate::pg::ServerVersion;
use crate::wire::auth::AuthMethod;
use crate::wire::command::{quote_identifier, quote_string};

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut findings = vec![version(seen)];
    findings.extend(sql(seen));
    findings.extend([encryption(seen), authentication(seen)]);
    findings.extend(role(seen));
    findings.push(entrance(seen));
    findings.extend(unreadable_rules(seen));
    findings
}

fn version(seen: &Seen) -> Finding {
    const CHECK: &str = "version";
    let version = seen.version;
    let standing = match seen.in_recovery {
        Some(true) => "a standby: the upstream of a cascade",
        Some(false) => "a primary",
        None => "whether it is a primary cannot be seen",
    };
    let found = format!("{version}, {standing}");
    if !version.is_supported() {
        let oldest = ServerVersion::OLDEST_SUPPORTED_MAJOR;
        let why = format!("pgwake speaks to servers from {oldest} on: upgrade the server.");
        return Finding::new(CHECK, Level::Problem, found, why);
    }
    if version.is_newer_than_tested() {
        let why = "It is newer than any that pgwake has been tested with: look for a newer pgwake.";
        return Finding::new(CHECK, Level::Warning, found, why);
    }
    Finding::ok(CHECK, found)
}

/// That much cannot be seen.
fn sql(seen: &Seen) -> Option<Finding> {
    let refused = seen.sql_refused.as_ref()?;
    let why = "Without SQL this role sees neither slots nor who receives WAL, neither rights nor rules, nor how fast \
               WAL is written. It can replicate without all that.";
    let found = Finding::new("SQL", Level::Unknown, format!("refused: {}", shown(&refused.message)), why);
    Some(match refused.kind {
        RefusalKind::Rules => found.mended_by(hba_fix(seen, "postgres", None)),
        _ => found,
    })
}

fn encryption(seen: &Seen) -> Finding {
    const CHECK: &str = "encryption";
    match seen.protection.carrier {
        Carrier::Local => Finding::ok(CHECK, "not needed: a Unix socket"),
        Carrier::Tls { version } => Finding::ok(CHECK, version),
        Carrier::Tcp if address(seen).is_some_and(|address| address.is_loopback()) => {
            Finding::ok(CHECK, "none, on the loopback interface")
        }
        Carrier::Tcp => {
            let why = "Everything in the database passes here in the clear, and may be changed on the way.";
            let found = Finding::new(CHECK, Level::Warning, "none", why);
            if seen.settings.is_on("ssl") == Some(true) {
                return found.mended_by(Fix::new(Place::Client, "sslmode=require", Needs::Nothing));
            }
            // a server that finds no certificate does not start any more
            let fix = Fix::set(&seen.settings, "ssl", "on", Needs::Reload).left_to_operator();
            let found = found.mended_by(fix);
            Finding {
                why: format!("{why} The server needs a certificate first (server.crt, server.key)."),
                ..found
            }
        }
    }
}

fn authentication(seen: &Seen) -> Finding {
    const CHECK: &str = "authentication";
    let carrier = seen.protection.carrier;
    let near = carrier == Carrier::Local || address(seen).is_some_and(|address| address.is_loopback());
    let found = match seen.protection.method {
        AuthMethod::ScramSha256 => return Finding::ok(CHECK, "SCRAM-SHA-256"),
        AuthMethod::Md5 => {
            let why = "Who reads the hash from the server can come in with it, and new servers give MD5 up.";
            let encryption = seen.settings.text("password_encryption");
            let mut found = Finding::new(CHECK, Level::Warning, "MD5", why);
            if encryption.is_some_and(|encryption| encryption != "scram-sha-256") {
                let fix = Fix::set(&seen.settings, "password_encryption", "scram-sha-256", Needs::Reload);
                found = found.mended_by(fix);
            }
            return found.mended_by(password_fix(seen));
        }
        AuthMethod::Password if carrier == Carrier::Tcp && !near => {
            let why = "The password passes in the clear.";
            let fix = hba_fix(seen, "replication", None).left_to_operator();
            return Finding::new(CHECK, Level::Warning, "a password in the clear", why).mended_by(fix);
        }
        AuthMethod::Password => "a password",
        _ => "none was asked for (trust, peer or a certificate)",
    };
    match (seen.protection.method, carrier) {
        (AuthMethod::None, Carrier::Tcp) if !near => {
            let why = "Whoever reaches the server over the network comes in as this role.";
            let fix = hba_fix(seen, "replication", None).left_to_operator();
            Finding::new(CHECK, Level::Warning, found, why).mended_by(fix)
        }
        _ => Finding::ok(CHECK, found),
    }
}

/// A password that is set again is stored anew; the one to be set is not ours to print.
fn password_fix(seen: &Seen) -> Fix {
    let line = format!("ALTER ROLE {} PASSWORD {};", quote_identifier(user(seen)), quote_string("…"));
    Fix::sql(line).left_to_operator()
}

fn role(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "role";
    let name = shown(user(seen));
    let refused = matches!(&seen.trial, Trial::Refused(refusal) if refusal.kind == RefusalKind::NotPermitted);
    match &seen.role {
        Some(role) if role.superuser => {
            let why =
                "A role that may only replicate is enough, and its password in a standby's files opens less.";
            Some(Finding::ok(CHECK, format!("\"{name}\", a superuser")).because(why))
        }
        Some(role) if role.may_replicate() && !refused => {
            Some(Finding::ok(CHECK, format!("\"{name}\" may replicate")))
        }
        None if !refused => Some(Finding::ok(CHECK, format!("\"{name}\" may replicate (tried)"))),
        _ => {
            let fix = Fix::sql(format!("ALTER ROLE {} REPLICATION;", quote_identifier(user(seen))));
            let why = "Only a role with the REPLICATION attribute, or a superuser, gets WAL.";
            let found = format!("\"{name}\" may not replicate");
            Some(Finding::new(CHECK, Level::Problem, found, why).mended_by(fix))
        }
    }
}

const HBA: &str = "pg_hba.conf";

fn entrance(seen: &Seen) -> Finding {
    let from = match address(seen) {
        Some(address) => format!("from {address}"),
        None if seen.protection.carrier == Carrier::Local => "over the Unix socket".to_owned(),
        None => "from here".to_owned(),
    };
    let role = seen.role.as_ref();
    let met =
        seen.rules.as_deref().zip(role).map(|(rules, role)| verdict(rules, role, seen.protection.carrier));
    let name = shown(user(seen));
    match &seen.trial {
        Trial::LetIn => let_in(seen, format!("lets \"{name}\" replicate {from} (tried)"), met),
        Trial::Refused(refusal) => match refusal.kind {
            RefusalKind::Rules => refused(seen, refusal, met),
            // authentication came first, and was passed
            RefusalKind::NotPermitted => let_in(seen, format!("lets \"{name}\" in {from} (tried)"), met),
            RefusalKind::Full => {
                let why = format!(
                    "A connection was refused before the rules were looked at: {}.",
                    shown(&refusal.message)
                );
                Finding::new(HBA, Level::Unknown, format!("not tried {from}"), why)
            }
            RefusalKind::Password => {
                let why = format!(
                    "The rules ask for a password that was not given, or is wrong: {}. In the password file the \
                     database of a replication connection is called \"replication\".",
                    shown(&refusal.message)
                );
                Finding::new(HBA, Level::Problem, format!("asks for another password {from}"), why)
                    .mended_by(password_fix(seen))
            }
            RefusalKind::Other => {
                Finding::new(HBA, Level::Problem, format!("not passed {from}"), shown(&refusal.message))
            }
        },
    }
}

fn let_in(seen: &Seen, found: String, met: Option<Verdict<'_>>) -> Finding {
    match met {
        Some(Verdict::Rule(rule)) if rule.method != "reject" => {
            Finding::ok(HBA, found).because(format!("By {}: {}", place(rule), written(rule)))
        }
        Some(Verdict::Perhaps(_)) => Finding::ok(HBA, found),
        Some(Verdict::NoRule | Verdict::Rule(_)) => {
            let why = "The file has changed since the server read it: by what it says now, this role is refused after \
                       the next reload.";
            let before = match met {
                Some(Verdict::Rule(rule)) => Some(rule.line),
                _ => None,
            };
            Finding::new(HBA, Level::Warning, found, why).mended_by(hba_fix(seen, "replication", before))
        }
        None => Finding::ok(HBA, found).because("This role may not read the rules themselves."),
    }
}

/// Methods that a refusal of this kind does not come from.
const PASSWORD_METHODS: [&str; 4] = ["trust", "scram-sha-256", "md5", "password"];

fn refused(seen: &Seen, refusal: &Refusal, met: Option<Verdict<'_>>) -> Finding {
    let found = shown(&refusal.message);
    let problem = |why: String| Finding::new(HBA, Level::Problem, found.clone(), why);
    let needed =
        "A line with the database \"replication\" has to let this role in; \"all\" does not mean it.";
    match met {
        Some(Verdict::Rule(rule)) if rule.method == "reject" => {
            let why = format!("{} rejects it: {}", capitalized(&place(rule)), written(rule));
            problem(why).mended_by(hba_fix(seen, "replication", Some(rule.line)))
        }
        Some(Verdict::Rule(rule)) if PASSWORD_METHODS.contains(&rule.method.as_str()) => {
            let why = format!(
                "{} would let it in, but the server has not read it yet: {}",
                capitalized(&place(rule)),
                written(rule)
            );
            problem(why).mended_by(Fix::sql("SELECT pg_reload_conf();"))
        }
        Some(Verdict::Rule(rule) | Verdict::Perhaps(rule)) => {
            let why = format!("It met, or may have met, {}: {}", place(rule), written(rule));
            problem(why).mended_by(hba_fix(seen, "replication", Some(rule.line)))
        }
        Some(Verdict::NoRule) => problem(needed.to_owned()).mended_by(hba_fix(seen, "replication", None)),
        None => {
            let why = format!(
                "{needed} This role may not read the rules that are there: put the line before them."
            );
            problem(why).mended_by(hba_fix(seen, "replication", None))
        }
    }
}

/// With a line that it cannot read, a server that runs goes on with its old rules, and one that is started does not
/// start.
fn unreadable_rules(seen: &Seen) -> Option<Finding> {
    let rule = seen.rules.as_ref()?.iter().find(|rule| rule.error.is_some())?;
    let error = shown(rule.error.as_deref().unwrap_or_default());
    let why =
        "The server goes on with the rules it has, whatever is changed there, and does not start again.";
    Some(Finding::new(HBA, Level::Warning, format!("{} cannot be read: {error}", place(rule)), why))
}

/// The line that lets this role in from here.
fn hba_fix(seen: &Seen, database: &str, before: Option<u32>) -> Fix {
    let user = user(seen);
    let plain = user.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && user.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && user != "all";
    let user = if plain { user.to_owned() } else { quote_identifier(user) };
    let kind = match seen.protection.carrier {
        Carrier::Local => "local",
        Carrier::Tcp => "host",
        Carrier::Tls { .. } => "hostssl",
    };
    let address = match address(seen) {
        Some(address @ IpAddr::V4(_)) => format!(" {address}/32"),
        Some(address @ IpAddr::V6(_)) => format!(" {address}/128"),
        None if kind == "local" => String::new(),
        None => " ADDRESS/32".to_owned(),
    };
    let line = format!("{kind} {database} {user}{address} {}", password_method(seen));
    Fix::new(Place::Hba, line, Needs::Reload).before(before)
}

/// The best method that the password allows as the server keeps it, or, where nobody can see that, as the server
/// would keep a new one. `md5` takes what is kept for SCRAM, too, and speaks SCRAM then.
fn password_method(seen: &Seen) -> &'static str {
    let stored = seen.role.as_ref().and_then(|role| role.password).or(match seen.protection.method {
        AuthMethod::ScramSha256 => Some(StoredPassword::Scram),
        AuthMethod::Md5 => Some(StoredPassword::Md5),
        _ => None,
    });
    let encryption = seen.settings.text("password_encryption");
    match stored {
        Some(StoredPassword::Scram) => "scram-sha-256",
        Some(StoredPassword::Md5) => "md5",
        _ if encryption.is_none_or(|encryption| encryption == "scram-sha-256") => "scram-sha-256",
        _ => "md5",
    }
}

fn place(rule: &HbaRule) -> String {
    match &rule.file {
        Some(file) => format!("line {} of {}", rule.line, shown(file)),
        None => format!("line {}", rule.line),
    }
}

/// A rule as it may have been written.
fn written(rule: &HbaRule) -> String {
    let mut words = vec![rule.kind.clone(), rule.databases.join(","), rule.roles.join(",")];
    words.extend(rule.address.clone());
    words.extend(rule.netmask.clone());
    words.push(rule.method.clone());
    shown(&words.join(" "))
}

fn address(seen: &Seen) -> Option<IpAddr> {
    seen.address
}

fn user(seen: &Seen) -> &str {
    seen.role.as_ref().map_or(seen.user.as_str(), |role| &role.name)
}
