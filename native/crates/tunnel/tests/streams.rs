//! What an application sees of a connection that is carried in a tunnel.
mod support;
use meltemi_tunnel::{Limits, Patience, relay_tcp};
use socket2::SockRef;
use std::io::ErrorKind;
use std::time::Duration;
use support::{Mesh, Unmetered, application, pair, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

#[tokio::test]
async fn the_client_may_end_first_and_still_read() {
    let app = application(|mut socket| async move {
        let mut asked = Vec::new();
        socket.read_to_end(&mut asked).await.unwrap();
        socket.write_all(format!("got {}", asked.len()).as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("answer", client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "got 5");
}

#[tokio::test]
async fn the_server_may_end_first_and_still_read() {
    let (sent, mut seen) = tokio::sync::mpsc::channel(1);
    let app = application(move |mut socket| {
        let sent = sent.clone();
        async move {
            socket.write_all(b"220 ready").await.unwrap();
            socket.shutdown().await.unwrap();
            let mut rest = String::new();
            socket.read_to_string(&mut rest).await.unwrap();
            sent.send(rest).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    let mut greeting = String::new();
    soon("greeting", client.read_to_string(&mut greeting)).await.unwrap();
    assert_eq!(greeting, "220 ready");
    client.write_all(b"after the end").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(soon("rest", seen.recv()).await.unwrap(), "after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_tiny_transfers_arrive_unchanged() {
    let app = application(|mut socket| async move {
        let (mut read, mut write) = socket.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    for length in [0, 1, 4095, 4096, 100 << 20] {
        let sent = pattern(length, length as u64);
        let (mut read, mut write) = mesh.connect(app).await.into_split();
        let writing = sent.clone();
        let writer = tokio::spawn(async move {
            write.write_all(&writing).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut echoed = Vec::with_capacity(length);
        soon("echo", read.read_to_end(&mut echoed)).await.unwrap();
        writer.await.unwrap();
        assert!(echoed == sent, "{length} bytes were changed on the way");
    }
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_server() {
    let (sent, mut seen) = tokio::sync::mpsc::channel(1);
    let app = application(move |mut socket| {
        let sent = sent.clone();
        async move {
            let mut byte = [0; 1];
            socket.read_exact(&mut byte).await.unwrap();
            sent.send(socket.read(&mut byte).await.map_err(|e| e.kind())).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.write_all(b"x").await.unwrap();
    // A reset may overtake data; the byte should be there first.
    client.set_linger_zero();
    drop(client);
    let end = soon("end", seen.recv()).await.unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_by_the_server_reaches_the_client() {
    let app = application(|mut socket| async move {
        let mut byte = [0; 1];
        socket.read_exact(&mut byte).await.unwrap();
        socket.set_linger_zero();
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.write_all(b"x").await.unwrap();
    let mut byte = [0; 1];
    let end = soon("end", client.read(&mut byte)).await;
    assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn what_was_sent_before_a_reset_arrives_before_it() {
    let app = application(|mut socket| async move {
        // Unread input makes the close a reset that the data precedes.
        socket.write_all(b"no").await.unwrap();
        let mut byte = [0; 1];
        socket.peek(&mut byte).await.unwrap();
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    for _ in 0..50 {
        let mut client = mesh.connect(app).await;
        client.write_all(b"x").await.unwrap();
        let mut answer = [0; 2];
        soon("answer", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"no");
        let end = soon("end", client.read(&mut answer)).await;
        assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn a_reset_passes_also_after_the_end_of_input() {
    let (sent, mut seen) = tokio::sync::mpsc::channel(1);
    let app = application(move |mut socket| {
        let sent = sent.clone();
        async move {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            sent.send(None).await.unwrap();
            // Writes until the reset arrives.
            let error = loop {
                if let Err(error) = socket.write_all(&[0; 4096]).await {
                    break error;
                }
                tokio::task::yield_now().await;
            };
            sent.send(Some(error.kind())).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.shutdown().await.unwrap();
    assert_eq!(soon("input's end", seen.recv()).await, Some(None));
    client.set_linger_zero();
    drop(client);
    let error = soon("reset", seen.recv()).await.unwrap().unwrap();
    assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_slow_no_one_else() {
    let app = application(|mut socket| async move {
        let block = vec![1; 64 << 10];
        while socket.write_all(&block).await.is_ok() {}
    })
    .await;
    let mesh = Mesh::start(Limits::default()).await;
    // More than ambient's connection window (16 MiB) could hold.
    let mut stalled = Vec::new();
    for _ in 0..12 {
        stalled.push(mesh.connect(app).await);
    }
    let mut fast = mesh.connect(app).await;
    let mut left: usize = 256 << 20;
    let mut block = vec![0; 256 << 10];
    while left > 0 {
        left = left.saturating_sub(soon("fast stream", fast.read(&mut block)).await.unwrap());
    }
    assert_eq!(mesh.dials.load(std::sync::atomic::Ordering::SeqCst), 1, "all on one tunnel");
}

#[tokio::test]
async fn sockets_are_relayed_without_a_tunnel_as_well() {
    let (mut client, first) = pair().await;
    let (mut server, second) = pair().await;
    let relay =
        tokio::spawn(async move { relay_tcp(&first, &second, &Unmetered, Patience::default()).await });
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = String::new();
    soon("request", server.read_to_string(&mut asked)).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    drop(server);
    let mut answer = String::new();
    soon("answer", client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!((asked.as_str(), answer.as_str()), ("ping", "pong"));
    let end = soon("end", relay).await.unwrap();
    assert!(support::reset_cause(&end).is_none(), "{end:?}");
}

trait LingerZero {
    fn set_linger_zero(&self);
}

impl LingerZero for TcpStream {
    fn set_linger_zero(&self) {
        SockRef::from(self).set_linger(Some(Duration::ZERO)).expect("set_linger");
    }
}
