//! Peers that send what costs us more than them: each loses its own tunnel, at most.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use meltemi_tunnel::Limits;
use std::time::Duration;
use support::{Mesh, application, request, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Connects below HTTP/2 and begins it.
async fn raw(mesh: &Mesh) -> TcpStream {
    let mut tcp = TcpStream::connect(mesh.key.address).await.unwrap();
    tcp.write_all(PREFACE).await.unwrap();
    tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    tcp
}

/// Others are served as before.
async fn is_served(mesh: &Mesh) {
    let app = application(|mut socket| async move {
        let _ = socket.write_all(b"k").await;
    })
    .await;
    let mut client = mesh.connect(app).await;
    assert_eq!(soon("byte", client.read_u8()).await.unwrap(), b'k');
}

#[tokio::test]
async fn headers_without_an_end_are_cut_off() {
    let mesh = Mesh::start(Limits::default()).await;
    let mut tcp = raw(&mesh).await;
    tcp.write_all(&frame(HEADERS, 0, 1, &[])).await.unwrap();
    let more = frame(CONTINUATION, 0, 1, &[0; 1024]);
    soon("end", async { while tcp.write_all(&more).await.is_ok() {} }).await;
    is_served(&mesh).await;
}

/// Sends without reading the answers. True if the peer stopped taking more, false if it hung up.
async fn flood(tcp: &mut TcpStream, piece: &[u8]) -> bool {
    let flooding = async { while tcp.write_all(piece).await.is_ok() {} };
    // Sockets' buffers take some megabytes; a peer that goes on taking after that holds them itself.
    tokio::time::timeout(Duration::from_secs(2), flooding).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_piled_up() {
    for piece in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
        let mesh = Mesh::start(Limits::default()).await;
        let mut tcp = raw(&mesh).await;
        let many = piece.repeat(4096);
        if flood(&mut tcp, &many).await {
            // Nothing is taken any more: not one byte within the time that a piece took before.
            let more = tokio::time::timeout(Duration::from_millis(200), tcp.writable()).await;
            assert!(more.is_err(), "answers pile up");
        }
        is_served(&mesh).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_once_end_the_tunnel_or_nothing() {
    let mesh = Mesh::start(Limits::default()).await;
    let tcp = TcpStream::connect(mesh.key.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..5000 {
        let Ok(ready) = sender.clone().ready().await else { break };
        sender = ready;
        let connect = http::Request::connect(support::SILENT.to_string()).body(()).unwrap();
        // Dropping both halves resets the stream.
        if sender.send_request(connect, false).is_err() {
            break;
        }
    }
    is_served(&mesh).await;
    drop(sender);
    let _ = soon("end", driver).await;
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused_alone() {
    let mesh = Mesh::start(Limits::default()).await;
    let mut long = request(support::SILENT);
    long.baggage = Some(http::HeaderValue::from_str(&"x".repeat(20 << 10)).unwrap());
    assert!(soon("refusal", mesh.pool.open(&mesh.key, &long)).await.is_err());
    is_served(&mesh).await;
}
