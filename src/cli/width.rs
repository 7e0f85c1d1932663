//! How wide standard output is.

use std::io::IsTerminal as _;

/// The narrowest terminal that is laid out for.
const MIN_WIDTH: usize = 20;

/// The columns of the terminal that standard output is; `None` when it is something else, or does not say.
pub(super) fn of_output() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col).max(MIN_WIDTH))
}
