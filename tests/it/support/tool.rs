//! Runs programs the way a user would, but in an environment that is always the same.
//!
//! Nothing of the caller's environment gets in except `PATH`; so no `PG*` variable, no passfile from somebody's home.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::servers::{User, client_program, default_major, open_to_all, server_user, system_psql};
use super::{PATIENCE, TestDir};

/// A program to run: which, with what arguments, as whom.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    stdin: Vec<u8>,
    user: Option<User>,
    timeout: Duration,
}

impl Tool {
    /// The program under test. Benchmarks run the one that `PGWAKE_PROGRAM` names, if it is set: `make bench` builds it as it is
    /// released.
    pub(crate) fn pgwake_program() -> OsString {
        std::env::var_os("PGWAKE_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_pgwake").into())
    }

    pub(crate) fn new(program: impl Into<PathBuf>) -> Tool {
        Tool {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: PathBuf::from("/"),
            stdin: Vec::new(),
            user: None,
            timeout: PATIENCE,
        }
    }

    /// The `pgwake` under test.
    pub(crate) fn pgwake() -> Tool {
        Tool::new(Tool::pgwake_program())
    }

    /// A client program of PostgreSQL: of `major`, or a newer one where that build has none.
    pub(crate) fn client(major: u32, name: &str) -> Tool {
        Tool::new(client_program(major, name))
    }

    /// `psql`: the system's own, for it has TLS, which not every build that we fetch has.
    pub(crate) fn psql() -> Tool {
        Tool::new(system_psql().unwrap_or_else(|| client_program(default_major(), "psql")))
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Tool {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Tool {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The working directory; `/` unless set.
    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Tool {
        self.dir = dir.into();
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Tool {
        self.stdin = bytes.into();
        self
    }

    /// Runs it as the user that servers run as, when we are root. The program may lie where that user cannot
    /// reach it (a checkout in root's home): then a copy of it runs.
    pub(crate) fn by_server_user(mut self) -> Tool {
        self.user = server_user();
        if self.user.is_some() && !open_to_all(&self.program) {
            self.program = reachable_copy(&self.program);
        }
        self
    }

    /// What is run.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// How long it may take before it is killed and the test fails.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Tool {
        self.timeout = timeout;
        self
    }

    /// Puts another program in front: `wrapper args… program args…`.
    pub(crate) fn under(
        mut self,
        wrapper: impl Into<PathBuf>,
        args: impl IntoIterator<Item = OsString>,
    ) -> Tool {
        let mut wrapped: Vec<OsString> = args.into_iter().collect();
        wrapped.push(std::mem::replace(&mut self.program, wrapper.into()).into_os_string());
        wrapped.append(&mut self.args);
        self.args = wrapped;
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(&self) -> Outcome {
        self.spawn().wait()
    }

    /// Starts it, to be watched and signalled.
    #[track_caller]
    pub(crate) fn spawn(&self) -> Running {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LC_ALL", "C").env("HOME", "/nonexistent").env("RUST_BACKTRACE", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {}: {error}", self.program.display()));
        if let Some(mut stdin) = child.stdin.take() {
            let bytes = self.stdin.clone();
            std::thread::spawn(move || stdin.write_all(&bytes));
        }
        Running {
            name: self.to_string(),
            started: Instant::now(),
            timeout: self.timeout,
            stdout: Captured::of(child.stdout.take()),
            stderr: Captured::of(child.stderr.take()),
            child,
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.display()))
    }
}

fn reachable_copy(program: &Path) -> PathBuf {
    static COPIES: OnceLock<TestDir> = OnceLock::new();
    static COPYING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = COPYING.lock();
    let copy =
        COPIES.get_or_init(TestDir::new).join(&program.file_name().unwrap_or_default().to_string_lossy());
    if !copy.exists() {
        fs::copy(program, &copy).expect("copy a program to where the servers' user can reach it");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("make the copy a program");
    }
    copy
}

