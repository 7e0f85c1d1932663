//! Real faults: a disk that fills up, system calls that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::dir::own;
use super::servers::{find_program, skipped};
use super::tool::{Running, Tool};
use super::{TestDir, wait_until};

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

    /// Mounts one that shares blocks between files, of 400 MB (XFS makes none of less than 300), that has its content in a
    /// file without a name. `None`, and a visible skip, where there is no loop device, or the kernel has no XFS. Needs
    /// `require_program!("mkfs.xfs")`, too.
    #[track_caller]
    pub(crate) fn mount_sharing(dir: &TestDir, name: &str) -> Option<SmallDisk> {
        let (image, path) = (dir.join(&format!("{name}.image")), dir.subdir(name, 0o755));
        let file = fs::File::create(&image).expect("create the file of a disk");
        file.set_len(400 << 20).expect("make a file long");
        let run = |program: &mut Command| program.arg(&image).status().expect("run a program").success();
        assert!(run(Command::new("mkfs.xfs").arg("-q")), "could not make a file system");
        let is_mounted =
            run(Command::new("mount").args(["-o", "loop", "--target"]).arg(&path).arg("--source"));
        fs::remove_file(&image).expect("remove the name of a disk's file");
        if !is_mounted {
            skipped("loop devices, and a kernel with XFS");
            return None;
        }
        own(&path);
        Some(SmallDisk { path })
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

/// Lets system calls of a program that runs fail, or take long, from now on until what is returned is dropped. Needs
/// `require_program!("strace")` and, unless the program is our own child's equal, `require_root!()`.
#[track_caller]
pub(crate) fn attached(running: &Running, fault: &str) -> Running {
    let call = fault.split(':').next().expect("a system call");
    let (trace, inject, pid) =
        (format!("trace={call}"), format!("inject={fault}"), running.pid().to_string());
    let args = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid];
    let strace = Tool::new(find_program("strace").expect("strace")).args(args).timeout(LONG).spawn();
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    wait_until("every thread is traced", || {
        let mut tasks = fs::read_dir(&tasks).expect("a program that runs").flatten();
        tasks.all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.lines().any(|line| line == "TracerPid:\t0")
        })
    });
    strace
}

/// For what a test waits for on purpose.
const LONG: Duration = Duration::from_secs(600);

/// Runs `tool` under `strace`, which makes system calls fail: `fdatasync:error=EIO:when=3+` (strace's `inject=`).
/// Needs `require_program!("strace")`. The process id and the exit code are the program's own.
pub(crate) fn injecting(tool: Tool, faults: &[&str]) -> Tool {
    // only the calls that are named stop the program: all others go on at full speed
    let always = ["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
    let mut args = always.into_iter().map(Into::into).collect::<Vec<_>>();
    let calls: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
    args.push("-e".into());
    args.push(format!("trace={}", calls.join(",")).into());
    for fault in faults {
        args.push("-e".into());
        args.push(format!("inject={fault}").into());
    }
    tool.under("strace", args)
}
