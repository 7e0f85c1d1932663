//! Commands that answer with rows: `SHOW`, and SQL where the connection takes it.

use std::time::Duration;

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

/// The most bytes that one answer may take in memory: these are answers to questions about the server, not data.
const MAX_ANSWER_LEN: usize = 16 << 20;

/// The most result sets that one answer may have.
const MAX_RESULT_SETS: usize = 16;

impl Connection {
    /// Sends a command and reads all its result sets. For simple SQL without parameters, and for the replication
    /// commands that answer with rows. `name` is what errors call it.
    pub async fn query(&mut self, text: &str, name: &'static str) -> Result<Vec<ResultSet>, ClientError> {
        self.query_within(self.answer_timeout(), text, name).await
    }

    /// The same, with another bound for the server's silence.
    pub(super) async fn query_within(
        &mut self,
        silence: Option<Duration>,
        text: &str,
        name: &'static str,
    ) -> Result<Vec<ResultSet>, ClientError> {
        self.start_query(text).await?;
        let mut sets: Vec<ResultSet> = Vec::new();
        let mut answer_len = 0;
        loop {
            match self.next_message_within(silence).await? {
                BackendMessage::RowDescription(RowDescription { columns, .. }) => {
                    answer_len += columns.iter().map(|name| size_of_val(name) + name.len()).sum::<usize>();
                    if answer_len > MAX_ANSWER_LEN || sets.len() == MAX_RESULT_SETS {
                        return Err(ClientError::AnswerTooLong { command: name });
                    }
                    sets.push(ResultSet { columns, rows: Vec::new() });
                }
                BackendMessage::DataRow(mut row) => {
                    let set = sets.last_mut();
                    let set = set.ok_or(ClientError::Unexpected { during: name, found: "DataRow" })?;
                    if row.values.len() != set.columns.len() {
                        return Err(ClientError::Answer { command: name, problem: "a row of another width" });
                    }
                    answer_len += size_of_val(&row) + size_of_val(&row.values[..]);
                    answer_len += row.values.iter().flatten().map(Bytes::len).sum::<usize>();
                    if answer_len > MAX_ANSWER_LEN {
                        return Err(ClientError::AnswerTooLong { command: name });
                    }
                    for value in row.values.iter_mut().flatten() {
                        // copied, because a slice would keep all that was received with it
                        *value = Bytes::copy_from_slice(value);
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

    /// `SHOW wal_segment_size`, from servers that know it.
    pub async fn wal_segment_size(&mut self) -> Result<WalSegmentSize, ClientError> {
        if !self.version().has_walsender_show() {
            return Ok(WalSegmentSize::DEFAULT);
        }
        let text = self.show("wal_segment_size").await?;
        text.parse()
            .map_err(|_| ClientError::Answer { command: "SHOW", problem: "no valid WAL segment size" })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::client::conninfo::{HostAddress, HostSpec};
    use crate::wire::frame::FrameDecoder;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &len[..], body].concat()
    }

    /// What comes of a server that repeats a message and then is done.
    async fn asked(first: &[u8], repeated: &[u8], count: usize) -> Result<Vec<ResultSet>, ClientError> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let parameters = BTreeMap::from([("server_version".to_owned(), "17.0".to_owned())]);
        let host = HostSpec { name: None, address: HostAddress::DefaultSocketDir, port: 5432 };
        let mut connection = Connection::new(Box::new(ours), FrameDecoder::new(), parameters, host).unwrap();
        let answer = async {
            theirs.write_all(first).await?;
            for _ in 0..count {
                theirs.write_all(repeated).await?;
            }
            theirs.write_all(&message(b'Z', b"I")).await?;
            std::future::pending::<std::io::Result<()>>().await
        };
        tokio::select! {
            result = connection.query("SHOW x", "SHOW") => result,
            answered = answer => panic!("the client has left: {answered:?}"),
        }
    }

    fn description(columns: u16, name: &str) -> Vec<u8> {
        let column = [name.as_bytes(), &[0; 19]].concat();
        message(b'T', &[&columns.to_be_bytes()[..], &column.repeat(columns.into())].concat())
    }

    #[tokio::test]
    async fn servers_that_cannot_be_asked_have_the_one_segment_size() {
        let (ours, _theirs) = tokio::io::duplex(1 << 20);
        let parameters = BTreeMap::from([("server_version".to_owned(), "9.6.24".to_owned())]);
        let host = HostSpec { name: None, address: HostAddress::DefaultSocketDir, port: 5432 };
        let mut connection = Connection::new(Box::new(ours), FrameDecoder::new(), parameters, host).unwrap();
        assert_eq!(connection.wal_segment_size().await.unwrap(), WalSegmentSize::DEFAULT);
    }

    #[tokio::test]
    async fn an_answer_is_bounded_in_every_direction() {
        let is_too_long = |result| matches!(result, Err(ClientError::AnswerTooLong { .. }));
        let sets = asked(&[], &description(1, "x"), MAX_RESULT_SETS).await;
        assert_eq!(sets.unwrap().len(), MAX_RESULT_SETS);
        assert!(is_too_long(asked(&[], &description(1, "x"), MAX_RESULT_SETS + 1).await));
        assert!(is_too_long(asked(&[], &description(2, &"x".repeat(3 << 20)), 3).await));
        // nothing but NULL takes room too
        let nulls = message(b'D', &[&1600u16.to_be_bytes()[..], &[0xFF; 4 * 1600]].concat());
        assert_eq!(asked(&description(1600, "x"), &nulls, 10).await.unwrap()[0].rows.len(), 10);
        assert!(is_too_long(asked(&description(1600, "x"), &nulls, 1000).await));
    }
}
