//! Removing from the directory what the archive has: whole segments only, the oldest first, and never the last.

use std::collections::BTreeSet;
use std::path::Path;

use crate::pg::WalFileName;

/// What of the directory is in the archive as whole segments, and how much of that may stay.
#[derive(Debug)]
pub(super) struct Tidy {
    /// `None`: all of it.
    keep_len: Option<u64>,
    /// Finished in the directory, and put up or found to be up as wholes.
    up: BTreeSet<WalFileName>,
    told: bool,
}

/// A stream that begins again compares its first segment with the one before.
const MIN_KEPT: usize = 2;

impl Tidy {
    pub(super) fn new(keep_len: Option<u64>) -> Self {
        Tidy { keep_len, up: BTreeSet::new(), told: false }
    }

    /// The archive has the whole of it.
    pub(super) fn is_up(&mut self, file: WalFileName) {
        if self.keep_len.is_some() {
            self.up.insert(file);
        }
    }

    /// Removes what is too much.
    pub(super) fn tidy(&mut self, directory: &Path) {
        let Some(keep_len) = self.keep_len else { return };
        while let Some(oldest) = self.surplus(keep_len) {
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

    fn surplus(&self, keep_len: u64) -> Option<WalFileName> {
        let oldest = *self.up.first()?;
        let len = oldest.segment.size().as_u64();
        (self.up.len() > MIN_KEPT && self.up.len() as u64 * len > keep_len).then_some(oldest)
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
                tidy.is_up(file(number));
            }
            tidy.tidy(directory.path());
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