/// A program that runs. It is killed when this is dropped; if that is because the test has failed, what it said on standard error
/// is shown.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    started: Instant,
    timeout: Duration,
    stdout: Captured,
    stderr: Captured,
    child: Child,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub(crate) fn kill9(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("could not signal {}: {error}", self.name));
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn stdout_so_far(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr_so_far(&self) -> String {
        self.stderr.text()
    }

    /// Waits until `text` appears on standard error. Panics if the program ends, or takes too long, without.
    #[track_caller]
    pub(crate) fn wait_for_stderr(&mut self, text: &str) {
        self.wait_for(&[text], |running| running.stderr.text());
    }

    /// Waits until `text` appears on standard output. Panics if the program ends, or takes too long, without.
    #[track_caller]
    pub(crate) fn wait_for_stdout(&mut self, text: &str) {
        self.wait_for(&[text], |running| running.stdout.text());
    }

    /// Waits until one of `texts` appears on standard error. Panics if the program ends, or takes too long, without.
    #[track_caller]
    pub(crate) fn wait_for_either_on_stderr(&mut self, texts: &[&str]) {
        self.wait_for(texts, |running| running.stderr.text());
    }

    #[track_caller]
    fn wait_for(&mut self, texts: &[&str], output: impl Fn(&Running) -> String) {
        let said = |running: &Running| {
            let output = output(running);
            texts.iter().any(|text| output.contains(text))
        };
        while !said(self) {
            let ended = !self.is_running() && self.stdout.ended() && self.stderr.ended();
            if (ended || self.started.elapsed() > self.timeout) && !said(self) {
                panic!("{} never said {texts:?}\n{}\n{}", self.name, self.stdout.text(), self.stderr.text());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end. Panics, after killing it, when it takes longer than its timeout.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for a child") {
                break status;
            }
            if self.started.elapsed() > self.timeout {
                let (name, timeout) = (&self.name, self.timeout);
                panic!("{name} took over {timeout:?}\n{}\n{}", self.stdout.text(), self.stderr.text());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // a server that it started may hold the pipes for as long as it lives
        let patience = Instant::now() + Duration::from_secs(2);
        while !(self.stdout.ended() && self.stderr.ended()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        Outcome {
            name: self.name.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.text(),
            stdout_bytes: self.stdout.bytes(),
            stderr: self.stderr.text(),
            output_held_open: !(self.stdout.ended() && self.stderr.ended()),
            elapsed: self.started.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            if std::thread::panicking() {
                eprintln!("{} was running, and had said:\n{}", self.name, self.stderr.text().trim_end());
            }
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    /// The same, for what is no text.
    pub(crate) stdout_bytes: Vec<u8>,
    pub(crate) stderr: String,
    /// The program ended, but something that it started still has its standard output or error.
    pub(crate) output_held_open: bool,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// Panics, showing all, unless the exit code is 0.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Outcome {
        self.exited(0)
    }

    /// Panics, showing all, unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn exited(self, code: i32) -> Outcome {
        assert!(self.code == Some(code), "exit code {code} was expected\n{self}");
        self
    }

    /// Panics unless `text` is on standard output.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Outcome {
        assert!(self.stdout.contains(text), "expected {text:?} on standard output\n{self}");
        self
    }

    /// Panics, showing all, unless standard error has `text`.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Outcome {
        assert!(self.stderr.contains(text), "standard error was expected to have {text:?}\n{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\nexit code {:?}, signal {:?}, {:?}",
            self.name, self.code, self.signal, self.elapsed
        )?;
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// What a thread has read from a pipe so far.
#[derive(Debug)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Captured {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Captured {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (filled, mut pipe) = (Arc::clone(&bytes), pipe.expect("a piped stream"));
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                filled.lock().expect("no panic while appending").extend_from_slice(&chunk[..count]);
            }
        });
        Captured { bytes, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("no panic while appending").clone()
    }

    fn ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Every entry below `dir`, one a line and sorted, for comparing whole directories:
///
/// ```text
/// d 0700 base
/// f 0600 8192 base/1259
/// l pg_tblspc/16385 -> /srv/fast
/// ```
#[track_caller]
pub(crate) fn tree(dir: &Path) -> String {
    let mut lines = Vec::new();
    walk(dir, dir, &mut lines);
    lines.sort_by(|(left, _), (right, _)| left.cmp(right));
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

#[track_caller]
fn walk(root: &Path, dir: &Path, lines: &mut Vec<(PathBuf, String)>) {
    let entries =
        fs::read_dir(dir).unwrap_or_else(|error| panic!("could not list {}: {error}", dir.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            // renamed by a program that runs meanwhile
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("could not look at {}: {error}", path.display()),
        };
        let mode = metadata.permissions().mode() & 0o7777;
        let name = path.strip_prefix(root).expect("below the root").to_owned();
        let shown = name.display();
        let line = if metadata.is_dir() {
            walk(root, &path, lines);
            format!("d {mode:04o} {shown}")
        } else if metadata.is_symlink() {
            format!("l {shown} -> {}", fs::read_link(&path).expect("a link's target").display())
        } else if metadata.is_file() {
            format!("f {mode:04o} {} {shown}", metadata.len())
        } else {
            format!("? {mode:04o} {shown}")
        };
        lines.push((name, line));
    }
}
