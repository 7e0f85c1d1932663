//! Somebody who takes a segment out of the directory while no receiver is there, as is done with a damaged one.
//!
//! It must be received again, or, where the primary has removed it, nothing may be received behind the hole; then it is put
//! back. Nothing of this touches the randomness of the run itself.

use pgwake::pg::WalFileName;

use crate::disk::{SimDisk, is_final};
use crate::run::Run;
use crate::wal::segment_size;

/// A segment that was in the directory, and what was in it.
#[derive(Debug)]
pub struct Taken {
    pub file: WalFileName,
    name: String,
    content: Vec<u8>,
}

impl Run {
    /// Now and then one of the last two.
    pub fn take_a_segment(&mut self) {
        if self.taken.is_some() || self.hand.u8(..3) > 0 {
            return;
        }
        let image = self.disk.seen();
        let whole: Vec<(WalFileName, &String)> = image
            .keys()
            .filter(|name| is_final(name))
            .map(|name| (WalFileName::parse(&name[..24], segment_size()).expect("our own name"), name))
            .filter(|(file, _)| self.is_on_history(*file))
            .collect();
        let Some(index) = whole.len().checked_sub(1 + self.hand.usize(..2)) else { return };
        let (file, name) = whole[index];
        // removed without a trace, it is missed only behind another one
        let has_one_before = whole.iter().any(|(other, _)| other.segment.next() == file.segment);
        let aside = format!("{name}.damaged");
        let to = (!has_one_before || self.hand.bool()).then_some(&aside[..]);
        self.log.add(|| format!("{name} is taken away{}", if to.is_some() { ", aside" } else { "" }));
        self.disk.rename_by_hand(name, to);
        self.taken = Some(Taken { file, name: name.clone(), content: image[name].clone() });
        self.coverage.taken += 1;
        self.tell_checker();
    }

    /// Says, whenever it is asked, whether what was taken is there again, as far as the primary has it.
    pub fn whole_again(&self) -> impl Fn() -> bool + 'static {
        let disk = self.disk.clone();
        let taken = self.taken.as_ref().filter(|taken| self.is_on_history(taken.file));
        let taken = taken.map(|taken| taken.file.to_string());
        move || taken.as_ref().is_none_or(|file| has_segment(&disk, file))
    }

    pub fn see_whether_it_is_back(&mut self) {
        let Some(Taken { file, .. }) = &self.taken else { return };
        if has_segment(&self.disk, &file.to_string()) {
            self.coverage.refilled += 1;
            self.taken = None;
            self.tell_checker();
        }
    }

    pub fn put_back(&mut self) {
        let Some(Taken { name, content, .. }) = self.taken.take() else { return };
        self.log.add(|| format!("{name} is put back"));
        self.disk.put_by_hand(&name, content);
        self.tell_checker();
    }

    /// Whether what was taken cannot be had from the primary any more.
    pub fn is_missed(&self) -> bool {
        let removed_lsn = self.primary.state.borrow().removed_lsn;
        self.taken.as_ref().is_some_and(|taken| taken.file.segment.start_lsn() < removed_lsn)
    }

    /// Whether the primary's history has all of this file's segment on this file's timeline.
    pub fn is_on_history(&self, file: WalFileName) -> bool {
        let wal = &self.primary.state.borrow().wal;
        let history = wal.history(wal.current());
        let switch_lsn = history.switch_point(file.timeline);
        history.contains(file.timeline) && switch_lsn.is_none_or(|lsn| lsn >= file.segment.end_lsn())
    }

    fn tell_checker(&mut self) {
        let taken = self.taken.as_ref().map(|taken| taken.file.segment);
        self.primary.state.borrow_mut().sides[self.primary.side].checker.taken = taken;
    }
}

fn has_segment(disk: &SimDisk, file: &str) -> bool {
    disk.seen().keys().any(|name| is_final(name) && name.starts_with(file))
}
