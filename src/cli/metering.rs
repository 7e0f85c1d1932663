//! `--metrics`: a receiver in numbers, for Prometheus and for whoever asks whether it is well.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;

use super::connection::{ConnectError, open_sql};
use super::report;
use crate::ErrorClass;
use crate::archive::{ArchiveWatch, Standing};
use crate::client::conninfo::Settings;
use crate::inspect::InspectError;
use crate::inspect::slots::{ReplicationSlot, slots};
use crate::observe::metrics::{
    ArchiveReading, HealthLimits, ListenAddr, ListenError, MeteringObserver, MetricsServer, ReceiverMetrics,
    SlotReading,
};
use crate::pg::SlotName;
use crate::sink::RealDisk;
use crate::stream::{LogObserver, Observer};

#[derive(Debug, Args)]
#[command(next_help_heading = "More options")]
pub(super) struct MeteringArgs {
    /// Answer at HOST:PORT, or a Unix socket's path, for /metrics (Prometheus), /healthz and /readyz
    ///
    /// Nobody is asked for a password there: listen on loopback. /healthz answers 200 while WAL is received or there is
    /// none to receive, and 503 with the reason when somebody should look; /readyz answers 200 while a server streams.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<ListenAddr>,

    /// When /healthz takes it for stuck: so long without a server, or with WAL that is not durable
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "metrics")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    stuck_after: u32,
}

/// What measures a receiver, if that is wanted.
pub(super) struct Meter(Option<Running>);

struct Running {
    metrics: Arc<ReceiverMetrics>,
    /// Handed over once passwords were asked for.
    slot: Option<oneshot::Sender<WatchedSlot>>,
    _server: MetricsServer,
}

/// Where to ask for which slot.
struct WatchedSlot {
    settings: Settings,
    slot: SlotName,
}

/// How often the slot is asked for, and how long an answer may take.
const SLOT_INTERVAL: Duration = Duration::from_secs(30);
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where the server does not let us in to ask, which somebody would have to change first.
const SLOT_REFUSED_INTERVAL: Duration = Duration::from_secs(600);

impl Meter {
    /// Listens, if that is wanted.
    pub(super) fn start(args: &MeteringArgs, receive_timeout: Duration) -> Result<Self, ListenError> {
        let Some(addr) = &args.metrics else { return Ok(Meter(None)) };
        let stuck_after = Duration::from_secs(args.stuck_after.into());
        let metrics = Arc::new(ReceiverMetrics::new(HealthLimits { stuck_after, receive_timeout }));
        let (slot, watched) = oneshot::channel();
        let server =
            MetricsServer::start(addr, Arc::clone(&metrics), |metrics| watch_slot(watched, metrics))?;
        let url = server.url();
        tracing::info!("metrics are at {url}");
        if !server.is_local() {
            tracing::warn!(
                "whoever reaches {url} may read the metrics: nobody is asked for a password there"
            );
        }
        Ok(Meter(Some(Running { metrics, slot: Some(slot), _server: server })))
    }

    /// From now on the slot is looked at, too.
    pub(super) fn watch_slot(&mut self, settings: &Settings, slot: Option<&SlotName>) {
        if let Some((slot, running)) = slot.zip(self.0.as_mut())
            && let Some(sender) = running.slot.take()
        {
            let mut settings = settings.clone();
            settings.application_name = Some("pgwake metrics".to_owned());
            // the thread that would look may have ended
            let _ = sender.send(WatchedSlot { settings, slot: slot.clone() });
        }
    }

    /// Whom to tell how it stands with the slot that follows the archive: `None`, it could not be asked for.
    pub(super) fn archive_slot(&self) -> impl FnMut(Option<SlotReading>) + Send + 'static {
        let metrics = self.0.as_ref().map(|running| Arc::clone(&running.metrics));
        move |reading| {
            if let Some(metrics) = &metrics {
                metrics.set_archive_slot(reading);
            }
        }
    }

    /// The disk, measured.
    pub(super) fn disk(&self, disk: RealDisk) -> RealDisk {
        match &self.0 {
            Some(running) => disk.with_sync_observer(Arc::clone(&running.metrics) as _),
            None => disk,
        }
    }

    /// Who hears of the stream.
    pub(super) fn observer(&self) -> Box<dyn Observer> {
        match &self.0 {
            Some(running) => Box::new(MeteringObserver::new(Arc::clone(&running.metrics))),
            None => Box::new(LogObserver),
        }
    }

    /// From now on the archive is looked at, too.
    pub(super) fn watch_archive(&self, watch: ArchiveWatch) {
        if let Some(running) = &self.0 {
            running.metrics.set_archive(move || ArchiveReading {
                archived_lsn: watch.archived().map(|archived| archived.lsn).filter(|lsn| lsn.is_valid()),
                behind_bytes: watch.behind_len(),
                oldest_age: watch.oldest_age(),
                failure_count: watch.failure_count(),
                is_writer: watch.standing() == Standing::Holding,
            });
        }
    }

    /// An error that is no reason to end.
    pub(super) fn count_error(&self, class: ErrorClass) {
        if let Some(running) = &self.0 {
            running.metrics.count_error(class);
        }
    }

    pub(super) fn stopping(&self) {
        if let Some(running) = &self.0 {
            running.metrics.stopping();
        }
    }

    pub(super) fn failed(&self, class: ErrorClass) {
        if let Some(running) = &self.0 {
            running.metrics.failed(class);
        }
    }
}

/// Why the slot cannot be looked at.
#[derive(Debug, thiserror::Error)]
enum SlotError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Ask(#[from] InspectError),
    #[error("the server does not answer")]
    Silent,
}

/// Looks at the slot now and then, on a connection of its own: the stream does not notice.
async fn watch_slot(watched: oneshot::Receiver<WatchedSlot>, metrics: Arc<ReceiverMetrics>) -> Infallible {
    let Ok(WatchedSlot { mut settings, slot }) = watched.await else { return std::future::pending().await };
    let mut told = false;
    loop {
        let reading = tokio::time::timeout(SLOT_TIMEOUT, read_slot(&mut settings, &slot)).await;
        let pause = match reading.unwrap_or(Err(SlotError::Silent)) {
            Ok(reading) => {
                metrics.set_slot(reading);
                SLOT_INTERVAL
            }
            Err(error) => {
                metrics.set_slot(None);
                if !std::mem::replace(&mut told, true) {
                    let error = report::one_line(&error);
                    tracing::info!(error, "the metrics are without the slot, which could not be asked for");
                }
                if error.class() == ErrorClass::Transient { SLOT_INTERVAL } else { SLOT_REFUSED_INTERVAL }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl SlotError {
    fn class(&self) -> ErrorClass {
        match self {
            SlotError::Connect(error) => error.class(),
            SlotError::Ask(error) => error.source.class(),
            SlotError::Silent => ErrorClass::Transient,
        }
    }
}

async fn read_slot(settings: &mut Settings, slot: &SlotName) -> Result<Option<SlotReading>, SlotError> {
    let sql = open_sql(settings).await.map_err(ConnectError::from)?;
    let slots = slots(&sql).await?;
    sql.close().await;
    Ok(slots.iter().find(|found| found.name == slot.as_str()).map(reading))
}

/// What the metrics tell of a slot.
pub(super) fn reading(slot: &ReplicationSlot) -> SlotReading {
    SlotReading { held_bytes: slot.held_bytes, safe_wal_size: slot.safe_wal_size, lost: slot.is_lost() }
}
