//! Synchronous commit: whom it waits for, who of them is there, and what happens if one goes.

use super::finding::{Finding, Fix, Level, Needs, shown};
use super::{Job, Seen};
use crate::inspect::overrides::Override;
use crate::inspect::replication::Downstream;
use crate::inspect::settings::Origin;
use crate::inspect::sync_standbys::{Standing, SyncMethod, SyncStandbys, list};
use crate::wire::command::quote_identifier;

const NAMES: &str = "synchronous_standby_names";
const COMMIT: &str = "synchronous_commit";

pub(super) fn findings(seen: &Seen, job: Job) -> Vec<Finding> {
    let text = seen.settings.text(NAMES).unwrap_or_default();
    let commit = seen.settings.text(COMMIT).unwrap_or_default();
    if seen.in_recovery == Some(true) {
        return standby(text, job);
    }
    if text.is_empty() {
        let mut findings = vec![commit_level(seen, commit, job, false)];
        findings.extend(overridden(seen, job, false));
        findings.push(nobody_named(seen, job));
        return findings;
    }
    let mut findings = vec![commit_level(seen, commit, job, true)];
    findings.extend(overridden(seen, job, true));
    let names: SyncStandbys = match text.parse() {
        Ok(names) => names,
        Err(_) => {
            let why = "pgwake cannot read it, though the server can: who counts is not known.";
            findings.push(Finding::new(NAMES, Level::Unknown, shown(text), why));
            return findings;
        }
    };
    findings.extend(match visible(seen) {
        Some(walsenders) => named(seen, &names, walsenders, commit),
        None => {
            let why = "This role may not see who of them is there. GRANT pg_monitor shows it.";
            let found = format!("{}: {}", shown(text), rule(&names));
            vec![Finding::new(NAMES, Level::Unknown, found, why).mended_by(see_more(seen))]
        }
    });
    findings
}

/// A standby waits for nobody.
fn standby(text: &str, job: Job) -> Vec<Finding> {
    if job != Job::Synchronous {
        return vec![Finding::ok(NAMES, "of no effect on a standby")];
    }
    let why = "Commits wait on the primary, and only for those that receive from it directly: connect there.";
    let found = if text.is_empty() { "of no effect on a standby".to_owned() } else { shown(text) };
    vec![Finding::new(NAMES, Level::Problem, found, why)]
}

/// Those who receive, where this role may know what they do.
fn visible(seen: &Seen) -> Option<&[Downstream]> {
    let walsenders = seen.walsenders.as_deref()?;
    let sees = seen.role.as_ref().is_some_and(|role| role.sees_activity);
    (sees || walsenders.is_empty()).then_some(walsenders)
}

fn see_more(seen: &Seen) -> Fix {
    let user = seen.role.as_ref().map_or(&seen.user, |role| &role.name);
    let role = crate::wire::command::quote_identifier(user);
    Fix::sql(format!("GRANT pg_monitor TO {role};")).left_to_operator()
}

/// Whether a commit waits for anybody at this level.
fn waits(commit: &str) -> bool {
    !matches!(commit, "off" | "local")
}

fn commit_level(seen: &Seen, commit: &str, job: Job, named: bool) -> Finding {
    let found = match commit {
        "off" => "off: a commit waits for no disk at all",
        "local" => "local: a commit waits for this server's disk only",
        "remote_write" => "remote_write: a commit waits until a standby has the WAL in memory",
        "on" => "on: a commit waits until its WAL is durable here, and on standbys that are named",
        "remote_apply" => "remote_apply: a commit waits until a standby has applied it",
        other => return Finding::ok(COMMIT, shown(other)),
    };
    let own = seen.settings.get(COMMIT).is_some_and(|setting| setting.origin == Origin::Session);
    let why = match (own, &seen.overrides) {
        (true, _) => {
            "That is this session's own value (its role's, its database's or the connection string's); the \
                      server's is not seen from here."
        }
        (false, Some(overrides)) if overrides.is_empty() => "No role and no database has a value of its own.",
        (false, Some(_)) => "Some roles or databases have a value of their own.",
        (false, None) => "Roles and databases may have a value of their own.",
    };
    if waits(commit) || !(named || job == Job::Synchronous) {
        return Finding::ok(COMMIT, found).because(why);
    }
    let level = if job == Job::Synchronous { Level::Problem } else { Level::Warning };
    let why = format!("No standby is waited for, whoever is named. {why}");
    let finding = Finding::new(COMMIT, level, found, why);
    // what the role or the database has set goes before what the server has
    if own { finding } else { finding.mended_by(Fix::set(&seen.settings, COMMIT, "on", Needs::Reload)) }
}

