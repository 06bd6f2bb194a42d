//! Tunnels to the waypoint: who made them, and how long they last.
use super::{Waypoint, stream};
use crate::dial::TLS_BUFFER_BYTES;
use meltemi_capture::{canonical, reset_on_close, set_access_options};
use meltemi_http::Core;
use meltemi_identity::{Alpn, HandshakeFailure, PeerRole, Standing, peer_identity};
use meltemi_tunnel::ALPN_H2;
use meltemi_types::Identity;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whom a tunnel comes from: the same for all connections in it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The waypoint's address that the tunnel was made to.
    pub(super) local: SocketAddr,
    pub(super) identity: Identity,
    pub(super) standing: Arc<Standing>,
}

/// Accepts tunnels until the waypoint drains.
pub(super) async fn accept(
    waypoint: Arc<Waypoint>,
    core: Arc<Core<Waypoint>>,
    alpn: Alpn,
    listener: TcpListener,
) {
    // Said once, not at every attempt.
    let mut scarce = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = waypoint.drain.cancelled() => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                scarce = false;
                let serving = serve(waypoint.clone(), core.clone(), alpn.clone(), tcp, canonical(peer));
                waypoint.tasks.spawn(serving);
            }
            Err(error) if !crate::pod::is_scarcity(&error) => {
                tracing::debug!(%error, "connection lost before it was accepted");
            }
            Err(error) => {
                if !scarce {
                    tracing::warn!(%error, "cannot accept connections");
                }
                scarce = true;
                waypoint.telemetry.metrics().accept_failure();
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = waypoint.drain.cancelled() => return,
                }
            }
        }
    }
}

/// Serves one tunnel until it ends.
async fn serve(
    waypoint: Arc<Waypoint>,
    core: Arc<Core<Waypoint>>,
    alpn: Alpn,
    tcp: TcpStream,
    client: SocketAddr,
) {
    let Some(place) = waypoint.handshakes.admit(client.ip()) else {
        waypoint.telemetry.metrics().handshake_failure("too_many");
        return reset_on_close(&tcp);
    };
    let handshake = tokio::select! {
        done = Box::pin(handshake(&waypoint, &alpn, tcp, client)) => done,
        () = waypoint.kill.cancelled() => return,
    };
    drop(place);
    let (tls, peer) = match handshake {
        Ok(done) => done,
        Err(error) => {
            // Counted; not at a level that lets any client fill the log.
            tracing::debug!(%error, peer = %client, "tunnel refused");
            return;
        }
    };
    let Some(_place) = waypoint.tunnels.admit(client.ip()) else {
        waypoint.telemetry.metrics().handshake_failure("too_many");
        return;
    };
    let peer = Arc::new(peer);
    let handle = |incoming| stream::serve(waypoint.clone(), core.clone(), peer.clone(), incoming);
    let Waypoint { settings, drain, kill, tasks, .. } = &*waypoint;
    let served = Box::pin(meltemi_tunnel::serve(tls, &settings.limits, drain, kill, tasks, handle));
    if let Err(error) = served.await {
        tracing::debug!(%error, peer = %client, "tunnel ended");
    }
}

async fn handshake(
    waypoint: &Waypoint,
    alpn: &Alpn,
    tcp: TcpStream,
    client: SocketAddr,
) -> Result<(TlsStream<TcpStream>, Peer), String> {
    let settings = &waypoint.settings;
    set_access_options(&tcp, settings.keepalive).map_err(|error| error.to_string())?;
    let local = canonical(tcp.local_addr().map_err(|error| error.to_string())?);
    let failed = |failure: HandshakeFailure| {
        waypoint.telemetry.metrics().handshake_failure(failure.as_str());
        failure.as_str()
    };
    let config = waypoint
        .certificates
        .server_config(&waypoint.identity, alpn, settings.handshake_timeout)
        .await
        .map_err(|error| error.to_string())?;
    // Before the handshake: roots that change during it are asked again at the first connection.
    let generation = waypoint.certificates.trust().generation();
    let accepting = TlsAcceptor::from(config).accept(tcp);
    let mut tls = tokio::time::timeout(settings.handshake_timeout, accepting)
        .await
        .map_err(|_| failed(HandshakeFailure::Timeout).to_owned())?
        .map_err(|error| format!("{}: {error}", failed(HandshakeFailure::of_io(&error))))?;
    let session = tls.get_mut().1;
    session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(failed(HandshakeFailure::Alpn).to_owned());
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let identity = peer_identity(chain).map_err(|error| error.to_string())?;
    let standing = Standing::new(chain, PeerRole::Client, generation).map_err(|error| error.to_string())?;
    Ok((tls, Peer { address: client, local, identity, standing: Arc::new(standing) }))
}
