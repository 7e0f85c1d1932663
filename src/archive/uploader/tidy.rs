//! Removing from the directory what the archive has: whole segments only, the oldest first, and never the last; and none before it
//! was read back from the archive and compared, because after that there is no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::pg::WalFileName;

/// What of the directory is in the archive as whole segments, and how much of that may stay.
#[derive(Debug)]
pub(super) struct Tidy {
    /// `None`: all of it.
    keep_len: Option<u64>,
    /// Finished in the directory, and put up or found to be up as wholes.
    up: BTreeMap<WalFileName, Seen>,
    /// Those that are being read back.
    reading: BTreeSet<WalFileName>,
    told: bool,
}

/// What is known of the archive's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The store has said that it has it.
    Told,
    /// It was read back, and is what is in the directory.
    Compared,
}

/// What was found of a segment that was looked for in the archive before it is removed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadBack {
    /// It is there, and the same; or it was pruned, as nobody needs it; or it is not here any more.
    NotNeeded,
    /// It is not there, nor anything else of its timeline.
    Needed,
}

/// How many are read back at once: as fast as they are put up.
const MAX_READINGS: usize = 3;

/// A stream that begins again compares its first segment with the one before.
const MIN_KEPT: usize = 2;

impl Tidy {
    pub(super) fn new(keep_len: Option<u64>) -> Self {
        Tidy { keep_len, up: BTreeMap::new(), reading: BTreeSet::new(), told: false }
    }

    /// The archive has the whole of it.
    pub(super) fn is_up(&mut self, file: WalFileName, seen: Seen) {
        if self.keep_len.is_some() && self.up.get(&file) != Some(&Seen::Compared) {
            self.up.insert(file, seen);
        }
    }

    /// The next one that is too much and has to be read back first.
    pub(super) fn poll_reading(&mut self) -> Option<WalFileName> {
        if self.reading.len() == MAX_READINGS {
            return None;
        }
        let surplus = self.up.iter().take(self.surplus_count());
        let mut told = surplus.filter(|(file, seen)| **seen == Seen::Told && !self.reading.contains(file));
        let file = *told.next()?.0;
        self.reading.insert(file);
        Some(file)
    }

    /// That one was read back.
    pub(super) fn was_read(&mut self, file: WalFileName, found: ReadBack) {
        self.reading.remove(&file);
        match found {
            ReadBack::NotNeeded => self.is_up(file, Seen::Compared),
            ReadBack::Needed => drop(self.up.remove(&file)),
        }
    }

    /// Removes what is too much.
    pub(super) fn tidy(&mut self, directory: &Path) {
        while let Some((oldest, Seen::Compared)) = self.surplus() {
            let path = directory.join(oldest.to_string());
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    if !std::mem::replace(&mut self.told, true) {
                        let path = path.display();
                        tracing::warn!(%error, "could not remove file \"{path}\", which is in the archive");
                    }
                    return;
                }
                _ => {
                    tracing::debug!("removed \"{}\", which is in the archive", path.display());
                    self.up.remove(&oldest);
                }
            }
        }
    }

    /// The oldest, if it is too much.
    fn surplus(&self) -> Option<(WalFileName, Seen)> {
        let (oldest, seen) = self.up.first_key_value().filter(|_| self.surplus_count() > 0)?;
        Some((*oldest, *seen))
    }

    fn surplus_count(&self) -> usize {
        let (Some(keep_len), Some((oldest, _))) = (self.keep_len, self.up.first_key_value()) else {
            return 0;
        };
        let kept = keep_len / oldest.segment.size().as_u64();
        self.up.len().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX).max(MIN_KEPT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{Lsn, TimelineId, WalSegmentSize};

    #[test]
    fn the_oldest_go_and_the_last_stay() {
        let directory = tempfile::tempdir().unwrap();
        let size = WalSegmentSize::from_bytes(1 << 20).unwrap();
        let file = |number: u64| WalFileName {
            timeline: TimelineId::FIRST,
            segment: size.segment_at(Lsn::new(number << 20)),
        };
        let left = |keep_len: Option<u64>| {
            let mut tidy = Tidy::new(keep_len);
            for number in 1..=6 {
                std::fs::write(directory.path().join(file(number).to_string()), b"x").unwrap();
            }
            for number in [3, 1, 2, 4, 5] {
                tidy.is_up(file(number), Seen::Told);
            }
            let mut read_back = Vec::new();
            loop {
                tidy.tidy(directory.path());
                let Some(file) = tidy.poll_reading() else { break };
                assert!(directory.path().join(file.to_string()).exists(), "removed before it was read back");
                assert_ne!(tidy.poll_reading(), Some(file), "twice");
                tidy.is_up(file, Seen::Told);
                tidy.reading.clear();
                tidy.was_read(file, ReadBack::NotNeeded);
                read_back.push(file);
            }
            let removed = |file: &WalFileName| !directory.path().join(file.to_string()).exists();
            assert!(read_back.iter().all(removed), "read back for nothing");
            (1..=6)
                .filter(|number| directory.path().join(file(*number).to_string()).exists())
                .collect::<Vec<_>>()
        };
        assert_eq!(left(None), [1, 2, 3, 4, 5, 6]);
        assert_eq!(left(Some(5 << 20)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(left(Some(3 << 20)), [3, 4, 5, 6]);
        assert_eq!(left(Some(0)), [4, 5, 6]);
    }
}
