//! A primary that is none: a socket, a script, and whatever bytes a test wants a client to see.
//!
//! It lets everybody in (trust) and then answers each command with the first of its answers that fits, or with what a
//! primary with nothing special would say. Threads end with the process.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Writes to a client; an error means that it has gone, which is what most tests want.
pub(crate) type Answer = Box<dyn Fn(&mut TcpStream) -> io::Result<()> + Send + Sync>;
/// The same, for who has to know the whole command.
type AnswerTo = Box<dyn Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync>;

/// The script of a primary.
#[derive(Default)]
pub(crate) struct Script {
    greeting: Option<Answer>,
    answers: Vec<(String, AnswerTo)>,
}

impl Script {
    /// A primary with nothing special.
    pub(crate) fn new() -> Script {
        Script::default()
    }

    /// What is said instead of the usual after the startup packet.
    pub(crate) fn greeting(
        mut self,
        answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Script {
        self.greeting = Some(Box::new(answer));
        self
    }

    /// What is said to commands that begin like this.
    pub(crate) fn on(
        self,
        command: &str,
        answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Script {
        self.on_command(command, move |_, client| answer(client))
    }

    /// As [`Script::on`], with the whole command.
    pub(crate) fn on_command(
        mut self,
        command: &str,
        answer: impl Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Script {
        self.answers.push((command.to_owned(), Box::new(answer)));
        self
    }

    /// As [`Script::on`], with the same bytes each time.
    pub(crate) fn says(self, command: &str, bytes: Vec<u8>) -> Script {
        self.on(command, move |client| client.write_all(&bytes))
    }

    /// Goes on stage.
    pub(crate) fn perform(self) -> ScriptedPrimary {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let (script, commands) = (Arc::new(self), Arc::new(Mutex::new(Vec::new())));
        let connections = Arc::new(AtomicUsize::new(0));
        let (heard, counted) = (Arc::clone(&commands), Arc::clone(&connections));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::Relaxed);
                let (script, heard) = (Arc::clone(&script), Arc::clone(&heard));
                std::thread::spawn(move || script.play(client, &heard));
            }
        });
        ScriptedPrimary { port, commands, connections }
    }

    fn play(&self, mut client: TcpStream, heard: &Mutex<Vec<String>>) -> io::Result<()> {
        let startup = loop {
            let body = read_body(&mut client)?;
            // no TLS, no GSSAPI here
            if body.starts_with(&80_877_103u32.to_be_bytes())
                || body.starts_with(&80_877_104u32.to_be_bytes())
            {
                client.write_all(b"N")?;
            } else {
                break body;
            }
        };
        if !startup.windows(12).any(|window| window == b"replication\0") {
            return client.write_all(&report(b'E', "FATAL", "28000", "replication only"));
        }
        match &self.greeting {
            Some(greeting) => greeting(&mut client)?,
            None => client.write_all(&welcome())?,
        }
        loop {
            let mut tag = [0];
            client.read_exact(&mut tag)?;
            let body = read_body(&mut client)?;
            match tag[0] {
                b'Q' => {
                    let command = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
                    heard.lock().expect("no panic while appending").push(command.clone());
                    match self.answers.iter().find(|(beginning, _)| command.starts_with(beginning)) {
                        Some((_, answer)) => answer(&command, &mut client)?,
                        None => client.write_all(&usual_answer(&command))?,
                    }
                }
                b'X' => return Ok(()),
                _ => {}
            }
        }
    }
}

/// It runs.
pub(crate) struct ScriptedPrimary {
    port: u16,
    commands: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl ScriptedPrimary {
    pub(crate) fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable", self.port)
    }

    /// The commands that came.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().expect("no panic while appending").clone()
    }

    /// How many clients came.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The next message: its tag and its body.
pub(crate) fn read_message(client: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut tag = [0];
    client.read_exact(&mut tag)?;
    Ok((tag[0], read_body(client)?))
}

fn read_body(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    client.read_exact(&mut len)?;
    let mut body = vec![0; (u32::from_be_bytes(len) as usize).saturating_sub(4)];
    client.read_exact(&mut body)?;
    Ok(body)
}

// ---- bytes ----

/// One message.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    header(tag, u32::try_from(body.len()).expect("a body that fits") + 4, body)
}

