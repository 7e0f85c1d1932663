//! Asking for a password on the terminal.
//!
//! The terminal is read on a thread, so that a signal is seen while nobody types. What hides the input belongs to the
//! future, not to the thread: however the wait ends, the terminal shows again what is typed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::signals::Signals;
use crate::client::conninfo::Secret;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(super) enum PromptError {
    #[error("could not read a password from the terminal")]
    Terminal(#[from] io::Error),
    #[error("interrupted by {0} while a password was asked for")]
    Interrupted(&'static str),
    #[error("no password was typed")]
    Ended,
}

impl PromptError {
    /// Whether there was no terminal to ask on.
    pub(super) fn is_without_terminal(&self) -> bool {
        matches!(self, PromptError::Terminal(_))
    }
}

/// The longest password read, in bytes.
const MAX_PASSWORD_LEN: usize = 1024;

/// Asks for the password of `user`, without echo.
pub(super) async fn prompt_for(user: &str) -> Result<Secret, PromptError> {
    prompt(&format!("Password for user {user}: ")).await
}

/// Asks `question` on the terminal, without echo.
async fn prompt(question: &str) -> Result<Secret, PromptError> {
    let mut signals = Signals::listen()?;
    let mut terminal = open_terminal()?;
    let reader = terminal.try_clone()?;
    terminal.write_all(question.as_bytes())?;
    let hidden = Hidden::new(terminal)?;
    let line = line_from(reader, &mut signals).await;
    drop(hidden);
    Ok(Secret::new(line?.ok_or(PromptError::Ended)?))
}

/// Asks `question` on the terminal or, where there is none, on standard error, and reads the answer from standard
/// input: PostgreSQL's `simple_prompt`. `None` when the input ended before anything was typed.
pub(super) async fn prompt_anywhere(question: &str) -> Result<Option<Secret>, PromptError> {
    let mut signals = Signals::listen()?;
    let terminal = open_terminal().and_then(|terminal| Ok((terminal.try_clone()?, terminal)));
    let (reader, mut writer) = match terminal {
        Ok(both) => both,
        Err(_) => (duplicate(io::stdin())?, duplicate(io::stderr())?),
    };
    writer.write_all(question.as_bytes())?;
    let hidden = Hidden::new(reader.try_clone()?).ok();
    let line = line_from(reader, &mut signals).await;
    let shown_by_terminal = hidden.is_some();
    drop(hidden);
    if !shown_by_terminal {
        writeln!(writer)?;
    }
    Ok(line?.map(Secret::new))
}

fn open_terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

fn duplicate(stream: impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

/// A line, unless a signal comes first.
async fn line_from(reader: File, signals: &mut Signals) -> Result<Option<String>, PromptError> {
    tokio::select! {
        biased;
        signal = signals.received() => Err(PromptError::Interrupted(signal)),
        line = tokio::task::spawn_blocking(move || read_line(reader)) => Ok(line.map_err(io::Error::other)??),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden {
    terminal: File,
    shown: Termios,
}

impl Hidden {
    fn new(terminal: File) -> io::Result<Self> {
        let shown = tcgetattr(&terminal)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
        Ok(Hidden { terminal, shown })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // nothing can be done for a terminal that has gone away
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.shown);
        let _ = writeln!(self.terminal);
    }
}

/// `None` when the input ended (Ctrl-D) before anything was typed.
fn read_line(mut terminal: File) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_PASSWORD_LEN {
        match terminal.read(&mut byte)? {
            0 if line.is_empty() => return Ok(None),
            1 if byte[0] != b'\n' => line.push(byte[0]),
            _ => break,
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let line = String::from_utf8(line);
    line.map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "password is not valid UTF-8"))
}
