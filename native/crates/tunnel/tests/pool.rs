//! Tunnels are shared, end when they should, and survive the streams on them.
mod support;
use meltemi_tunnel::{Limits, OpenError};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use support::{Mesh, SILENT, application, request, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn echo() -> std::net::SocketAddr {
    application(|mut socket| async move {
        let (mut read, mut write) = socket.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

#[tokio::test]
async fn connections_to_one_workload_share_a_tunnel() {
    let app = echo().await;
    let mesh = Mesh::start(Limits::default()).await;
    let opens = (0..50).map(|_| mesh.open(app));
    let streams = futures::future::join_all(opens).await;
    assert_eq!(streams.len(), 50);
    assert_eq!(mesh.dials.load(SeqCst), 1);
}

#[tokio::test]
async fn a_full_tunnel_is_joined_by_another() {
    let app = echo().await;
    let mesh = Mesh::start(Limits { max_streams: 10, ..Limits::default() }).await;
    let streams = futures::future::join_all((0..25).map(|_| mesh.open(app))).await;
    assert_eq!(mesh.dials.load(SeqCst), 3);
    drop(streams);
}

#[tokio::test]
async fn streams_given_up_on_the_way_leave_the_tunnel_usable() {
    let app = echo().await;
    let mesh = Mesh::start(Limits { max_streams: 4, ..Limits::default() }).await;
    drop(mesh.open(app).await);
    for _ in 0..64 {
        let request = request(SILENT);
        let opening = mesh.pool.open(&mesh.key, &request);
        assert!(tokio::time::timeout(Duration::from_millis(2), opening).await.is_err());
    }
    let mut client = mesh.connect(app).await;
    client.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    soon("echo", client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"still here");
}

#[tokio::test]
async fn a_tunnel_ends_with_its_destination() {
    let app = echo().await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(soon("echo", client.read_u8()).await.unwrap(), b'x');
    mesh.pool.retain(|key, ()| &*key.workload != "b-1");
    let end = soon("end", client.read_u8()).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(mesh.pool.is_empty());
    drop(mesh.open(app).await);
    assert_eq!(mesh.dials.load(SeqCst), 2);
}

#[tokio::test]
async fn an_idle_tunnel_ends() {
    let app = echo().await;
    let mesh = Mesh::start(Limits { idle: Duration::from_millis(50), ..Limits::default() }).await;
    drop(mesh.open(app).await);
    soon("idle end", async {
        while !mesh.pool.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_draining_peer_gets_no_new_streams_and_keeps_the_old() {
    let app = echo().await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.write_all(b"a").await.unwrap();
    assert_eq!(soon("echo", client.read_u8()).await.unwrap(), b'a');
    mesh.drain.cancel();
    // GOAWAY arrives sometime; from then on a new tunnel is made (which drains at once, and is left too).
    soon("second tunnel", async {
        while mesh.dials.load(SeqCst) < 2 {
            let _ = mesh.pool.open(&mesh.key, &request(app)).await;
        }
    })
    .await;
    client.write_all(b"b").await.unwrap();
    assert_eq!(soon("echo", client.read_u8()).await.unwrap(), b'b');
}

#[tokio::test]
async fn a_killed_server_resets_its_streams() {
    let app = echo().await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    client.write_all(b"a").await.unwrap();
    assert_eq!(soon("echo", client.read_u8()).await.unwrap(), b'a');
    mesh.kill.cancel();
    let end = soon("end", client.read_u8()).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_is_one_failure_for_all() {
    let mesh = Mesh::start(Limits::default()).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let key = support::key(nobody);
    let request = request(nobody);
    let opens = (0..20).map(|_| mesh.pool.open(&key, &request));
    for result in futures::future::join_all(opens).await {
        assert!(matches!(result, Err(OpenError::Connect(_))), "{result:?}");
    }
    assert_eq!(mesh.dials.load(SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_status() {
    let mesh = Mesh::start(Limits::default()).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = soon("refusal", mesh.pool.open(&mesh.key, &request(nobody))).await.unwrap_err();
    let OpenError::Refused { status, .. } = refused else { panic!("{refused}") };
    assert_eq!(status, http::StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_retired_tunnel_gets_no_new_streams_and_keeps_the_old() {
    let app = echo().await;
    let mesh = Mesh::start(Limits::default()).await;
    let mut client = mesh.connect(app).await;
    mesh.pool.retire();
    drop(mesh.open(app).await);
    assert_eq!(mesh.dials.load(SeqCst), 2);
    client.write_all(b"b").await.unwrap();
    assert_eq!(soon("echo", client.read_u8()).await.unwrap(), b'b');
}

#[tokio::test]
async fn a_tunnel_whose_connect_began_before_the_retirement_is_not_taken_into_use() {
    let app = echo().await;
    let mesh = Mesh::start(Limits::default()).await;
    let request = request(app);
    let mut opening = Box::pin(mesh.pool.open(&mesh.key, &request));
    // The connect is under way once it was counted; it cannot have been taken into use before the next poll.
    soon("dial", async {
        while mesh.dials.load(SeqCst) == 0 {
            assert!(futures::poll!(&mut opening).is_pending());
            tokio::task::yield_now().await;
        }
    })
    .await;
    mesh.pool.retire();
    drop(soon("stream", opening).await.unwrap());
    assert_eq!(mesh.dials.load(SeqCst), 2);
    assert_eq!(mesh.pool.len(), 1);
}
