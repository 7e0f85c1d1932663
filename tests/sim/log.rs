//! What happened in a run, kept only when somebody will read it.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::time::Instant;

#[derive(Debug, Clone)]
pub struct Log {
    lines: Option<Rc<RefCell<Vec<String>>>>,
    origin: Instant,
}

impl Log {
    /// A log that keeps what is added, or one that does not.
    pub fn new(kept: Kept) -> Self {
        let lines = (kept == Kept::Yes).then(Rc::default);
        Log { lines, origin: Instant::now() }
    }

    pub fn add(&self, text: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let line = format!("{:>10.6} {}", self.origin.elapsed().as_secs_f64(), text());
            lines.borrow_mut().push(line);
        }
    }

    pub fn text(&self) -> String {
        self.lines.as_ref().map(|lines| lines.borrow().join("\n")).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Yes,
    No,
}
