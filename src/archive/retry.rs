//! Trying again for as long as it takes.

use std::time::Duration;

use super::error::ArchiveError;
use crate::ErrorClass;

/// The waits between attempts.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Does it until it is done, or cannot be.
pub(super) async fn retried<T, F>(mut work: impl FnMut() -> F) -> Result<T, ArchiveError>
where
    F: Future<Output = Result<T, ArchiveError>>,
{
    let mut wait = FIRST_WAIT;
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !is_transient(&error) {
            return Err(error);
        }
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(%error, source, ?wait, "archiving fails; trying again");
        tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Rights may come back, as a store may: what is received is safe meanwhile.
pub(super) fn is_transient(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Store { .. }) || error.class() == ErrorClass::Transient
}
