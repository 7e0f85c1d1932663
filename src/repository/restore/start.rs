//! Starting a restored server, and waiting until it is what was asked for.

use std::path::Path;
use std::time::Instant;

use super::error::RestoreError;
use super::target::RecoveryTarget;
use super::{LOOK_INTERVAL, RestoreRequest, Role, TargetAction};
use crate::FileOwner;
use crate::observe::progress::CopyProgress;
use crate::pg::{ClusterState, ControlFile};
use crate::standby::create::StartRequest;
use crate::standby::postmaster;
use crate::standby::programs::Programs;
use crate::standby::start::start_server;

/// How a started server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    /// Recovery has ended: it takes writes.
    Primary,
    /// It answers, and goes on recovering: a standby, or on its way to where it pauses.
    Recovering,
    /// It has got to its target, and shut down.
    ShutDown,
}

/// Starts it, and waits for as long as `start` allows.
pub(super) async fn start(
    request: &RestoreRequest,
    start: &StartRequest,
    programs: Programs,
    directory: &Path,
    owner: Option<FileOwner>,
    progress: &CopyProgress,
) -> Result<Started, RestoreError> {
    let began = Instant::now();
    let (timeout, data) = (start.timeout, directory.to_owned());
    let shuts_down = request.target != RecoveryTarget::Latest && request.action == TargetAction::Shutdown;
    let server = tokio::task::spawn_blocking(move || start_server(&programs, &data, owner, timeout));
    match server.await.map_err(RestoreError::Panicked)? {
        Ok(()) => {}
        // it was there before it could be seen to be ready
        Err(_) if shuts_down && state(directory) == Some(ClusterState::ShutDownInRecovery) => {
            return Ok(Started::ShutDown);
        }
        Err(error) => return Err(error.into()),
    }
    let pauses = request.target != RecoveryTarget::Latest && request.action == TargetAction::Pause;
    if matches!(request.role, Role::Standby(_)) || pauses {
        return Ok(Started::Recovering);
    }
    progress.set_phase("waiting until recovery has ended");
    loop {
        let is_running = postmaster::running(directory)?.is_some();
        match state(directory) {
            Some(ClusterState::InProduction) if is_running => return Ok(Started::Primary),
            Some(ClusterState::ShutDownInRecovery) if shuts_down && !is_running => {
                return Ok(Started::ShutDown);
            }
            _ if !is_running => return Err(RestoreError::Ended { directory: directory.to_owned() }),
            _ => {}
        }
        if began.elapsed() >= start.timeout {
            let (directory, seconds) = (directory.to_owned(), start.timeout.as_secs());
            return Err(RestoreError::StillInRecovery { directory, seconds });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What the control file says; `None` while it is being written.
fn state(directory: &Path) -> Option<ClusterState> {
    let content = std::fs::read(directory.join("global/pg_control")).ok()?;
    ControlFile::parse(&content).ok().map(|control| control.state)
}
