//! Servers that are not what they say: nothing that they send gets past the settings.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use pgwake::ErrorClass;
use pgwake::client::conninfo::{ConnInfo, Settings, SystemEnvironment};
use pgwake::client::{Purpose, open};

use super::harness::Lab;

/// Answers each connection with one script: what is sent after each thing that is received.
fn serve(script: &[&[u8]]) -> u16 {
    let script: Vec<Vec<u8>> = script.iter().map(|answer| answer.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut received = [0; 4096];
            for answer in &script {
                if stream.read(&mut received).unwrap_or(0) == 0 || stream.write_all(answer).is_err() {
                    break;
                }
            }
            // wait for the client to leave, so that it is not disturbed
            while stream.read(&mut received).is_ok_and(|len| len > 0) {}
        }
    });
    port
}

async fn refusal(script: &[&[u8]], options: &str) -> String {
    let lab = Lab::new();
    let conninfo =
        format!("host=127.0.0.1 port={} user=u password=p connect_timeout=5 {options}", serve(script));
    lab.connect(&conninfo, &[], Purpose::Sql).await.expect_err("a server that lies")
}

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
const PLUS: &[u8] = b"R\0\0\0\x1c\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0";

#[tokio::test]
async fn bytes_before_tls_are_not_taken_for_bytes_inside_it() {
    for answer in [&[b"SR\0\0\0\x08\0\0\0\0".as_slice()][..], &[b"Nx".as_slice()]] {
        let error = refusal(answer, "sslmode=require").await;
        assert!(error.contains("received unencrypted data after SSL response"), "{error}");
    }
}

#[tokio::test]
async fn tls_is_never_talked_away() {
    for (script, error) in [
        (&[b"N".as_slice()][..], "server does not support SSL, but SSL was required"),
        (&[b"E\0\0\0\x0cMtrust\0\0".as_slice()], "server sent an error response during SSL exchange"),
        (&[b"R".as_slice()], "received invalid response to SSL negotiation: R"),
        (&[b"S".as_slice(), b"R\0\0\0\x08\0\0\0\0"], "SSL error"),
    ] {
        for options in ["sslmode=require", "sslmode=require channel_binding=require"] {
            let given = refusal(script, options).await;
            assert!(given.contains(error), "{options}: {given}");
        }
    }
}

#[tokio::test]
async fn authentication_is_never_talked_away() {
    for (script, options, error) in [
        (&[OK][..], "sslmode=disable require_auth=scram-sha-256", "server did not complete authentication"),
        (&[CLEARTEXT], "sslmode=disable require_auth=scram-sha-256", "server requested a cleartext password"),
        (
            &[SASL, OK],
            "sslmode=disable",
            "server let the client in without proving that it knows the password",
        ),
        (
            &[PLUS],
            "sslmode=disable",
            "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
        ),
        (&[SASL, CLEARTEXT], "sslmode=disable", "unexpected authentication request"),
        (
            &[OK],
            "sslmode=disable channel_binding=require",
            "server authenticated client without channel binding",
        ),
        (&[SASL], "sslmode=disable channel_binding=require", "channel binding required, but SSL not in use"),
        (&[b"R\0\0\0\x08\0\0\0\x07"], "sslmode=disable", "GSSAPI authentication not supported"),
        (&[CLEARTEXT, CLEARTEXT], "sslmode=disable", "unexpected authentication request"),
    ] {
        let given = refusal(script, options).await;
        assert!(given.contains(error), "{options}: {given}");
    }
}

#[tokio::test]
async fn nonsense_is_not_the_protocol() {
    for (script, error) in [
        (&[b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice()][..], "received invalid response from server"),
        (&[b"R\xff\xff\xff\xff".as_slice()], "is too long"),
        (&[b"R\0\0\0\x03".as_slice()], "invalid length"),
        (&[b"E\0\x01\0\0".as_slice()], "is too long"),
        (&[b"N\0\x01\0\0".as_slice()], "is too long"),
        (&[b"Z\0\0\0\x05I".as_slice()], "unexpected ReadyForQuery message"),
        (&[b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0".as_slice()], "downgrade to a higher-numbered version"),
        (&[b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0".as_slice()], "asks for no changes"),
    ] {
        let given = refusal(script, "sslmode=disable").await;
        assert!(given.contains(error), "{given}");
    }
}

/// A postmaster that cannot fork writes without a frame: no reason to distrust it, or to give up.
#[tokio::test]
async fn a_server_without_a_process_for_us_is_only_busy() {
    let port = serve(&[b"Ecould not fork new process for connection: Cannot allocate memory\n\0"]);
    let conninfo = format!("host=127.0.0.1 port={port} user=u password=p sslmode=disable connect_timeout=5");
    let settings = Settings::resolve(&ConnInfo::parse(&conninfo).unwrap(), &SystemEnvironment).unwrap();
    let error = open(&settings, Purpose::Sql).await.err().expect("no connection");
    let told = "failed: could not fork new process for connection: Cannot allocate memory";
    assert!(error.to_string().ends_with(told), "{error}");
    assert_eq!(error.class(), ErrorClass::Transient);
}
