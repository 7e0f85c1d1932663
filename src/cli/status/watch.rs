//! `--watch`: looks again and again, each host at its own pace, and shows what was last seen.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::super::exit::Exit;
use super::super::signals::Signals;
use super::super::{report, width};
use super::frame::frame;
use super::hosts::{Host, Sample};
use super::picture::Picture;
use super::terminal::Terminal;
use super::{StatusError, print, screen};

/// How long news is gathered before it is shown: hosts are looked at at the same time, and answer at almost the same.
const GATHER: Duration = Duration::from_millis(40);

/// The size of a terminal that does not say.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// How many looks may wait to be shown.
const MAX_WAITING: usize = 64;

/// Looks and shows until somebody leaves, or nobody reads any more.
pub(super) async fn watch(
    hosts: Vec<Host>,
    mut picture: Picture,
    every: Duration,
    json: bool,
) -> Result<Exit, StatusError> {
    let mut signals = Signals::listen().map_err(StatusError::Terminal)?;
    let (sender, mut samples) = mpsc::channel(MAX_WAITING);
    let mut looks = JoinSet::new();
    for (index, host) in hosts.into_iter().enumerate() {
        looks.spawn(look(index, host, every, sender.clone()));
    }
    drop(sender);
    if !json && width::of_output().is_some() {
        let shown = show(&mut picture, &mut samples, &mut signals, every).await;
        return shown.map(|()| Exit::Done).map_err(StatusError::Terminal);
    }
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            _ = signals.received() => return Ok(Exit::Done),
            sample = samples.recv() => match sample {
                Some((index, sample)) => picture.add(index, sample),
                None => return Ok(Exit::Failed),
            },
            _ = ticks.tick(), if picture.is_complete() => {
                // who reads no more wants no more
                if let Err(error) = print(&picture, json, true) {
                    return Ok(report::printed(Err(error)));
                }
            }
        }
    }
}

/// Looks at one host at each interval, until nobody wants to know.
async fn look(index: usize, mut host: Host, every: Duration, sender: mpsc::Sender<(usize, Sample)>) {
    let mut ticks = interval(every);
    // the picture holds the first look already
    ticks.tick().await;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = host.sample().await;
        if sender.send((index, sample)).await.is_err() {
            return;
        }
    }
}

/// The screen: drawn anew when there is news, and when its size changes.
async fn show(
    picture: &mut Picture,
    samples: &mut mpsc::Receiver<(usize, Sample)>,
    signals: &mut Signals,
    every: Duration,
) -> io::Result<()> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut terminal = Terminal::enter()?;
    let footer = format!("every {} s, q quits", every.as_secs_f64());
    let mut draw_at = Some(Instant::now());
    loop {
        let due = draw_at;
        tokio::select! {
            biased;
            _ = signals.received() => return Ok(()),
            left = terminal.left() => return left,
            _ = resized.recv() => draw_at = Some(Instant::now()),
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                draw_at = None;
                let (width, height) = size();
                terminal.show(&frame(&screen::show(picture, Some(width)), &footer, width, height))?;
            }
            sample = samples.recv() => {
                let Some((index, sample)) = sample else { return Ok(()) };
                picture.add(index, sample);
                draw_at.get_or_insert(Instant::now() + GATHER);
            }
        }
    }
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => DEFAULT_SIZE,
    }
}
