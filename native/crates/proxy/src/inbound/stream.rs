//! Connections inside a tunnel.
use super::hbone::Peer;
use super::judge::judge;
use super::waypoint::{self, Claim};
use super::{Arrival, closed, connect_application, is_proxy_port};
use crate::connections::{Closed, Tracked};
use crate::failure::{Failure, relay_ended};
use crate::pod::Pod;
use http::{Method, StatusCode};
use meltemi_capture::{canonical, reset_on_close};
use meltemi_state::Workload;
use meltemi_telemetry::{ByteCount, ConnectionRecord, PolicyAction, Reason};
use meltemi_tunnel::{
    Baggage, Incoming, Meter, Refusal, TunnelStream, parse_forwarded_client, parse_forwarded_host,
    relay_tunnel,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

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

    /// Ended from outside before it was answered.
    fn of(end: Closed) -> Self {
        let status = match end.reason {
            Reason::PolicyChanged | Reason::TrustChanged => StatusCode::UNAUTHORIZED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, failure: Failure::new(end.reason, end.error), policy: end.policy }
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
pub(super) async fn serve(pod: Arc<Pod>, peer: Arc<Peer>, mut incoming: Incoming) {
    let begun = Box::pin(begin(&pod, &peer, &mut incoming)).await;
    let (mut record, mut tracked, tcp, _place) = match begun {
        Ok(begun) => begun,
        Err((mut record, refused)) => {
            let policy = refused.policy.as_deref().map(str::to_owned);
            let refusal = Refusal { reason: refused.failure.reason.to_string(), policy };
            if let Some(policy) = refused.policy {
                record.set_policy(policy, PolicyAction::Deny);
            }
            record.fail(refused.failure.reason, refused.failure.error);
            return incoming.refuse(refused.status, Some(&refusal));
        }
    };
    match incoming.accept() {
        Ok(stream) => carry(&pod, tcp, stream, &mut record, &mut tracked).await,
        Err(error) => {
            record.fail(Reason::Reset, error);
            reset_on_close(&tcp);
        }
    }
}

type Begun = (ConnectionRecord, Tracked, TcpStream, OwnedSemaphorePermit);

/// From the request to the application's socket. Entered among the open connections before it is judged.
async fn begin(
    pod: &Arc<Pod>,
    peer: &Peer,
    incoming: &mut Incoming,
) -> Result<Begun, (ConnectionRecord, Refused)> {
    let deadline = tokio::time::Instant::now() + pod.node.settings.connect_timeout;
    let target = target(peer, incoming);
    let claim = Claim::read(&incoming.parts.headers);
    let told = parse_forwarded_client(&incoming.parts.headers).map(canonical);
    let mut arrival = arrival(peer, incoming, told, target.as_ref().ok().copied());
    let (workload, through) = tokio::select! {
        known = who(pod, peer, claim.is_some(), deadline) => known,
        () = pod.kill.cancelled() => (None, false),
    };
    if let Some(claim) = claim.filter(|_| through) {
        vouched(&mut arrival, told, claim);
    }
    let (mut record, mut tracked) = arrival.open(pod, workload.as_ref());
    let connected = tokio::select! {
        connected = async {
            let target = target?;
            let workload = workload.ok_or_else(|| not_known(pod))?;
            reach(pod, peer, target, &workload, &arrival, through, deadline, &mut record).await
        } => connected,
        () = incoming.abandoned() => Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Failure::new(Reason::Reset, "the client gave up before it was answered"),
        )),
        end = tracked.closed() => Err(Refused::of(end)),
    };
    match connected {
        Ok((tcp, place)) => Ok((record, tracked, tcp, place)),
        Err(refused) => Err((record, refused)),
    }
}

/// The pod as discovery knows it, and whether the peer may speak for others, where it claims to.
async fn who(
    pod: &Pod,
    peer: &Peer,
    claims: bool,
    deadline: tokio::time::Instant,
) -> (Option<Arc<Workload>>, bool) {
    let Some(workload) = pod.workload(deadline).await else { return (None, false) };
    // Who passes the pod's own waypoint says so; what is told of everybody else need not be asked for.
    let through = claims && waypoint::speaks_for(pod, &workload, &peer.identity, deadline).await;
    (Some(workload), through)
}

