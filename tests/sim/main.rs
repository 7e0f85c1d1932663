//! The receiver on a simulated disk, against a simulated primary, in virtual time.
//!
//! A seed decides everything, so it replays a run exactly: `PGWAKE_SIM_SEED=n` prints what happened in it.
//! `PGWAKE_SIM_SEEDS=n` runs that many. What runs is the real thing from [`pgwake::stream::receive`] down to
//! [`pgwake::sink::SegmentWriter`]; only the connection, the disk, the sink's thread and the clock are not.

#![allow(unreachable_pub, reason = "nothing is reachable in a test binary")]

mod checker;
mod disk;
mod hand;
mod log;
mod plain;
mod primary;
mod run;
mod sink;
mod wal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use disk::{CANARIES, COMPRESSED_CANARIES, Canary};
use log::Kept;
use pgwake::compression::CompressionMethod;
use run::{Coverage, Failure, Setup, Storage, run_seed, simulate};

/// Seeds that found a bug while this was built: a flush of the stream before, told to the next one (2); a slot
/// moved back after a switch in the middle of a segment (72), or because its position cannot be read (2, 5); pings
/// answered at the pace of the network while a flush took long (102).
const FORMER_FINDS: [u64; 4] = [2, 5, 72, 102];

/// The same with two receivers: a segment that is received again was not gone on with when that was interrupted (110).
const FORMER_FINDS_OF_TWO: [u64; 1] = [110];

/// Within how many seeds each built-in mistake must be caught.
const CANARY_SEEDS: u64 = 500;

fn seeds(sample: u64) -> u64 {
    std::env::var("PGWAKE_SIM_SEEDS").ok().map_or(sample, |text| text.parse().expect("a number of seeds"))
}

const COMPRESSED: [CompressionMethod; 3] =
    [CompressionMethod::Gzip, CompressionMethod::Lz4, CompressionMethod::Zstd];

/// One receiver. Every third seed compresses, and every fourth of those in another format in each life.
fn one_receiver(seed: u64, kept: Kept) -> Result<Coverage, Failure> {
    let storage = match (seed % 3, seed / 3 % 4) {
        (0 | 1, _) => Storage::Plain,
        (_, 3) => Storage::Changing,
        (_, method) => Storage::Always(COMPRESSED[method as usize]),
    };
    run_seed(seed, kept, Setup { storage, canary: None })
}

/// Two receivers in two formats at once.
fn two_receivers(seed: u64, kept: Kept) -> Result<Coverage, Failure> {
    let methods = CompressionMethod::ALL;
    let (one, other) = (seed as usize % 4, (seed as usize + 1 + seed as usize / 4 % 3) % 4);
    let setup = |method| Setup { storage: Storage::Always(methods[method]), canary: None };
    simulate(seed, kept, &[setup(one), setup(other)])
}

/// Runs seeds on all processors; the first failure is told with its log.
fn run_seeds(seeds: impl Iterator<Item = u64>, run: fn(u64, Kept) -> Result<Coverage, Failure>) -> Coverage {
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut coverage = Coverage::default();
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            match run(seed, Kept::No) {
                Ok(one) => coverage.add(&one),
                Err(_) => {
                    let again = run(seed, Kept::Yes).expect_err("a seed replays a run exactly");
                    panic!("seed {seed}: {}\n{}", again.message, again.log);
                }
            }
        }
        coverage
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut coverage = Coverage::default();
        for worker in workers {
            coverage.add(&worker.join().expect("a worker found a violation"));
        }
        coverage
    })
}

#[test]
fn promises_hold_whatever_happens() {
    if let Ok(seed) = std::env::var("PGWAKE_SIM_SEED") {
        let seed = seed.parse().expect("a seed is a number");
        match one_receiver(seed, Kept::Yes) {
            Ok(coverage) => println!("{}\n{coverage}", coverage.log),
            Err(failure) => panic!("seed {seed}: {}\n{}", failure.message, failure.log),
        }
        return;
    }
    let count = seeds(500);
    let started = Instant::now();
    let coverage = run_seeds(0..count, one_receiver);
    println!("{count} seeds in {:.1} s: {coverage}", started.elapsed().as_secs_f64());
    assert!(count < 100 || coverage.is_complete(), "something was never exercised: {coverage}");
}

#[test]
fn seeds_that_found_a_bug_find_it_no_more() {
    run_seeds(FORMER_FINDS.into_iter(), |seed, kept| run_seed(seed, kept, Setup::default()));
}

#[test]
fn two_receivers_of_one_primary_hold_the_same() {
    run_seeds(FORMER_FINDS_OF_TWO.into_iter(), two_receivers);
    let count = seeds(500) / 10;
    let started = Instant::now();
    let coverage = run_seeds(0..count, two_receivers);
    println!("{count} seeds in {:.1} s: {coverage}", started.elapsed().as_secs_f64());
    // two slots hold more WAL, so that less of it is removed and missed
    assert!(count < 1000 || coverage.is_complete(), "something was never exercised: {coverage}");
}

#[test]
fn the_checker_catches_every_built_in_mistake() {
    for canary in CANARIES {
        assert_caught(canary, CompressionMethod::None);
    }
}

#[test]
fn the_checker_catches_every_built_in_mistake_in_compressed_segments() {
    for (canary, method) in COMPRESSED_CANARIES.into_iter().zip(COMPRESSED.into_iter().cycle()) {
        assert_caught(canary, method);
    }
}

#[test]
#[ignore = "every mistake in every format; run by make sim"]
fn the_checker_catches_every_built_in_mistake_in_every_format() {
    for (canary, method) in
        COMPRESSED_CANARIES.iter().flat_map(|canary| COMPRESSED.map(|method| (*canary, method)))
    {
        assert_caught(canary, method);
    }
}

fn assert_caught(canary: Canary, method: CompressionMethod) {
    let setup = Setup { storage: Storage::Always(method), canary: Some(canary) };
    let caught = (0..CANARY_SEEDS)
        .find_map(|seed| run_seed(seed, Kept::No, setup).err().map(|failure| (seed, failure.message)));
    let (seed, message) = caught.unwrap_or_else(|| panic!("{canary:?} was not caught ({method})"));
    println!("{canary:?} ({method}): caught by seed {seed}: {message}");
}

#[test]
fn a_seed_replays_a_run_exactly() {
    for (seed, run) in (0..10).flat_map(|seed| [(seed, one_receiver as fn(_, _) -> _), (seed, two_receivers)])
    {
        let log = || match run(seed, Kept::Yes) {
            Ok(coverage) => coverage.log,
            Err(failure) => failure.log,
        };
        assert_eq!(log(), log(), "seed {seed}");
    }
}
