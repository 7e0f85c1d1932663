//! Removing from the directory what the archive has: whole segments only, the oldest first, and never the last; and none before it
//! was read back from the archive and compared, because after that there is no other.

use std::collections::BTreeMap;
use std::path::Path;

use crate::pg::WalFileName;

/// What of the directory is in the archive as whole segments, and how much of that may stay.
#[derive(Debug)]
pub(super) struct Tidy {
    /// `None`: all of it.
    keep_len: Option<u64>,
    /// Finished in the directory, and put up or found to be up as wholes.
    up: BTreeMap<WalFileName, Seen>,
    /// The one that is being read back.
    reading: Option<WalFileName>,
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

/// A stream that begins again compares its first segment with the one before.
const MIN_KEPT: usize = 2;

impl Tidy {
    pub(super) fn new(keep_len: Option<u64>) -> Self {
        Tidy { keep_len, up: BTreeMap::new(), reading: None, told: false }
    }

    /// The archive has the whole of it.
    pub(super) fn is_up(&mut self, file: WalFileName, seen: Seen) {
        if self.keep_len.is_some() && self.up.get(&file) != Some(&Seen::Compared) {
            self.up.insert(file, seen);
        }
        self.reading.take_if(|reading| *reading == file && seen == Seen::Compared);
    }

    /// The next one that is too much and has to be read back first, one at a time.
    pub(super) fn poll_reading(&mut self) -> Option<WalFileName> {
        let (file, _) = self.surplus().filter(|(_, seen)| *seen == Seen::Told && self.reading.is_none())?;
        self.reading = Some(file);
        Some(file)
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

    fn surplus(&self) -> Option<(WalFileName, Seen)> {
        let (keep_len, (oldest, seen)) = (self.keep_len?, self.up.first_key_value()?);
        let len = oldest.segment.size().as_u64();
        (self.up.len() > MIN_KEPT && self.up.len() as u64 * len > keep_len).then_some((*oldest, *seen))
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
                assert_eq!(tidy.poll_reading(), None, "two at a time");
                tidy.is_up(file, Seen::Told);
                tidy.is_up(file, Seen::Compared);
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