/// One message whose length is a lie.
pub(crate) fn header(tag: u8, len: u32, body: &[u8]) -> Vec<u8> {
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

/// What comes after the startup packet.
pub(crate) fn welcome() -> Vec<u8> {
    let parameter = |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
    [
        message(b'R', &[0; 4]),
        parameter("server_version", "15.4"),
        parameter("integer_datetimes", "on"),
        parameter("in_hot_standby", "off"),
        message(b'K', &[0; 8]),
        ready(),
    ]
    .concat()
}

/// ReadyForQuery.
pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// CommandComplete.
pub(crate) fn complete() -> Vec<u8> {
    message(b'C', b"SELECT\0")
}

/// An ErrorResponse, or with `N` a notice.
pub(crate) fn report(tag: u8, severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    message(tag, format!("S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0\0").as_bytes())
}

/// RowDescription of `columns` columns of text.
pub(crate) fn columns(columns: usize) -> Vec<u8> {
    let mut body = u16::try_from(columns).expect("not that many columns").to_be_bytes().to_vec();
    for _ in 0..columns {
        body.extend(b"c\0\0\0\0\0\0\0\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0");
    }
    message(b'T', &body)
}

/// DataRow.
pub(crate) fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).expect("not that many values").to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(text) => {
                body.extend(u32::try_from(text.len()).expect("a value that fits").to_be_bytes());
                body.extend(text.as_bytes());
            }
            None => body.extend([0xFF; 4]),
        }
    }
    message(b'D', &body)
}

/// A result set with one row.
pub(crate) fn result(values: &[Option<&str>]) -> Vec<u8> {
    [columns(values.len()), row(values), complete()].concat()
}

/// [`result`] as the whole answer.
pub(crate) fn answer(values: &[Option<&str>]) -> Vec<u8> {
    [result(values), ready()].concat()
}

/// CopyBothResponse: WAL follows.
pub(crate) fn copy_both() -> Vec<u8> {
    message(b'W', &[0, 0, 0])
}

/// CopyOutResponse: a backup follows.
pub(crate) fn copy_out() -> Vec<u8> {
    message(b'H', &[0, 0, 0])
}

/// CopyData.
pub(crate) fn copy_data(payload: &[u8]) -> Vec<u8> {
    message(b'd', payload)
}

/// CopyDone.
pub(crate) fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

/// WAL from `lsn` on.
pub(crate) fn wal(lsn: u64, data: &[u8]) -> Vec<u8> {
    let end = lsn.wrapping_add(data.len() as u64);
    copy_data(&[b"w", &lsn.to_be_bytes()[..], &end.to_be_bytes(), &[0; 8], data].concat())
}

/// A keepalive.
pub(crate) fn keepalive(wal_end: u64, reply_requested: bool) -> Vec<u8> {
    copy_data(&[b"k", &wal_end.to_be_bytes()[..], &[0; 8], &[u8::from(reply_requested)]].concat())
}

/// Where the scripted primary's WAL ends, on timeline 1, in segments of 1 MB.
pub(crate) const WAL_END: u64 = 0x0040_0000;

fn usual_answer(command: &str) -> Vec<u8> {
    let word = |beginning: &str| command.starts_with(beginning);
    if word("IDENTIFY_SYSTEM") {
        answer(&[Some("7000000000000000001"), Some("1"), Some("0/400000"), None])
    } else if word("SHOW wal_segment_size") {
        answer(&[Some("1MB")])
    } else if word("SHOW data_directory_mode") {
        answer(&[Some("0700")])
    } else if word("SHOW wal_level") {
        answer(&[Some("replica")])
    } else if word("READ_REPLICATION_SLOT") {
        answer(&[None, None, None])
    } else if word("CREATE_REPLICATION_SLOT") {
        let name =
            command.split(['"', ' ']).find(|word| !word.is_empty() && *word != "CREATE_REPLICATION_SLOT");
        answer(&[name, Some("0/400000"), None, None])
    } else if word("DROP_REPLICATION_SLOT") {
        [message(b'C', b"DROP_REPLICATION_SLOT\0"), ready()].concat()
    } else if word("START_REPLICATION") {
        copy_both()
    } else {
        [report(b'E', "ERROR", "42601", "this primary only plays one"), ready()].concat()
    }
}
