//! What PostgreSQL's tools have in common under their own names: options, messages, exit codes.
//!
//! Answers to `pg_logging`, `option_utils` and `streamutil` of PostgreSQL. Under these names every failure is exit
//! code 1, messages go to standard error behind the tool's name, and nothing is logged otherwise.

mod colours;
pub(super) mod compression;
pub(super) mod connection;
pub(super) mod getopt;
pub(super) mod mapping;
pub(super) mod slots;
pub(super) mod streaming;
pub(super) mod values;
mod warnings;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use colours::{Colours, Part};

/// The tool that this process was called as.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    /// Its name, which is in front of its messages.
    pub(super) name: &'static str,
    /// How it was called, which is in front of the C library's.
    pub(super) called_as: OsString,
    /// What came behind the name.
    pub(super) arguments: Vec<OsString>,
    /// How its messages are painted.
    colours: Colours,
}

/// What runs a tool.
type Run = fn(&Invocation) -> Result<(), Failed>;

/// The tools that there are.
const TOOLS: [(&str, Run); 4] = [
    ("pg_basebackup", super::pg_basebackup::run),
    ("pg_combinebackup", super::pg_combinebackup::run),
    ("pg_receivewal", super::pg_receivewal::run),
    ("pg_verifybackup", super::pg_verifybackup::run),
];

/// Their names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|(name, _)| *name)
}

/// The exit code is 1; everything is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed;

/// The version whose behaviour the tools have. Scripts compare it with the server's.
const POSTGRESQL_VERSION: &str = "19.0";

/// Runs one of PostgreSQL's tools, if that is what was asked for: by the program's name, or as the first argument.
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program = arguments.next()?;
    let mut arguments: Vec<OsString> = arguments.collect();
    let base_name = Path::new(&program).file_name().unwrap_or(OsStr::new("")).to_owned();
    let tool = |name: &OsStr| TOOLS.iter().find(|(tool, _)| name == *tool);
    let (&(name, run), called_as) = match (tool(&base_name), arguments.first()) {
        (Some(found), _) => (found, program),
        (None, Some(first)) => (tool(first)?, arguments.remove(0)),
        (None, None) => return None,
    };
    let (when, which) = (std::env::var_os("PG_COLOR"), std::env::var_os("PG_COLORS"));
    let colours = Colours::new(when.as_deref(), which.as_deref(), std::io::stderr().is_terminal());
    let invocation = Invocation { name, called_as, arguments, colours };
    warnings::show(&invocation);
    Some(ExitCode::from(match run(&invocation) {
        Ok(()) => 0,
        Err(Failed) => 1,
    }))
}

impl Invocation {
    /// Whether help or the version was asked for, which counts only as the first argument; prints it.
    pub(super) fn answered(&self, help: &str) -> bool {
        let text = match self.arguments.first().and_then(|argument| argument.to_str()) {
            Some("--help" | "-?") => help.to_owned(),
            Some("--version" | "-V") => format!(
                "{} (PostgreSQL) {POSTGRESQL_VERSION} (pgwake {})\n",
                self.name,
                env!("CARGO_PKG_VERSION")
            ),
            _ => return false,
        };
        // a closed pipe is nobody's concern
        let _ = std::io::stdout().write_all(text.as_bytes());
        true
    }

    /// Gives every option to `take`, in order; returns the operands. What is wrong with an option is said.
    pub(super) fn options<K: Copy + PartialEq>(
        &self,
        short: &[getopt::ShortOption<K>],
        long: &[getopt::LongOption<K>],
        mut take: impl FnMut(K, OsString) -> Result<(), Failed>,
    ) -> Result<Vec<OsString>, Failed> {
        let mut getopt = getopt::Getopt::new(short, long, self.arguments.iter().cloned());
        while let Some(found) = getopt.next_option() {
            let found = found.map_err(|error| self.getopt_error(&error))?;
            take(found.key, found.value)?;
        }
        Ok(getopt.operands().to_vec())
    }

    /// Information, behind the name alone.
    pub(super) fn info(&self, text: impl fmt::Display) {
        self.say(None, text);
    }

    /// A warning.
    pub(super) fn warn(&self, text: impl fmt::Display) {
        self.say(Some((Part::Warning, "warning: ")), text);
    }

    /// An error. To be returned.
    pub(super) fn error(&self, text: impl fmt::Display) -> Failed {
        self.say(Some((Part::Error, "error: ")), text);
        Failed
    }

    /// More about what was said before.
    pub(super) fn detail(&self, text: impl fmt::Display) {
        self.say(Some((Part::Note, "detail: ")), text);
    }

    /// What to do about the error before it.
    pub(super) fn hint(&self, text: impl fmt::Display) {
        self.say(Some((Part::Note, "hint: ")), text);
    }

    /// A mistake on the command line.
    pub(super) fn usage_error(&self, text: impl fmt::Display) -> Failed {
        self.error(text);
        self.hint_help()
    }

    /// A mistake on the command line, in the C library's words.
    fn getopt_error(&self, error: &getopt::GetoptError) -> Failed {
        write_line(&format!("{}: {error}", self.called_as.display()));
        self.hint_help()
    }

    pub(super) fn hint_help(&self) -> Failed {
        self.hint(format!("Try \"{} --help\" for more information.", self.name));
        Failed
    }

    /// What libpq itself says, and servers say through it: without the tool's name.
    pub(super) fn raw(&self, text: impl fmt::Display) {
        write_line(&text.to_string());
    }

    fn say(&self, kind: Option<(Part, &str)>, text: impl fmt::Display) {
        let text = text.to_string();
        let name = self.colours.paint(Part::Locus, &format!("{}: ", self.name));
        let kind = kind.map_or_else(String::new, |(part, word)| self.colours.paint(part, word));
        write_line(&format!("{name}{kind}{}", text.strip_suffix('\n').unwrap_or(&text)));
    }
}

fn write_line(line: &str) {
    // when standard error is closed there is nobody to tell
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
