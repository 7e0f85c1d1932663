//! Machines to run a document on: each has its own network address, process ids, files below `/srv`, `/home`, `/tmp` and
//! `/run`, and a shell that stays. They see each other by name.
//!
//! They are namespaces of this machine, joined by a bridge in one more. A machine ends with its shell, and the shell with
//! this process: nothing is left.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::support::servers::{bin_dir, find_program, is_root};
use crate::support::{PATIENCE, TestDir, wait_until};

/// Why there can be no machines here, if so.
pub(super) fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("root");
    }
    let programs = ["bash", "curl", "ip", "nsenter", "setpriv", "unshare"];
    if let Some(program) = programs.into_iter().find(|program| find_program(program).is_none()) {
        return Some(program);
    }
    let try_them =
        "ip link set lo up && ip link add port0 type veth peer name eth0 && ip link add br0 type bridge";
    let mut attempt = Command::new("unshare");
    attempt.args(["--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "sh", "-c", try_them]);
    let worked = attempt.stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!worked.is_ok_and(|status| status.success())).then_some("namespaces")
}

/// Machines and what joins them.
pub(super) struct Machines {
    machines: Vec<Machine>,
    _switch: Switch,
    _dir: TestDir,
}

impl Machines {
    /// One for each name, empty but for the programs of that PostgreSQL, and `pgwake`.
    pub(super) fn start(names: &[&str], major: u32) -> Machines {
        let dir = TestDir::new();
        let hosts: String =
            names.iter().enumerate().map(|(index, name)| format!("10.0.0.{} {name}\n", index + 1)).collect();
        dir.file("hosts", 0o644, format!("127.0.0.1 localhost\n{hosts}"));
        let bin = dir.subdir("bin", 0o755);
        std::fs::copy(env!("CARGO_BIN_EXE_pgwake"), bin.join("pgwake")).expect("copy pgwake");
        let switch = Switch::start();
        let path = format!("/usr/local/bin:{}:/usr/bin:/bin", bin_dir(major).expect("a server").display());
        let start = |(index, name): (usize, &&str)| {
            let machine = Machine::start(name, &dir, &path);
            switch.connect(&machine, index + 1);
            machine
        };
        Machines { machines: names.iter().enumerate().map(start).collect(), _switch: switch, _dir: dir }
    }

    #[track_caller]
    pub(super) fn named(&mut self, name: &str) -> &mut Machine {
        self.machines.iter_mut().find(|machine| machine.name == name).unwrap_or_else(|| panic!("no {name}"))
    }
}

/// What came of a command.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: i32,
    /// Both streams, as they came.
    pub(super) output: String,
}

/// A machine.
pub(super) struct Machine {
    name: String,
    shell: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// Ends what a command has printed; its exit code follows.
const END: &str = "--- that was all: ";

/// As root: its own files, and then a shell of the servers' user.
const BOOT: &str = r#"
set -e
dir=$1 name=$2
mount --make-rprivate /
mount --bind "$dir/hosts" /etc/hosts
mount --bind "$dir/bin" /usr/local/bin
for place in srv home run tmp; do
    mkdir -p "$dir/$name/$place"
    mount --bind "$dir/$name/$place" "/$place"
done
chmod 1777 /tmp
chmod 755 /srv /home /run
mkdir -p /run/postgresql /home/postgres
chown postgres:postgres /srv /home/postgres /run/postgresql
cd /home/postgres
export HOME=/home/postgres USER=postgres LOGNAME=postgres LC_ALL=C PATH=$3 RUST_BACKTRACE=1
hostname "$name"
echo "$4""0"
exec setpriv --reuid=postgres --regid=postgres --clear-groups bash --noprofile --norc
"#;

impl Machine {
    fn start(name: &str, dir: &TestDir, path: &str) -> Machine {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]);
        unshare.args(["bash", "-c", BOOT, "boot"]).arg(dir.path()).args([name, path, END]).env_clear();
        unshare.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let mut shell = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start unshare");
        let stdin = shell.stdin.take().expect("a piped stream");
        let lines = lines_of(shell.stdout.take().expect("a piped stream"));
        let mut machine = Machine { name: name.to_owned(), shell, stdin, lines };
        let booted = machine.output(PATIENCE);
        assert!(booted.code == 0, "{name} did not start: {}", booted.output);
        machine
    }

    /// Runs a command in the machine's shell, which keeps its variables and what runs in the background.
    pub(super) fn run(&mut self, command: &str) -> Ran {
        let script = format!(
            "{{ {command}\n}} </dev/null >/tmp/.output 2>&1; code=$?; cat /tmp/.output; printf '\\n%s%s\\n' '{END}' $code\n"
        );
        self.stdin.write_all(script.as_bytes()).expect("a shell that reads");
        self.stdin.flush().expect("a shell that reads");
        self.output(PATIENCE)
    }

    fn output(&mut self, patience: Duration) -> Ran {
        let mut output = String::new();
        loop {
            match self.lines.recv_timeout(patience) {
                Ok(line) => match line.strip_prefix(END) {
                    Some(code) => {
                        let code = code.trim().parse().expect("an exit code");
                        return Ran { code, output: output.trim_end_matches('\n').to_owned() };
                    }
                    None => output.extend([line.as_str(), "\n"]),
                },
                Err(RecvTimeoutError::Timeout) => panic!("{} is stuck after: {output}", self.name),
                Err(RecvTimeoutError::Disconnected) => return Ran { code: -1, output },
            }
        }
    }

    fn network(&self) -> PathBuf {
        network_of(&self.shell)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The namespaces that `unshare` is in itself: all but that of process ids.
fn network_of(unshare: &Child) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", unshare.id()))
}

/// The bridge between the machines.
struct Switch(Child);

impl Switch {
    fn start() -> Switch {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--fork", "--kill-child", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let switch = Switch(unshare.spawn().expect("start unshare"));
        let outside = std::fs::read_link("/proc/self/ns/net").expect("a network namespace");
        wait_until("the switch has a network of its own", || {
            std::fs::read_link(network_of(&switch.0)).is_ok_and(|network| network != outside)
        });
        inside(&network_of(&switch.0), "ip link add br0 type bridge && ip link set br0 up");
        switch
    }

    fn connect(&self, machine: &Machine, number: usize) {
        let pid = machine.shell.id();
        let port = format!(
            "ip link add port{number} type veth peer name eth0 netns {pid} && \
             ip link set port{number} master br0 up"
        );
        inside(&network_of(&self.0), &port);
        let card =
            format!("ip link set lo up && ip addr add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up");
        inside(&machine.network(), &card);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inside(network: &Path, script: &str) {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={}", network.display())).args(["sh", "-c", script]);
    let output = nsenter.output().expect("run nsenter");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}