/// More than these are not listed one by one.
const MAX_OVERRIDES: usize = 20;

/// Roles and databases whose commits wait for nobody, whatever the server's setting says.
fn overridden(seen: &Seen, job: Job, named: bool) -> Vec<Finding> {
    if !(named || job == Job::Synchronous) {
        return Vec::new();
    }
    let found = |own: &Override| {
        let found = format!("{}, of {}", shown(&own.value), shown(&whose(own)));
        let why = "Commits there wait for no standby, unless a session says otherwise.";
        Finding::new(COMMIT, Level::Warning, found, why).mended_by(reset(own))
    };
    let overrides = seen.overrides.as_deref().unwrap_or_default().iter();
    overrides.filter(|own| !waits(&own.value)).take(MAX_OVERRIDES).map(found).collect()
}

fn whose(own: &Override) -> String {
    match (&own.role, &own.database) {
        (Some(role), Some(database)) => format!("role \"{role}\" in database \"{database}\""),
        (Some(role), None) => format!("role \"{role}\""),
        (None, Some(database)) => format!("database \"{database}\""),
        (None, None) => "everybody".to_owned(),
    }
}

/// Somebody has set it with a purpose: whether it still holds, only the operator knows.
fn reset(own: &Override) -> Fix {
    let quoted = |name: &Option<String>| name.as_deref().map(quote_identifier);
    let whose = match (quoted(&own.role), quoted(&own.database)) {
        (Some(role), Some(database)) => format!("ROLE {role} IN DATABASE {database}"),
        (Some(role), None) => format!("ROLE {role}"),
        (None, Some(database)) => format!("DATABASE {database}"),
        (None, None) => "ROLE ALL".to_owned(),
    };
    Fix::sql(format!("ALTER {whose} RESET {COMMIT};")).left_to_operator()
}

fn nobody_named(seen: &Seen, job: Job) -> Finding {
    let found = "empty: no commit waits for a standby";
    if job != Job::Synchronous {
        return Finding::ok(NAMES, found);
    }
    let why = "The receiver has to be named here by its application_name";
    let streaming: Vec<&str> = visible(seen)
        .unwrap_or_default()
        .iter()
        .filter(|walsender| walsender.can_confirm() && walsender.application_name != "*")
        .map(|walsender| walsender.application_name.as_str())
        .collect();
    let finding = |why: String| Finding::new(NAMES, Level::Problem, found, why);
    if streaming.is_empty() {
        let why = format!("{why}. Start it first: from then on every commit waits for it.");
        let fix = Fix::set(&seen.settings, NAMES, "ANY 1 (pgwake)", Needs::Reload);
        return finding(why).mended_by(fix.left_to_operator());
    }
    let mut names = streaming;
    names.sort_unstable();
    names.dedup();
    let value = format!("ANY 1 ({})", list(&names));
    let fix = Fix::set(&seen.settings, NAMES, &value, Needs::Reload);
    finding(format!("{why}; these are streaming.")).mended_by(fix)
}

fn named(seen: &Seen, names: &SyncStandbys, walsenders: &[Downstream], commit: &str) -> Vec<Finding> {
    let standing = names.standing(walsenders);
    let spare = names.spare(&standing);
    let found = format!("{names}: {}; {}", rule(names), who(&standing));
    let found = shown_long(&found);
    let finding = match spare {
        ..0 if !waits(commit) => {
            let why = "Commits that ask for it wait now, and until enough of them are there.";
            Finding::new(NAMES, Level::Warning, found, why)
        }
        ..0 => {
            let missing = spare.unsigned_abs();
            let why = format!(
                "Every commit waits now, until {missing} more of them stream{}. Taking names off the list gives up what \
                 they were named for.",
                if missing == 1 { "s" } else { "" }
            );
            let fix = Fix::set(&seen.settings, NAMES, &smaller(names, &standing), Needs::Reload);
            Finding::new(NAMES, Level::Problem, found, why).mended_by(fix.left_to_operator())
        }
        0 => {
            let why = "None can be spared: if one of them goes, every commit waits until it is back.";
            Finding::new(NAMES, Level::Warning, found, why)
        }
        _ => Finding::ok(NAMES, found).because(if_one_goes(names, spare)),
    };
    let mut findings = vec![finding];
    if spare >= 0 {
        findings.extend(remote_apply(seen, names, &standing, commit));
    }
    findings
}

