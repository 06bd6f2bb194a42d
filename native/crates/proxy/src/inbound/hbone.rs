//! Tunnels to a pod: who made them, and how long they last.
use super::stream;
use crate::dial::TLS_BUFFER_BYTES;
use crate::pod::Pod;
use meltemi_capture::{canonical, reset_on_close};
use meltemi_identity::{HandshakeFailure, PeerRole, Standing, peer_identity};
use meltemi_tunnel::ALPN_H2;
use meltemi_types::Identity;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Whom a tunnel comes from: the same for all connections in it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The pod's address that the tunnel was made to.
    pub(super) local: SocketAddr,
    pub(super) identity: Identity,
    pub(super) standing: Arc<Standing>,
}

/// Serves one tunnel until it ends.
pub(crate) async fn serve(pod: Arc<Pod>, tcp: TcpStream, client: SocketAddr) {
    let Some(place) = pod.handshakes.admit(client.ip()) else {
        pod.node.telemetry.metrics().handshake_failure("too_many");
        return reset_on_close(&tcp);
    };
    let drain = pod.tunnel_drain();
    let handshake = tokio::select! {
        done = Box::pin(handshake(&pod, tcp, client)) => done,
        () = pod.kill.cancelled() => return,
    };
    drop(place);
    let (tls, peer) = match handshake {
        Ok(done) => done,
        Err(error) => {
            // Counted; not at a level that lets any client fill the log.
            tracing::debug!(%error, pod = %pod.info.uid, peer = %client, "tunnel refused");
            return;
        }
    };
    let Some(_place) = pod.tunnels.admit(client.ip()) else {
        pod.node.telemetry.metrics().handshake_failure("too_many");
        return;
    };
    let peer = Arc::new(peer);
    let handle = |incoming| stream::serve(pod.clone(), peer.clone(), incoming);
    let served = Box::pin(meltemi_tunnel::serve(tls, &pod.limits, &drain, &pod.kill, &pod.tasks, handle));
    if let Err(error) = served.await {
        tracing::debug!(%error, pod = %pod.info.uid, peer = %client, "tunnel ended");
    }
}

async fn handshake(
    pod: &Pod,
    tcp: TcpStream,
    client: SocketAddr,
) -> Result<(TlsStream<TcpStream>, Peer), String> {
    let node = &pod.node;
    let local = canonical(tcp.local_addr().map_err(|e| e.to_string())?);
    let failed = |failure: HandshakeFailure| {
        node.telemetry.metrics().handshake_failure(failure.as_str());
        failure.as_str()
    };
    let config = node
        .certificates
        .server_config(&pod.identity, &node.hbone, node.settings.handshake_timeout)
        .await
        .map_err(|e| e.to_string())?;
    // Before the handshake: roots that change during it are asked again at the first connection.
    let generation = node.certificates.trust().generation();
    let accepting = TlsAcceptor::from(config).accept(tcp);
    let mut tls = tokio::time::timeout(node.settings.handshake_timeout, accepting)
        .await
        .map_err(|_| failed(HandshakeFailure::Timeout).to_owned())?
        .map_err(|error| format!("{}: {error}", failed(HandshakeFailure::of_io(&error))))?;
    let session = tls.get_mut().1;
    session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(failed(HandshakeFailure::Alpn).to_owned());
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let identity = peer_identity(chain).map_err(|e| e.to_string())?;
    let standing = Standing::new(chain, PeerRole::Client, generation).map_err(|e| e.to_string())?;
    Ok((tls, Peer { address: client, local, identity, standing: Arc::new(standing) }))
}
