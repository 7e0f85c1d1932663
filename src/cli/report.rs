//! Errors and results as the user sees them: text on standard error, results on standard output.

use std::error::Error;
use std::io::Write as _;

use serde::{Serialize, Serializer};

use super::exit::Exit;
use super::hints;
use super::logging;
use crate::ErrorClass;
use crate::standby::error::CreateError;

/// Prints an error with its causes and, where there is one, what to do next; says how the program ends.
pub(super) fn failure(error: &(dyn Error + 'static), class: ErrorClass, json: bool) -> Exit {
    let exit = match class {
        ErrorClass::Transient | ErrorClass::Operator => Exit::Failed,
        ErrorClass::Integrity => Exit::Integrity,
        ErrorClass::Bug => Exit::Failed,
    };
    let mut report = Report::new(error, exit);
    if class == ErrorClass::Bug {
        report.hints.push("This is a defect of pgwake: please report it, with what -vv says.".to_owned());
    }
    print_report(&report, json);
    exit
}

/// A usage error that only shows once the arguments are looked at together.
pub(super) fn usage(error: &(dyn Error + 'static), json: bool) -> Exit {
    print_report(&Report::new(error, Exit::Usage), json);
    Exit::Usage
}

/// Arguments that clap cannot read, in its words; `origin` is where in a configuration file they come from.
pub(super) fn unreadable_arguments(error: &clap::Error, origin: Option<String>, json: bool) -> Exit {
    let told = error.to_string();
    let message = told.split("\n\n").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message).trim_end().to_owned();
    let exit_code = Exit::Usage.code();
    let report = Report { message, causes: Vec::new(), hints: origin.into_iter().collect(), exit_code };
    if logging::is_json() {
        print_report(&report, json);
        return Exit::Usage;
    }
    // when standard error is closed there is nobody to tell
    let _ = error.print();
    for hint in &report.hints {
        let _ = writeln!(std::io::stderr(), "hint: {hint}");
    }
    if json {
        // that it failed is told already
        let _ = print_json(&serde_json::json!({ "error": report }));
    }
    Exit::Usage
}

fn print_report(report: &Report, json: bool) {
    if logging::is_json() {
        report.log();
    } else {
        // when standard error is closed there is nobody to tell
        let _ = std::io::stderr().write_all(report.to_text().as_bytes());
    }
    if json {
        let _ = print_json(&serde_json::json!({ "error": report }));
    }
}

/// Prints a result as one line of JSON, and never nothing: an empty answer is no answer to a program.
#[must_use]
pub(super) fn print_json(value: &impl Serialize) -> Exit {
    print(&json_line(value))
}

/// A result as one line of JSON, with its end.
pub(super) fn json_line(value: &impl Serialize) -> String {
    let line = serde_json::to_string(value).unwrap_or_else(|error| {
        let message = format!("the result cannot be written as JSON: {error}");
        let report = Report { message, causes: Vec::new(), hints: Vec::new(), exit_code: Exit::Done.code() };
        serde_json::json!({ "error": report }).to_string()
    });
    harmless(line) + "\n"
}

/// JSON escapes the control characters of ASCII, but not those that a terminal obeys too: they only occur in strings,
/// and mean the same escaped.
fn harmless(line: String) -> String {
    if !line.contains(char::is_control) {
        return line;
    }
    let escaped = |character: char| match character.is_control() {
        true => format!("\\u{:04x}", u32::from(character)),
        false => character.to_string(),
    };
    line.chars().map(escaped).collect()
}

/// Prints a result, and says how the program ends: who counts on an answer that did not get where it should (a disk is
/// full) must hear of it.
#[must_use]
pub(super) fn print(text: &str) -> Exit {
    let mut stdout = std::io::stdout();
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// What came of printing. Nobody may be there to read it any more; what was done is done all the same.
pub(super) fn printed(result: std::io::Result<()>) -> Exit {
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            failure(&OutputError { source }, ErrorClass::Operator, false)
        }
        _ => Exit::Done,
    }
}

/// The answer is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error("could not write to standard output")]
pub(super) struct OutputError {
    pub(super) source: std::io::Error,
}

#[derive(Debug, Serialize)]
struct Report {
    message: String,
    causes: Vec<String>,
    /// For a program they are one text.
    #[serde(rename = "hint", serialize_with = "one_text")]
    hints: Vec<String>,
    exit_code: u8,
}