fn if_one_goes(names: &SyncStandbys, spare: i64) -> String {
    let next = match names.method {
        SyncMethod::First => "the next of the list takes its place",
        SyncMethod::Any => "the others are enough",
    };
    format!("If one of them goes, {next}; {spare} can be spared.")
}

/// What is left to wait for when those that are not there are taken off.
fn smaller(names: &SyncStandbys, standing: &Standing<'_>) -> String {
    let there: Vec<String> = names
        .names
        .iter()
        .filter(|name| !standing.absent.contains(&name.as_str()) && *name != "*")
        .cloned()
        .collect();
    let count = u32::try_from(there.len()).unwrap_or(names.count);
    match count {
        0 => String::new(),
        _ => SyncStandbys { method: names.method, count: names.count.min(count), names: there }.to_string(),
    }
}

fn rule(names: &SyncStandbys) -> String {
    let SyncStandbys { method, count, .. } = names;
    match (method, names.names.iter().any(|name| name == "*")) {
        (_, true) => format!("any {count} of those that stream, by this order"),
        (SyncMethod::Any, _) => format!("any {count} of these {}", names.names.len()),
        (SyncMethod::First, _) => format!("the first {count} of these {} that are there", names.names.len()),
    }
}

fn who(standing: &Standing<'_>) -> String {
    let there: Vec<&str> =
        standing.there.iter().map(|walsender| walsender.application_name.as_str()).collect();
    let there = if there.is_empty() { "nobody".to_owned() } else { list(&there) };
    match &standing.absent[..] {
        [] => format!("there: {there}"),
        absent => format!("there: {there}; not there: {}", list(absent)),
    }
}

fn remote_apply(seen: &Seen, names: &SyncStandbys, standing: &Standing<'_>, commit: &str) -> Option<Finding> {
    const CHECK: &str = "remote_apply";
    const REMOTE_APPLY: &str = "remote_apply";
    let receivers: Vec<&str> = names
        .waited_for(standing)
        .iter()
        .filter(|walsender| walsender.never_applies())
        .map(|walsender| walsender.application_name.as_str())
        .collect();
    if receivers.is_empty() {
        return None;
    }
    let found =
        format!("{} only keeps WAL, and never says that it has applied any", shown(&list(&receivers)));
    if names.can_apply(standing) {
        let why =
            "Standbys that apply are enough for a commit with remote_apply as long as all of them are there.";
        return Some(Finding::ok(CHECK, found).because(why));
    }
    let why = "A commit with synchronous_commit = remote_apply waits for ever.";
    let overrides = seen.overrides.as_deref().unwrap_or_default();
    if let (false, Some(own)) =
        (commit == REMOTE_APPLY, overrides.iter().find(|own| own.value == REMOTE_APPLY))
    {
        let why = format!("{why} That is what {} has set.", shown(&whose(own)));
        return Some(Finding::new(CHECK, Level::Problem, found, why).mended_by(reset(own)));
    }
    if commit != REMOTE_APPLY {
        return Some(Finding::new(
            CHECK,
            Level::Warning,
            found,
            format!("{why} No session may ask for that."),
        ));
    }
    let fix = Fix::set(&seen.settings, COMMIT, "on", Needs::Reload);
    let why = format!("{why} That is what is set now.");
    Some(Finding::new(CHECK, Level::Problem, found, why).mended_by(fix))
}

/// Lists of names are long by nature.
fn shown_long(text: &str) -> String {
    text.split("; ").map(shown).collect::<Vec<_>>().join("; ")
}
