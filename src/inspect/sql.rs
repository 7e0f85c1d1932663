//! A question, and its rows.

use std::str::FromStr;

use crate::ErrorClass;
use crate::client::{ClientError, Connection};
use crate::pg::Lsn;
use crate::wire::backend::DataRow;

/// A question was not answered.
#[derive(Debug, thiserror::Error)]
#[error("could not ask the server for {what}")]
pub struct InspectError {
    /// What was asked for.
    pub what: &'static str,
    /// Why there is no answer.
    #[source]
    pub source: ClientError,
}

impl InspectError {
    /// A row was expected, and none came.
    pub fn no_answer(what: &'static str) -> Self {
        InspectError { what, source: ClientError::Answer { command: "SELECT", problem: "no row" } }
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        self.source.class()
    }
}

/// One row of an answer, by the places of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer(DataRow);

/// Asks in SQL, without parameters: what is put into `text`, a `SELECT`, has to be quoted. `what` is what errors call it.
pub async fn ask(sql: &mut Connection, text: &str, what: &'static str) -> Result<Vec<Answer>, InspectError> {
    Ok(ask_all(sql, &[text], what).await?.into_iter().flatten().collect())
}

/// Asks several questions in one message, which is one transaction and one round trip. Each question is a `SELECT`;
/// there are as many answers as questions.
///
/// Names mean what `pg_catalog` says they mean, whatever the role's `search_path` holds.
pub async fn ask_all(
    sql: &mut Connection,
    questions: &[&str],
    what: &'static str,
) -> Result<Vec<Vec<Answer>>, InspectError> {
    let text = format!("SET search_path = pg_catalog, pg_temp; {}", questions.join("; "));
    let sets = sql.query(&text, "SELECT").await.map_err(|source| InspectError { what, source })?;
    if sets.len() != questions.len() {
        let source = ClientError::Answer { command: "SELECT", problem: "another number of result sets" };
        return Err(InspectError { what, source });
    }
    Ok(sets.into_iter().map(|set| set.rows.into_iter().map(Answer).collect()).collect())
}

impl Answer {
    /// A column as text; `None` when it is NULL.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.0.text(column)
    }

    /// A column as something that is written as PostgreSQL writes it (numbers, [`Lsn`], names); `None` when it is NULL
    /// or something else.
    pub fn get<T: FromStr>(&self, column: usize) -> Option<T> {
        self.text(column)?.parse().ok()
    }

    /// A column of type boolean.
    pub fn is_true(&self, column: usize) -> Option<bool> {
        match self.text(column)? {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        }
    }

    /// A column as text of one's own.
    pub fn owned(&self, column: usize) -> Option<String> {
        self.text(column).map(ToOwned::to_owned)
    }

    /// A column of type `pg_lsn`.
    pub fn lsn(&self, column: usize) -> Option<Lsn> {
        self.get(column)
    }
}
