//! Real faults: a disk that fills up, system calls that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::TestDir;
use super::dir::own;
use super::tool::Tool;

/// A file system in memory of a fixed size: writing more than fits is a real `ENOSPC`. Needs root: `require_root!()`.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `size` bytes at `dir/name`.
    #[track_caller]
    pub(crate) fn mount(dir: &TestDir, name: &str, size: u64) -> SmallDisk {
        let path = dir.subdir(name, 0o755);
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "pgwake-test"])
            .arg(&path)
            .status()
            .expect("run mount");
        assert!(status.success(), "could not mount a tmpfs at {}", path.display());
        own(&path);
        SmallDisk { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the disk but for `left` bytes; removing the file gives the space back.
    #[track_caller]
    pub(crate) fn fill(&self, left: u64) -> PathBuf {
        let stat = rustix::fs::statvfs(&self.path).expect("ask for free space");
        let size = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
        let path = self.path.join("ballast");
        let ballast = fs::File::create(&path).expect("create the ballast");
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, size).expect("fill the disk");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: a program that still has it open does not keep it
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Runs `tool` under `strace`, which makes system calls fail: `fdatasync:error=EIO:when=3+` (strace's `inject=`).
/// Needs `require_program!("strace")`. The process id and the exit code are the program's own.
pub(crate) fn injecting(tool: Tool, faults: &[&str]) -> Tool {
    let mut args = vec!["-D", "-f", "-qq", "-o", "/dev/null"].into_iter().map(Into::into).collect::<Vec<_>>();
    let calls: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
    args.push("-e".into());
    args.push(format!("trace={}", calls.join(",")).into());
    for fault in faults {
        args.push("-e".into());
        args.push(format!("inject={fault}").into());
    }
    tool.under("strace", args)
}
