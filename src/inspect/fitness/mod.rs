//! Is a server fit to feed a standby, an archive, a synchronous receiver?
//!
//! What was seen ([`Seen`]) becomes a list of findings without another question: a pure function, tested without a
//! server. A finding that is a warning or a problem says why it matters, and the line that mends it.

mod entrance;
mod finding;
mod seen;
mod settings;
mod slots;
mod synchronous;
#[cfg(test)]
mod tests;

pub use finding::{Finding, Fix, Level, Needs, Offer, Place};
pub use seen::{Refusal, RefusalKind, Seen, Trial};

/// What the server is to feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// A standby: a copy of the data directory first, then WAL.
    Standby,
    /// An archive of its WAL.
    Archive,
    /// A receiver, or a standby, that commits wait for.
    Synchronous,
}

impl Job {
    /// What it feeds, with its article.
    pub fn fed(self) -> &'static str {
        match self {
            Job::Standby => "a standby",
            Job::Archive => "an archive",
            Job::Synchronous => "a synchronous receiver",
        }
    }

    /// How many replication connections it needs at once: a copy and its WAL come on two.
    fn connections(self) -> u64 {
        match self {
            Job::Standby => 2,
            Job::Archive | Job::Synchronous => 1,
        }
    }
}

/// What follows from what was seen.
pub fn findings(seen: &Seen, job: Job) -> Vec<Finding> {
    let mut findings = entrance::findings(seen);
    findings.extend(settings::findings(seen, job));
    findings.extend(synchronous::findings(seen, job));
    findings.extend(slots::findings(seen));
    findings
}

/// Whether there is no problem among them.
pub fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Problem)
}
