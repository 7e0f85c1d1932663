//! A terminal that shows a screen and reports keys, until this is dropped.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

/// Another screen, no cursor, and lines that end at the edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";

/// All of that taken back.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The value of a special character that is none.
const NO_CHARACTER: u8 = 0;

/// The process's own terminal, with a screen of ours on standard output.
pub(super) struct Terminal {
    terminal: File,
    before: Termios,
    left: oneshot::Receiver<io::Result<()>>,
}

impl Terminal {
    /// Takes the screen. The signals that keys send are listened for by the caller; the one that would stop the process in
    /// the middle of the screen (Ctrl-Z) is not sent.
    ///
    /// Keys are read on a thread, which ends with the process at the latest.
    pub(super) fn enter() -> io::Result<Self> {
        let terminal = File::open("/dev/tty")?;
        let reader = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        raw.special_codes[SpecialCodeIndex::VSUSP] = NO_CHARACTER;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        let (leave, left) = oneshot::channel();
        let terminal = Terminal { terminal, before, left };
        tcsetattr(&terminal.terminal, OptionalActions::Now, &raw)?;
        terminal.show(ENTER)?;
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            // nobody waits any more when this fails
            let _ = leave.send(read_until_leave(reader));
        })?;
        Ok(terminal)
    }

    /// Writes to the screen.
    pub(super) fn show(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    }

    /// Waits for a key that means "leave", or for the terminal to go away.
    pub(super) async fn left(&mut self) -> io::Result<()> {
        (&mut self.left).await.map_err(io::Error::other)?
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // nothing can be done for a terminal that has gone away
        let _ = self.show(LEAVE);
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn read_until_leave(mut terminal: File) -> io::Result<()> {
    let mut typed = [0; 64];
    loop {
        match terminal.read(&mut typed) {
            Ok(0) => return Ok(()),
            Ok(count) if typed[..count].iter().any(|key| matches!(key, b'q' | b'Q')) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}
