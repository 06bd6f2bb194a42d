//! Connections on which nothing passes any more are ended, and those on which something does are not.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use meltemi_tunnel::{Limits, Patience, Quiet, RelayEnd, relay_tcp, relay_tunnel};
use std::io::ErrorKind;
use std::time::Duration;
use support::{Mesh, Unmetered, application, pair, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

const SHORT: Duration = Duration::from_millis(100);

const HALF_CLOSED: Patience = Patience { half_closed: Some(SHORT), idle: None };

/// Reads the end of input, and then does nothing for ever.
async fn silent() -> std::net::SocketAddr {
    application(|mut socket| async move {
        let _ = socket.read_to_end(&mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_half_closed_connection_ends_when_nothing_comes() {
    let app = silent().await;
    let mesh = Mesh::start(Limits::default()).await;
    let (mut client, proxied) = pair().await;
    let mut stream = mesh.open(app).await;
    let relay =
        tokio::spawn(async move { relay_tunnel(&proxied, &mut stream, &Unmetered, HALF_CLOSED).await });
    client.shutdown().await.unwrap();
    let end = soon("end", relay).await.unwrap();
    assert!(matches!(end, RelayEnd::Quiet(Quiet::HalfClosed(SHORT))), "{end:?}");
    let seen = soon("reset", client.read_u8()).await.unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn so_does_one_without_a_tunnel_and_both_ends_learn_it() {
    let (mut client, first) = pair().await;
    let (mut server, second) = pair().await;
    let relay = tokio::spawn(async move { relay_tcp(&first, &second, &Unmetered, HALF_CLOSED).await });
    server.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let end = soon("end", relay).await.unwrap();
    assert!(matches!(end, RelayEnd::Quiet(Quiet::HalfClosed(_))), "{end:?}");
    let seen = soon("reset", server.read_u8()).await.unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
    let seen = soon("end", client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty() && seen.is_ok_and(|n| n == 0), "the other's end of output came first");
    assert!(client.write_all(b"x").await.is_err() || client.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn one_that_is_only_idle_ends_where_that_is_asked_for() {
    let (_client, first) = pair().await;
    let (_server, second) = pair().await;
    let patience = Patience { half_closed: None, idle: Some(SHORT) };
    let end = soon("end", relay_tcp(&first, &second, &Unmetered, patience)).await;
    assert!(matches!(end, RelayEnd::Quiet(Quiet::Idle(SHORT))), "{end:?}");
}

/// Virtual time would run ahead of sockets, so this takes a while of real time.
#[tokio::test]
async fn a_byte_now_and_then_keeps_a_half_closed_connection() {
    let (mut client, first) = pair().await;
    let (mut server, second) = pair().await;
    let patience = Patience { half_closed: Some(10 * SHORT), idle: None };
    let relay: JoinHandle<_> =
        tokio::spawn(async move { relay_tcp(&first, &second, &Unmetered, patience).await });
    client.shutdown().await.unwrap();
    let mut ticks = tokio::time::interval(SHORT);
    for _ in 0..30 {
        ticks.tick().await;
        server.write_u8(7).await.unwrap();
        assert_eq!(soon("byte", client.read_u8()).await.unwrap(), 7);
    }
    server.shutdown().await.unwrap();
    let end = soon("end", relay).await.unwrap();
    assert!(matches!(end, RelayEnd::Finished), "{end:?}");
}

#[tokio::test]
async fn a_tunnel_that_its_client_keeps_idle_is_ended_by_the_server() {
    let mesh = Mesh::start(Limits { idle: SHORT, ..Limits::default() }).await;
    let tcp = tokio::net::TcpStream::connect(mesh.key.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    let _ = soon("end", connection).await;
    drop::<h2::client::SendRequest<bytes::Bytes>>(sender);
}