impl Report {
    fn new(error: &(dyn Error + 'static), exit: Exit) -> Self {
        let chain = causes(error);
        let mut messages: Vec<String> = chain.iter().map(|link| message(*link)).collect();
        drop_repeated(&mut messages);
        messages[0] = error.to_string();
        let message = messages.remove(0);
        Report { message, causes: messages, hints: hints::hints(&chain), exit_code: exit.code() }
    }

    /// Where every line of standard error is an object, this is one of them.
    fn log(&self) {
        let (causes, hint) = (self.causes.join(": "), self.hints.join(" "));
        let causes = Some(causes).filter(|causes| !causes.is_empty());
        let hint = Some(hint).filter(|hint| !hint.is_empty());
        tracing::error!(caused_by = causes, hint, exit_code = self.exit_code, "{}", self.message);
    }

    fn to_text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  caused by: {}\n", cause.replace('\n', "\n    ")));
        }
        for hint in &self.hints {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

fn one_text<S: Serializer>(hints: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    Some(hints.join(" ")).filter(|text| !text.is_empty()).serialize(serializer)
}

/// An error's own level where it is a cause. That all was removed after an interruption is true only where nothing is
/// said about what is left.
fn message(link: &(dyn Error + 'static)) -> String {
    match hints::create_error(link) {
        Some(CreateError::Interrupted(signal)) => format!("interrupted by {signal}"),
        _ => link.to_string(),
    }
}

/// Some libraries' errors say their causes themselves.
fn drop_repeated(messages: &mut Vec<String>) {
    messages.dedup_by(|cause, error| error.contains(&**cause));
}

/// An error and its causes, for the log.
pub(super) fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut messages: Vec<String> = causes(error).iter().map(ToString::to_string).collect();
    drop_repeated(&mut messages);
    messages.join(": ")
}

/// An error and all that caused it.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut link = error;
    while let Some(cause) = link.source() {
        chain.push(cause);
        link = cause;
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;
    use crate::standby::preflight::PreflightError;
    use crate::standby::workspace::WorkspaceError;

    #[test]
    fn an_error_is_told_with_its_causes_and_a_hint() {
        let error = PreflightError::Query { what: "wal_level", source: ClientError::Closed };
        let text = Report::new(&error, Exit::Failed).to_text();
        assert_eq!(
            text,
            "error: could not ask the server for wal_level\n  caused by: server closed the connection unexpectedly\n\
             hint: The server may have been stopped, or something between here and there cut the connection; its log says which.\n"
        );
    }

    #[test]
    fn json_commands_no_terminal() {
        let text = "a\u{9b}2J\x7f\x1b";
        let line = harmless(serde_json::to_string(text).unwrap());
        assert_eq!(line, r#""a\u009b2J\u007f\u001b""#);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    fn slot_left(source: CreateError) -> CreateError {
        let slot: crate::pg::SlotName = "standby1".parse().unwrap();
        let cause = Box::new(CreateError::DropSlotTimeout { slot: slot.clone() });
        CreateError::SlotLeft { slot, directory: "/d".into(), cause, source: Box::new(source) }
    }

    #[test]
    fn what_is_left_and_why_it_failed_are_both_to_be_mended() {
        let report = Report::new(&slot_left(CreateError::ReceiveBackup(ClientError::Closed)), Exit::Failed);
        let [left, failed] = &report.hints[..] else { panic!("{:?}", report.hints) };
        assert!(
            left.contains("Run the same command again")
                && left.contains("pg_drop_replication_slot('standby1')")
        );
        assert!(failed.starts_with("The server may have been stopped"));
        assert_eq!(report.to_text().matches("\nhint: ").count(), 2);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["hint"], format!("{left} {failed}"));
        let files_left = CreateError::FilesLeft {
            directory: "/d".into(),
            cause: WorkspaceError::NoName("/d".into()),
            source: Box::new(CreateError::SlotExists("standby1".parse().unwrap())),
        };
        let report = Report::new(&files_left, Exit::Failed);
        assert_eq!(report.hints.len(), 2, "{:?}", report.hints);
        assert!(serde_json::to_value(Report::new(&std::fmt::Error, Exit::Failed)).unwrap()["hint"].is_null());
    }

    #[test]
    fn all_was_removed_is_said_only_where_nothing_is_left() {
        let report = Report::new(&CreateError::Interrupted("SIGINT"), Exit::Failed);
        assert_eq!(report.message, "interrupted by SIGINT; everything that this run made has been removed");
        let report = Report::new(&slot_left(CreateError::Interrupted("SIGINT")), Exit::Failed);
        assert_eq!(report.causes, ["interrupted by SIGINT"]);
    }
}
