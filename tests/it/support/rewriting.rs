//! A proxy that lies: what the server says is changed on its way, at the first place where it stands in a connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// Listens on a port of its own, in threads that end with the process. `from` and `to` have the same length.
pub(crate) fn front(server_port: u16, from: String, to: String) -> u16 {
    assert_eq!(from.len(), to.len());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { continue };
            let (from, to) = (from.clone(), to.clone());
            std::thread::spawn(move || carry(&client, &server, &from, &to));
        }
    });
    port
}

fn carry(client: &TcpStream, server: &TcpStream, from: &str, to: &str) {
    let (Ok(mut client_in), Ok(mut server_out)) = (client.try_clone(), server.try_clone()) else { return };
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut client_in, &mut server_out);
        let _ = server_out.shutdown(std::net::Shutdown::Write);
    });
    let (mut server_in, mut client_out) = (server, client);
    let mut buffer = vec![0; 64 << 10];
    let mut changed = false;
    while let Ok(len) = server_in.read(&mut buffer) {
        let piece = &mut buffer[..len];
        if !changed && let Some(at) = piece.windows(from.len()).position(|window| window == from.as_bytes()) {
            piece[at..at + to.len()].copy_from_slice(to.as_bytes());
            changed = true;
        }
        if len == 0 || client_out.write_all(piece).is_err() {
            break;
        }
    }
    let _ = client_out.shutdown(std::net::Shutdown::Both);
}
