//! Commands that answer with rows: `SHOW`, and SQL where the connection takes it.

use bytes::Bytes;

use super::{ClientError, Connection};
use crate::pg::WalSegmentSize;
use crate::wire::backend::{BackendMessage, DataRow, RowDescription};
use crate::wire::command;

/// Rows, in text format.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultSet {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<DataRow>,
}

/// The most bytes of values that one answer may have: these are answers to questions about the server, not data.
pub(super) const MAX_ANSWER_LEN: usize = 16 << 20;

/// The most rows that one answer may have.
const MAX_ANSWER_ROWS: usize = 1 << 20;

impl Connection {
    /// Sends a command and reads all its result sets. For simple SQL without parameters, and for the replication
    /// commands that answer with rows. `name` is what errors call it.
    pub async fn query(&mut self, text: &str, name: &'static str) -> Result<Vec<ResultSet>, ClientError> {
        self.start_query(text).await?;
        let mut sets: Vec<ResultSet> = Vec::new();
        let (mut answer_len, mut row_count) = (0, 0);
        loop {
            match self.next_message().await? {
                BackendMessage::RowDescription(RowDescription { columns }) => {
                    answer_len += (1 + columns.len()) * VALUE_LEN;
                    if answer_len > MAX_ANSWER_LEN {
                        return Err(ClientError::AnswerTooLong { command: name });
                    }
                    sets.push(ResultSet { columns, rows: Vec::new() });
                }
                BackendMessage::DataRow(row) => {
                    let set = sets.last_mut();
                    let set = set.ok_or(ClientError::Unexpected { during: name, found: "DataRow" })?;
                    if row.values.len() != set.columns.len() {
                        return Err(ClientError::Answer { command: name, problem: "a row of another width" });
                    }
                    answer_len += memory_len(&row);
                    row_count += 1;
                    if answer_len > MAX_ANSWER_LEN || row_count > MAX_ANSWER_ROWS {
                        return Err(ClientError::AnswerTooLong { command: name });
                    }
                    set.rows.push(row);
                }
                BackendMessage::CommandComplete(_) | BackendMessage::EmptyQueryResponse => {}
                BackendMessage::ReadyForQuery => return Ok(sets),
                message => return Err(ClientError::Unexpected { during: name, found: message.name() }),
            }
        }
    }

    /// The one row of a command that answers with exactly one, of at least `width` columns.
    pub(super) async fn query_row(
        &mut self,
        text: &str,
        name: &'static str,
        width: usize,
    ) -> Result<DataRow, ClientError> {
        let problem = |problem| ClientError::Answer { command: name, problem };
        let mut sets = self.query(text, name).await?;
        let set = if sets.len() == 1 { sets.pop() } else { None };
        let mut set = set.ok_or_else(|| problem("not one result set"))?;
        let row = if set.rows.len() == 1 { set.rows.pop() } else { None };
        let row = row.ok_or_else(|| problem("not one row"))?;
        if row.values.len() < width {
            return Err(problem("too few columns"));
        }
        Ok(row)
    }

    /// `SHOW name`: a setting's value as text.
    pub async fn show(&mut self, name: &str) -> Result<String, ClientError> {
        let row = self.query_row(&command::show(name), "SHOW", 1).await?;
        let value = row.text(0).ok_or(ClientError::Answer { command: "SHOW", problem: "no text" })?;
        Ok(value.to_owned())
    }

    /// `SHOW wal_segment_size`.
    pub async fn wal_segment_size(&mut self) -> Result<WalSegmentSize, ClientError> {
        let text = self.show("wal_segment_size").await?;
        text.parse()
            .map_err(|_| ClientError::Answer { command: "SHOW", problem: "no valid WAL segment size" })
    }
}

/// What a value takes beside its bytes, at the most, and a row beside its values.
const VALUE_LEN: usize = 64;

/// What a row takes in memory, roughly: rows of nothing take something too.
pub(super) fn memory_len(row: &DataRow) -> usize {
    let bytes: usize = row.values.iter().flatten().map(Bytes::len).sum();
    bytes + (1 + row.values.len()) * VALUE_LEN
}
