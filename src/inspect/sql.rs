//! A question, and its rows.

use crate::ErrorClass;
use crate::client::{ClientError, Row, Sql};

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

/// Asks a question without parameters, a `SELECT`, and reads its rows. `what` is what errors call it. Questions that are
/// awaited together are answered in one round trip.
pub async fn ask<T>(
    sql: &Sql,
    what: &'static str,
    question: &str,
    read: impl Fn(&Row) -> Result<T, ClientError>,
) -> Result<Vec<T>, InspectError> {
    let rows = sql.rows(question, &[]).await;
    rows.and_then(|rows| rows.iter().map(read).collect()).map_err(|source| InspectError { what, source })
}

/// The same, where there is always a row.
pub async fn ask_one<T>(
    sql: &Sql,
    what: &'static str,
    question: &str,
    read: impl Fn(&Row) -> Result<T, ClientError>,
) -> Result<T, InspectError> {
    let rows = ask(sql, what, question, read).await?;
    rows.into_iter().next().ok_or_else(|| InspectError::no_answer(what))
}
