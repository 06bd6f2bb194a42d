//! Tunnels to a pod, and the connections inside them.
use super::judge::judge;
use super::{Arrival, closed, connect_application, is_proxy_port};
use crate::connections::{PeerChain, Tracked};
use crate::dial::TLS_BUFFER_BYTES;
use crate::failure::{Failure, of_relay};
use crate::pod::Pod;
use http::{Method, StatusCode};
use meltemi_capture::{canonical, reset_on_close};
use meltemi_identity::{HandshakeFailure, peer_identity};
use meltemi_telemetry::{ByteCount, ConnectionRecord, Reason};
use meltemi_tunnel::{
    ALPN_H2, Baggage, Incoming, Meter, Refusal, TunnelStream, parse_forwarded_host, relay_tunnel,
};
use meltemi_types::Identity;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Whom a tunnel comes from: the same for all connections in it.
#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    /// The pod's address that the tunnel was made to.
    local: SocketAddr,
    identity: Identity,
    chain: PeerChain,
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
    let peer = Arc::new(peer);
    let limits = &pod.node.settings.limits;
    let handle = |incoming| serve_stream(pod.clone(), peer.clone(), incoming);
    let served = Box::pin(meltemi_tunnel::serve(tls, limits, &drain, &pod.kill, &pod.tasks, handle));
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
    let chain: PeerChain = session.peer_certificates().unwrap_or_default().into();
    let identity = peer_identity(&chain).map_err(|e| e.to_string())?;
    Ok((tls, Peer { address: client, local, identity, chain }))
}

/// Why a CONNECT is not carried: the answer's status, the record's reason, the rule.
struct Refused {
    status: StatusCode,
    failure: Failure,
    policy: Option<Arc<str>>,
}

impl Refused {
    fn new(status: StatusCode, failure: Failure) -> Self {
        Self { status, failure, policy: None }
    }
}

/// The application's address that a CONNECT asks for, if it is one that the pod has.
fn target(peer: &Peer, incoming: &Incoming) -> Result<SocketAddr, Refused> {
    let bad = |reason, error: String| Refused::new(StatusCode::BAD_REQUEST, Failure::new(reason, error));
    if incoming.parts.method != Method::CONNECT {
        return Err(bad(Reason::PeerBadRequest, format!("{} instead of CONNECT", incoming.parts.method)));
    }
    let authority = incoming.parts.uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let target: SocketAddr = authority
        .parse()
        .map(canonical)
        .map_err(|_| bad(Reason::PeerBadRequest, format!("{authority:?} is no ip:port")))?;
    if is_proxy_port(target.port()) {
        return Err(bad(Reason::Loop, format!("{target} is the proxy itself")));
    }
    if target.port() == 0 || target.ip() != peer.local.ip() {
        return Err(bad(
            Reason::PeerBadRequest,
            format!("{target} is not at {}, where the tunnel was made to", peer.local.ip()),
        ));
    }
    Ok(target)
}

/// Serves one connection inside a tunnel until it ends.
async fn serve_stream(pod: Arc<Pod>, peer: Arc<Peer>, mut incoming: Incoming) {
    let begun = Box::pin(begin(&pod, &peer, &mut incoming)).await;
    let (mut record, mut tracked, tcp) = match begun {
        Ok(begun) => begun,
        Err((mut record, refused)) => {
            let policy = refused.policy.as_deref().map(str::to_owned);
            let refusal = Refusal { reason: refused.failure.reason.to_string(), policy };
            record.fail(refused.failure.reason, refused.failure.error);
            return incoming.refuse(refused.status, Some(&refusal));
        }
    };
    match incoming.accept() {
        Ok(stream) => carry(tcp, stream, &mut record, &mut tracked).await,
        Err(error) => {
            record.fail(Reason::Reset, error);
            reset_on_close(&tcp);
        }
    }
}

type Begun = (ConnectionRecord, Tracked, TcpStream);

async fn begin(
    pod: &Arc<Pod>,
    peer: &Arc<Peer>,
    incoming: &mut Incoming,
) -> Result<Begun, (ConnectionRecord, Refused)> {
    let deadline = tokio::time::Instant::now() + pod.node.settings.connect_timeout;
    let target = target(peer, incoming);
    let authority = incoming.parts.uri.authority().map_or("", |authority| authority.as_str());
    let arrival = Arrival {
        accepted: Instant::now(),
        client: peer.address,
        destination: *target.as_ref().unwrap_or(&peer.local),
        identity: Some(peer.identity.clone()),
        chain: Some(peer.chain.clone()),
        service: parse_forwarded_host(&incoming.parts.headers),
        claimed: Some(Baggage::parse(&incoming.parts.headers)),
        authority: Some(authority.into()),
    };
    // Headers are not kept for the connection's life.
    incoming.parts.headers = http::HeaderMap::new();
    let workload = tokio::select! {
        workload = pod.workload(deadline) => workload,
        () = pod.kill.cancelled() => None,
    };
    let (mut record, mut tracked) = arrival.open(pod, workload.as_ref());
    let target = match target {
        Ok(target) => target,
        Err(refused) => return Err((record, refused)),
    };
    let result = tokio::select! {
        result = async {
            let Some(workload) = workload else {
                let failure = Failure::new(Reason::UnknownDestination, "discovery has not told of this pod itself yet");
                return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure));
            };
            if !workload.ips.contains(&target.ip()) {
                let failure = Failure::new(Reason::PeerBadRequest, format!("{} is no address of pod {}", target.ip(), pod.info.name));
                return Err(Refused::new(StatusCode::BAD_REQUEST, failure));
            }
            let judged = judge(pod, &workload, &arrival.facts(), deadline, &mut record).await;
            judged.map_err(|refused| Refused {
                status: StatusCode::UNAUTHORIZED,
                failure: refused.failure,
                policy: refused.policy,
            })?;
            connect_application(pod, peer.address.ip(), target)
                .await
                .map_err(|failure| Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure))
        } => result,
        () = incoming.abandoned() => Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Failure::new(Reason::Reset, "the client gave up before it was answered"),
        )),
        end = tracked.closed() => {
            let status = match end.reason {
                Reason::PolicyChanged | Reason::TrustChanged => StatusCode::UNAUTHORIZED,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            Err(Refused { status, failure: Failure::new(end.reason, end.error), policy: end.policy })
        }
    };
    match result {
        Ok(tcp) => Ok((record, tracked, tcp)),
        Err(refused) => Err((record, refused)),
    }
}

/// The application is the first end, the client behind the tunnel the second.
struct ToClient(ByteCount);

impl Meter for ToClient {
    fn forward(&self, bytes: usize) {
        self.0.to_client(bytes as u64);
    }
    fn back(&self, bytes: usize) {
        self.0.from_client(bytes as u64);
    }
}

async fn carry(
    tcp: TcpStream,
    mut stream: TunnelStream,
    record: &mut ConnectionRecord,
    tracked: &mut Tracked,
) {
    let meter = ToClient(record.bytes());
    tokio::select! {
        // What ends a connection also breaks its tunnel: the reason is looked at first.
        biased;
        end = tracked.closed() => {
            closed(record, end);
            stream.reset();
            reset_on_close(&tcp);
        }
        end = relay_tunnel(&tcp, &mut stream, &meter) => {
            if let Some(failure) = of_relay(&end, "application", "client") {
                record.fail(failure.reason, failure.error);
            }
        }
    }
}
