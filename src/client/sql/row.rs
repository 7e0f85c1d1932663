//! A row, and what its columns can be read as.

use bytes::Bytes;
use tokio_postgres::types::{FromSql, Type};

use crate::client::ClientError;
use crate::pg::Lsn;

/// One row of an answer, by the places of its columns.
#[derive(Debug)]
pub struct Row(pub(super) tokio_postgres::Row);

impl Row {
    /// A column, as what the question says it is: an `Option` where it can be NULL.
    pub fn get<'a, T: FromSql<'a>>(&'a self, column: usize) -> Result<T, ClientError> {
        let problem = |_| ClientError::Answer { command: "SELECT", problem: "a column of another type" };
        self.0.try_get(column).map_err(problem)
    }
}

/// `pg_lsn`.
impl<'a> FromSql<'a> for Lsn {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Lsn::new(u64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::PG_LSN
    }
}

/// A text that need not be UTF-8: a path on the server, say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawText(pub Bytes);

impl<'a> FromSql<'a> for RawText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(RawText(Bytes::copy_from_slice(raw)))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TEXT
    }
}
