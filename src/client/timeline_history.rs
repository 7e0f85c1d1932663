//! `TIMELINE_HISTORY`: the file that says how a timeline came to be.

use bytes::Bytes;

use super::{ClientError, Connection};
use crate::pg::{TimelineHistory, TimelineId};
use crate::wire::command;

/// A history file as the server has it, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistoryFile {
    /// The timeline it tells of.
    pub timeline: TimelineId,
    /// The file's content; any encoding, checked to be a history.
    pub content: Bytes,
}

const NAME: &str = "TIMELINE_HISTORY";

impl Connection {
    /// `TIMELINE_HISTORY`. Timeline 1 has no history file: asking for it is an error of the server's.
    pub async fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<TimelineHistoryFile, ClientError> {
        let mut row = self.query_row(&command::timeline_history(timeline), NAME, 2).await?;
        let problem = |problem| ClientError::Answer { command: NAME, problem };
        if row.text(0) != Some(timeline.history_file_name().as_str()) {
            return Err(problem("the file of another timeline"));
        }
        let content = row.values.swap_remove(1).ok_or_else(|| problem("no content"))?;
        TimelineHistory::parse(timeline, &content).map_err(|_| problem("not a timeline history"))?;
        Ok(TimelineHistoryFile { timeline, content })
    }
}
