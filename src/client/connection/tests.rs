use tokio::io::AsyncWriteExt;

use super::*;
use crate::client::BackupStep;
use crate::client::conninfo::HostAddress;
use crate::pg::SlotName;
use crate::wire::command::{BaseBackup, CheckpointMode, DropWhenActive};

const MINUTE: Duration = Duration::from_secs(60);

fn connected() -> (Connection, tokio::io::DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let parameters = BTreeMap::from([("server_version".to_owned(), "17.0".to_owned())]);
    let host = HostSpec { name: None, address: HostAddress::DefaultSocketDir, port: 5432 };
    (Connection::new(Box::new(ours), FrameDecoder::new(), parameters, host).unwrap(), theirs)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        body.extend(value.map_or(-1, |value| value.len() as i32).to_be_bytes());
        body.extend(value.unwrap_or_default().as_bytes());
    }
    message(b'D', &body)
}

fn is_silent<T>(result: &Result<T, ClientError>) -> bool {
    matches!(result, Err(ClientError::Silent { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let (mut connection, theirs) = connected();
    connection.set_answer_timeout(Some(MINUTE));
    let begun = Instant::now();
    assert!(is_silent(&connection.identify_system().await));
    assert_eq!(begun.elapsed(), MINUTE);
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_silence() {
    let (mut connection, mut theirs) = connected();
    connection.set_answer_timeout(Some(MINUTE));
    let answer = [message(b'T', b"\0\0"), message(b'Z', b"I")].concat();
    let slowly = async {
        for byte in answer {
            tokio::time::sleep(MINUTE / 2).await;
            theirs.write_all(&[byte]).await.unwrap();
        }
    };
    let (result, ()) = tokio::join!(connection.query("SHOW x", "SHOW"), slowly);
    assert_eq!(result.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_may_take_long_is_waited_for() {
    let (mut connection, theirs) = connected();
    connection.set_answer_timeout(Some(MINUTE));
    let slot: SlotName = "s".parse().unwrap();
    let drop_slot = connection.drop_slot(&slot, DropWhenActive::Wait);
    assert!(tokio::time::timeout(100 * MINUTE, drop_slot).await.is_err());
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_backup_may_begin_late_and_then_be_silent_for_some_minutes() {
    let (mut connection, mut theirs) = connected();
    connection.set_answer_timeout(Some(MINUTE));
    let answer = async {
        tokio::time::sleep(30 * MINUTE).await;
        theirs.write_all(&backup_begins()).await.unwrap();
        tokio::time::sleep(4 * MINUTE).await;
        theirs.write_all(&message(b'd', b"x")).await.unwrap();
        theirs
    };
    let request = backup_request();
    let backup = async {
        let mut backup = connection.base_backup(&request).await.unwrap();
        assert!(matches!(backup.next().await.unwrap(), BackupStep::CopyBegin));
        assert!(matches!(backup.next().await.unwrap(), BackupStep::CopyData(_)));
        let begun = Instant::now();
        assert!(is_silent(&backup.next().await));
        assert_eq!(begun.elapsed(), 5 * MINUTE);
    };
    tokio::join!(backup, answer);
}

/// The server archives between the last archive and the manifest, and says nothing meanwhile.
#[tokio::test(start_paused = true)]
async fn archiving_that_a_backup_waits_for_takes_as_long_as_it_takes() {
    let (mut connection, mut theirs) = connected();
    let answer = async {
        theirs.write_all(&backup_begins()).await.unwrap();
        theirs.write_all(&message(b'd', b"nbase.tar\0\0")).await.unwrap();
        tokio::time::sleep(300 * MINUTE).await;
        theirs.write_all(&message(b'd', b"m")).await.unwrap();
        theirs
    };
    let request = BaseBackup { wait_for_archive: true, ..backup_request() };
    let backup = async {
        let mut backup = connection.base_backup(&request).await.unwrap();
        assert!(matches!(backup.next().await.unwrap(), BackupStep::CopyBegin));
        for _ in 0..2 {
            assert!(matches!(backup.next().await.unwrap(), BackupStep::CopyData(_)));
        }
    };
    tokio::join!(backup, answer);
}

/// Before the last archive it has nothing to wait for.
#[tokio::test(start_paused = true)]
async fn a_copy_that_has_just_begun_is_no_archiving() {
    let (mut connection, mut theirs) = connected();
    theirs.write_all(&backup_begins()).await.unwrap();
    let request = BaseBackup { wait_for_archive: true, ..backup_request() };
    let mut backup = connection.base_backup(&request).await.unwrap();
    assert!(matches!(backup.next().await.unwrap(), BackupStep::CopyBegin));
    let begun = Instant::now();
    assert!(is_silent(&backup.next().await));
    assert_eq!(begun.elapsed(), 5 * MINUTE);
}

/// A backup of no tablespaces, up to where the copy begins.
fn backup_begins() -> Vec<u8> {
    let set = |row| [message(b'T', b"\0\0"), row, message(b'C', b"SELECT\0")].concat();
    let start = set(row(&[Some("0/1"), Some("1")]));
    [start, set(row(&[None, None, None])), message(b'H', b"\0\0\0")].concat()
}

fn backup_request() -> BaseBackup {
    BaseBackup {
        label: String::new(),
        estimate_size: false,
        checkpoint: CheckpointMode::Spread,
        include_wal: false,
        wait_for_archive: false,
        max_rate_kb: None,
        tablespace_map: false,
        verify_checksums: true,
        manifest: None,
        incremental: false,
        target: None,
        compression: None,
    }
}

/// What the server said while the connection was made comes first, wherever notices go.
#[tokio::test]
async fn what_was_said_at_the_startup_is_told() {
    let said = message(b'N', b"SWARNING\0C01000\0Mpassword will expire soon\0\0");
    let frame = {
        let mut decoder = FrameDecoder::new();
        decoder.buffer_mut().extend_from_slice(&said);
        decoder.next_frame().unwrap().unwrap()
    };
    let BackendMessage::NoticeResponse(kept) = BackendMessage::parse(frame).unwrap() else { panic!() };
    let (connection, _theirs) = connected();
    let mut connection = connection.having_said(vec![kept]);
    let (told, notices) = std::sync::mpsc::channel();
    connection.on_notice(Box::new(move |notice| told.send(notice.message.clone()).unwrap()));
    assert_eq!(notices.recv().unwrap(), "password will expire soon");
}

/// Brings a byte at a time, and nothing every other time.
struct Dripping {
    bytes: std::vec::IntoIter<u8>,
    is_dry: bool,
    /// Nobody reads what is written.
    is_closed: bool,
}

impl AsyncRead for Dripping {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        this.is_dry = !this.is_dry;
        if this.is_dry {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        buffer.put_slice(&this.bytes.next().map_or(Vec::new(), |byte| vec![byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Dripping {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(if self.is_closed { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_copy_is_left_to_gather_each_time_that_all_of_it_was_taken() {
    const LEN: u32 = 2000;
    let (mut connection, _theirs) = connected();
    let bytes = message(b'd', &[0; LEN as usize]).into_iter();
    connection.transport = Box::new(Dripping { bytes, is_dry: false, is_closed: false });
    connection.set_pace(Pace::Bulk);
    let begun = std::time::Instant::now();
    assert!(matches!(connection.next_message().await.unwrap(), BackendMessage::CopyData(_)));
    assert!(begun.elapsed() >= LEN * GATHER_PAUSE, "a pause for each byte");
}

/// What cannot be sent any more is told of by what the server said last, though that is not there at the moment.
#[tokio::test]
async fn a_server_that_has_gone_has_the_last_word() {
    let last_word =
        message(b'E', b"SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0");
    for (bytes, is_told) in [(last_word, true), (Vec::new(), false)] {
        let (mut connection, _theirs) = connected();
        connection.transport =
            Box::new(Dripping { bytes: bytes.into_iter(), is_dry: false, is_closed: true });
        connection.outgoing().extend_from_slice(b"a status update");
        match connection.next_message().await {
            Err(ClientError::Server(error)) => assert!(is_told && error.is_fatal(), "{error}"),
            Err(ClientError::Send(_)) => assert!(!is_told),
            other => panic!("{other:?}"),
        }
    }
}
