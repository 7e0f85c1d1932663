//! `pgwake status`.

#[cfg(test)]
mod fixtures;
mod frame;
mod hosts;
mod json;
mod picture;
mod screen;
mod terminal;
mod topology;
mod trend;
mod watch;

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;

use self::hosts::{Host, HostError, Sample, sample_all};
use self::picture::Picture;
use super::connection::{ConnectionArgs, ConnectionArgsError};
use super::exit::Exit;
use super::prompt::PromptError;
use super::{block_on, report, width};
use crate::ErrorClass;

/// Show the primary, its standbys and receivers, slots and base backups
///
/// All hosts of the connection string are asked, each by itself and at the same time, and shown as a tree: name them all to
/// see the whole topology. One that does not answer within connect_timeout (5 seconds unless set) is said to be so.
/// Exit code 0 when any of them answered. The role needs pg_monitor to see everything; what it may not see is said.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object on one line (with --watch one for each look): servers, in the order of the hosts, each with
  host, port, error (null when it answered), same_as, upstream_server (places in servers, or null), version,
  wal_bytes_per_second, may_not_see, synchronous_standbys_missing (for commits to go on), sees_all_statistics, in_recovery, system_identifier, timeline, lsn, time,
  started_at, max_slot_wal_keep_size, idle_replication_slot_timeout, synchronous_standby_names,
  replay (received_lsn, replayed_lsn, delay_seconds, paused), configured_upstream (host, port, application_name),
  receiver (status, host, port, slot, application_name, timeline),
  downstreams (pid, role, application_name, address, port, state, sent_lsn, write_lsn, flush_lsn, replay_lsn,
    write_lag_seconds, flush_lag_seconds, replay_lag_seconds, sync_priority, sync_state, reply_age_seconds,
    behind_bytes, server),
  slots (as \"pgwake slot list --json\" prints them) and
  base_backups (pid, phase, total_bytes, streamed_bytes, tablespaces, tablespaces_streamed).
null stands for what does not apply, or may not be seen; a server that did not answer has no more than the first eight, and empty lists.")]
pub(super) struct StatusArgs {
    /// Look again every so many seconds, 2 unless said: on a terminal as a screen, which q leaves
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = parse_interval)]
    watch: Option<Duration>,

    /// Print what was seen as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Between two looks, in seconds: not so short that the looking shows, nor so long that nobody waits for it.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|_| "not a number of seconds".to_owned())?;
    match INTERVALS.contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("must be between 0.1 and 3600 seconds".to_owned()),
    }
}

/// Over how long the WAL rate is measured when there is only one look.
const RATE_INTERVAL: Duration = Duration::from_millis(100);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Arguments(#[from] ConnectionArgsError),
    #[error("could not ask for the password")]
    Prompt(#[from] PromptError),
    #[error("could not look at the server")]
    Host(#[source] HostError),
    #[error("could not look at any of the {0} hosts")]
    AllHosts(usize, #[source] HostError),
    #[error("could not use the terminal")]
    Terminal(#[source] io::Error),
}

/// Runs the command.
pub(super) fn run(args: &StatusArgs) -> Exit {
    block_on(args.json, async {
        match status(args).await {
            Ok(exit) => exit,
            Err(StatusError::Arguments(error)) => report::usage(&error, args.json),
            Err(error) => {
                let class = match &error {
                    StatusError::Host(error) | StatusError::AllHosts(_, error) => error.class(),
                    _ => ErrorClass::Operator,
                };
                report::failure(&error, class, args.json)
            }
        }
    })
}

async fn status(args: &StatusArgs) -> Result<Exit, StatusError> {
    let mut settings = args.connection.settings("pgwake status")?;
    args.connection.ask_password_if_told(&mut settings).await?;
    let (mut hosts, mut samples) = sample_all(Host::all(&settings)).await;
    let is_asked = |sample: &Sample| sample.as_ref().is_err_and(HostError::is_password_missing);
    if samples.iter().any(is_asked) && args.connection.ask_missing_password(&mut settings).await? {
        (hosts, samples) = sample_all(Host::all(&settings)).await;
    }
    if args.watch.is_none() {
        (hosts, samples) = measure(hosts, samples).await;
    }
    let mut picture = Picture::new(hosts.iter().map(|host| host.endpoint.clone()));
    let answered = samples.iter().any(Result::is_ok);
    if !answered && args.watch.is_none() {
        return Err(nobody(samples));
    }
    samples.into_iter().enumerate().for_each(|(index, sample)| picture.add(index, sample));
    if let Some(every) = args.watch {
        return watch::watch(hosts, picture, every, args.json).await;
    }
    let printed = report::printed(print(&picture, args.json, false));
    for host in hosts {
        host.close().await;
    }
    Ok(printed)
}

/// Looks at those that have answered once more, a moment later, for the rate of their WAL.
async fn measure(hosts: Vec<Host>, samples: Vec<Sample>) -> (Vec<Host>, Vec<Sample>) {
    tokio::time::sleep(RATE_INTERVAL).await;
    let mut parts = (Vec::new(), Vec::new());
    for (index, (host, sample)) in hosts.into_iter().zip(samples).enumerate() {
        match sample {
            Ok(_) => parts.0.push((index, host)),
            failed => parts.1.push((index, host, failed)),
        }
    }
    let (places, again): (Vec<usize>, Vec<Host>) = parts.0.into_iter().unzip();
    let (again, anew) = sample_all(again).await;
    let mut all = parts.1;
    all.extend(places.into_iter().zip(again).zip(anew).map(|((index, host), sample)| (index, host, sample)));
    all.sort_by_key(|(index, ..)| *index);
    all.into_iter().map(|(_, host, sample)| (host, sample)).unzip()
}

/// No host has answered.
fn nobody(samples: Vec<Sample>) -> StatusError {
    let count = samples.len();
    let last = samples.into_iter().filter_map(Result::err).next_back().unwrap_or(HostError::BrokenOff);
    if count > 1 { StatusError::AllHosts(count, last) } else { StatusError::Host(last) }
}

/// Prints the picture; with a gap behind it, where another one follows.
fn print(picture: &Picture, json: bool, more: bool) -> io::Result<()> {
    let mut text = match json {
        true => report::json_line(&json::PictureJson::new(picture)),
        false => screen::show(picture, width::of_output()).text(),
    };
    if more && !json {
        text.push('\n');
    }
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}