/// What the pod's waypoint says of the caller is taken over as if the caller had proved it.
fn vouched(arrival: &mut Arrival, told: Option<SocketAddr>, claim: Claim) {
    match claim.caller {
        Some(caller) => {
            arrival.client = told.unwrap_or(arrival.client);
            arrival.identity = Some(caller);
        }
        None => arrival.shared = true,
    }
}

/// What the request says, without keeping its headers for the connection's life.
fn arrival(
    peer: &Peer,
    incoming: &mut Incoming,
    told: Option<SocketAddr>,
    target: Option<SocketAddr>,
) -> Arrival {
    let headers = std::mem::take(&mut incoming.parts.headers);
    let authority = incoming.parts.uri.authority().map_or("", |authority| authority.as_str());
    // Of what the client's node says only the port is taken over, and only beside the address that its
    // packets prove: so the records of both ends can be matched.
    Arrival {
        accepted: Instant::now(),
        client: told.filter(|client| client.ip() == peer.address.ip()).unwrap_or(peer.address),
        destination: target.unwrap_or(peer.local),
        identity: Some(peer.identity.clone()),
        standing: Some(peer.standing.clone()),
        service: parse_forwarded_host(&headers),
        claimed: Some(Baggage::parse(&headers)),
        authority: Some(authority.into()),
        shared: false,
    }
}

fn not_known(pod: &Pod) -> Refused {
    let failure = match pod.kill.is_cancelled() {
        true => Failure::new(pod.stopped(), "the pod is no longer served"),
        false => Failure::new(Reason::UnknownDestination, "discovery has not told of this pod itself yet"),
    };
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure)
}

/// Judges the connection, and connects to the application.
#[expect(clippy::too_many_arguments, reason = "all of one connection, and nothing else has them together")]
async fn reach(
    pod: &Pod,
    peer: &Peer,
    target: SocketAddr,
    workload: &Workload,
    arrival: &Arrival,
    through: bool,
    deadline: tokio::time::Instant,
    record: &mut ConnectionRecord,
) -> Result<(TcpStream, OwnedSemaphorePermit), Refused> {
    if !workload.ips.contains(&target.ip()) {
        let error = format!("{} is no address of pod {}", target.ip(), pod.info.name);
        return Err(Refused::new(StatusCode::BAD_REQUEST, Failure::new(Reason::PeerBadRequest, error)));
    }
    // A tunnel may be older than the change that forbids its peer.
    peer.standing
        .check(pod.node.certificates.trust())
        .map_err(|error| Refused::new(StatusCode::UNAUTHORIZED, Failure::new(Reason::TrustChanged, error)))?;
    let Ok(place) = pod.streams.clone().try_acquire_owned() else {
        pod.node.telemetry.metrics().connection_shed("pod_full");
        let failure = Failure::new(Reason::UpstreamConnectFailed, "the pod has too many connections");
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure));
    };
    waypoint::require(workload, through)
        .map_err(|failure| Refused::new(StatusCode::UNAUTHORIZED, failure))?;
    // What the waypoint made for several callers it has judged, and judges with every request.
    if !arrival.shared {
        judge(pod, workload, &arrival.facts(), deadline, record).await.map_err(|refused| Refused {
            status: StatusCode::UNAUTHORIZED,
            failure: refused.failure,
            policy: refused.policy,
        })?;
    }
    let tcp = connect_application(pod, arrival.client.ip(), target).await;
    let tcp = tcp.map_err(|failure| Refused::new(StatusCode::SERVICE_UNAVAILABLE, failure))?;
    Ok((tcp, place))
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
    pod: &Pod,
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
        end = relay_tunnel(&tcp, &mut stream, &meter, pod.node.settings.patience) => {
            relay_ended(pod, record, &end, "application", "client");
        }
    }
}
