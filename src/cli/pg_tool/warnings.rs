//! What the library warns of, in the tool's own words: otherwise it would be lost, for these tools have no log.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Invocation;

/// From now on, warnings are the tool's.
pub(super) fn show(tool: &Invocation) {
    let ours = Targets::new().with_target("pgwake", LevelFilter::WARN);
    let warnings = Warnings { tool: tool.clone() }.with_filter(ours);
    // fails only when there is a log already
    let _ = tracing_subscriber::registry().with(warnings).try_init();
}

struct Warnings {
    tool: Invocation,
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        match *event.metadata().level() {
            Level::ERROR => drop(self.tool.error(line)),
            _ => self.tool.warn(line),
        }
    }
}

/// `message (name value, name value)`.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let result = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => {
                let separator = if self.fields.is_empty() { "" } else { ", " };
                write!(self.fields, "{separator}{name} {value:?}")
            }
        };
        result.expect("writing to a string does not fail");
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.fields.is_empty() { Ok(()) } else { write!(f, " ({})", self.fields) }
    }
}
