//! Applications that do not read cost the process no more than its budget, and only themselves.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use meltemi_tunnel::{Budget, Limits, Patience, RelayEnd, relay_tunnel};
use socket2::SockRef;
use std::net::SocketAddr;
use std::time::Duration;
use support::{Mesh, Unmetered, application, pair, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const LIMIT: usize = 8 << 20;

/// What a modest connection is sent: more than its sockets take, so that the proxy holds the rest.
const MODEST: usize = 192 << 10;

/// Sends without end.
async fn source() -> SocketAddr {
    application(|mut socket| async move {
        let block = vec![1; 64 << 10];
        while socket.write_all(&block).await.is_ok() {}
    })
    .await
}

/// Sends [`MODEST`] bytes, and then waits for the other's end.
async fn modest_source() -> SocketAddr {
    application(|mut socket| async move {
        socket.write_all(&[2; MODEST]).await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// A connection whose sockets take little, and how it ends in the proxy.
async fn narrow(mesh: &Mesh, to: SocketAddr) -> (TcpStream, JoinHandle<RelayEnd>) {
    let (client, proxied) = pair().await;
    SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
    SockRef::from(&proxied).set_send_buffer_size(4096).unwrap();
    let mut stream = mesh.open(to).await;
    (
        client,
        tokio::spawn(
            async move { relay_tunnel(&proxied, &mut stream, &Unmetered, Patience::default()).await },
        ),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_hold_no_more_than_the_budget() {
    let (app, budget) = (source().await, Budget::new(LIMIT));
    let mesh = Mesh::start(Limits { budget: budget.clone(), ..Limits::default() }).await;
    // Their windows could hold 160 MiB.
    let mut stalled = Vec::new();
    for _ in 0..40 {
        stalled.push(mesh.connect(app).await);
    }
    soon("stall", async {
        while budget.held() <= LIMIT / 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Each end sends as much as it is let: what is held is looked at until nothing has come for a while.
    let (mut most, mut last, mut quiet) = (0, 0, 0);
    soon("quiet", async {
        while quiet < 20 || last > 2 * LIMIT {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let held = budget.held();
            quiet = if held == last { quiet + 1 } else { 0 };
            (most, last) = (most.max(held), held);
        }
    })
    .await;
    assert!(most < 4 * LIMIT, "{most} bytes were held");
    drop(stalled);
    soon("release", async {
        while budget.held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_or_holds_little_is_not_ended_for_others() {
    let (app, modest_app, budget) = (source().await, modest_source().await, Budget::new(LIMIT));
    let mesh = Mesh::start(Limits { budget: budget.clone(), ..Limits::default() }).await;
    let other = Mesh::start(Limits { budget: budget.for_owner(), ..Limits::default() }).await;
    let mut modest = Vec::new();
    for _ in 0..20 {
        modest.push(narrow(&mesh, modest_app).await);
    }
    soon("modest connections are held", async {
        while budget.held() < 20 * MODEST / 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut hoards = Vec::new();
    for _ in 0..80 {
        hoards.push(narrow(&mesh, app).await);
    }
    // A little at a time: what waits for it grows again and again.
    let mut reads = other.connect(app).await;
    let mut block = vec![0; 64 << 10];
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..1500 {
        soon("bytes", reads.read_exact(&mut block)).await.unwrap();
        ticks.tick().await;
    }
    // The others asked for more than twice of what there is, and lost what is too much.
    soon("enough has ended", async {
        while budget.held() > 2 * LIMIT {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let ended = hoards.iter().filter(|(_, relay)| relay.is_finished()).count();
    assert!(0 < ended && ended < hoards.len(), "{ended} have ended");
    let kept = modest.iter().filter(|(_, relay)| !relay.is_finished()).count();
    assert_eq!(kept, modest.len());
}
