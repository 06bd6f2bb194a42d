//! Connections that pass as bytes: judged, counted, handed on with the caller's identity and address.
use super::Waypoint;
use super::endpoint::{Endpoint, Io, Unreached};
use super::records;
use super::stream::refuse;
use super::world::Client;
use crate::connections::{Closed, Judged, Tracked};
use crate::failure::Failure;
use bytes::Bytes;
use http::StatusCode;
use meltemi_http::authorization::{Decision, Facts};
use meltemi_http::{Cause, Core};
use meltemi_identity::Standing;
use meltemi_state::ConnectOutcome;
use meltemi_telemetry::{ByteCount, ConnectionInfo, ConnectionRecord, PolicyAction, Protocol, Reason};
use meltemi_tunnel::{Incoming, TunnelIo};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Endpoints that are tried for one connection.
const ENDPOINTS: usize = 3;
/// Read from a plaintext endpoint at a time.
const READ_BYTES: usize = 64 << 10;

/// Serves one connection until it ends.
pub(super) async fn serve(
    waypoint: &Arc<Waypoint>,
    core: &Core<Waypoint>,
    client: Client,
    standing: Arc<Standing>,
    incoming: Incoming,
) {
    let accepted = Instant::now();
    let begun = Box::pin(begin(waypoint, core, &client)).await;
    let endpoint = begun.as_ref().ok().map(|(endpoint, _)| endpoint);
    let mut record = waypoint.telemetry.open(ConnectionInfo {
        protocol: Protocol::Hbone,
        accepted,
        src_addr: client.address,
        dst_addr: std::net::SocketAddr::new(client.asked_ip, client.port),
        dst_hbone_addr: Some(client.authority.clone()),
        src_workload: records::source_name(&client),
        dst_workload: endpoint.map(|endpoint| endpoint.workload.name.clone()),
        labels: records::traffic(&client, endpoint),
    });
    let (endpoint, upstream) = match begun {
        Ok(reached) => reached,
        Err(unreached) => return refused(unreached, &mut record, incoming),
    };
    let facts = client.facts(endpoint.address);
    let judged = Judged { workload: endpoint.workload.clone(), facts, policies: None };
    let mut tracked =
        waypoint.connections.track(record.id(), &waypoint.name, Some(judged), Some(standing.clone()));
    if let Err(error) = standing.check(waypoint.certificates.trust()) {
        let failure = Failure::new(Reason::TrustChanged, error);
        let unreached = Unreached { cause: Cause::PolicyDenied, failure, policy: None, another: false };
        return refused(unreached, &mut record, incoming);
    }
    match incoming.accept() {
        Ok(stream) => carry(stream.into(), upstream, &mut record, &mut tracked).await,
        Err(error) => record.fail(Reason::Reset, error),
    }
}

fn refused(unreached: Unreached, record: &mut ConnectionRecord, incoming: Incoming) {
    let status = match unreached.failure.reason {
        Reason::PolicyDenied | Reason::TrustChanged | Reason::PeerRefused => StatusCode::UNAUTHORIZED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let policy = unreached.policy.or(unreached.failure.peer_policy);
    if let Some(policy) = &policy {
        record.set_policy(policy.clone(), PolicyAction::Deny);
    }
    refuse(incoming, status, unreached.failure.reason, policy.as_deref());
    record.fail(unreached.failure.reason, unreached.failure.error);
}

/// Judges the connection, and reaches an endpoint.
async fn begin(
    waypoint: &Waypoint,
    core: &Core<Waypoint>,
    client: &Client,
) -> Result<(Endpoint, Io), Unreached> {
    let facts = Facts {
        caller: &client.caller,
        destination: client.asked_ip,
        port: client.port,
        sni: None,
        http: None,
    };
    let verdict = core.policies.judge(&client.scopes, &facts);
    for policy in &verdict.reported {
        waypoint.telemetry.metrics().policy_match(policy.key.text(), "audit");
    }
    if !matches!(verdict.decision, Decision::Allow(_)) {
        return Err(Unreached {
            cause: Cause::PolicyDenied,
            failure: Failure::new(Reason::PolicyDenied, "no policy allows this connection"),
            policy: verdict.decision.explanation(),
            another: false,
        });
    }
    let mut tried = Vec::new();
    loop {
        let endpoint = waypoint.endpoint(client, &tried).await?;
        let reached = waypoint.reach(&endpoint, &client.own, Some(client)).await;
        let report = |outcome| {
            if endpoint.alternatives {
                waypoint.mesh.report(&endpoint.workload.uid, endpoint.address.port(), outcome);
            }
        };
        match reached {
            Ok(io) => {
                report(ConnectOutcome::Connected);
                return Ok((endpoint, io));
            }
            Err(unreached) if unreached.another && tried.len() + 1 < ENDPOINTS => {
                report(ConnectOutcome::Failed);
                tried.push(endpoint.address.ip());
            }
            Err(unreached) => return Err(unreached),
        }
    }
}

async fn carry(
    mut downstream: TunnelIo,
    mut upstream: Io,
    record: &mut ConnectionRecord,
    tracked: &mut Tracked,
) {
    let bytes = record.bytes();
    let ended = tokio::select! {
        biased;
        end = tracked.closed() => Err(end),
        end = relay(&mut downstream, &mut upstream, &bytes) => Ok(end),
    };
    let broken = match ended {
        Ok(Ok(())) => return,
        Ok(Err((side, error))) => {
            record.fail(Reason::Reset, format!("{side}: {error}"));
            true
        }
        Err(Closed { reason, error, policy }) => {
            if let Some(policy) = policy {
                record.set_policy(policy, PolicyAction::Deny);
            }
            record.fail(reason, error);
            true
        }
    };
    if broken {
        downstream.reset();
        upstream.reset();
    }
}

impl Io {
    fn reset(&mut self) {
        match self {
            Self::Tunnel(io) => io.reset(),
            Self::Plain(tcp) => meltemi_capture::reset_on_close(tcp),
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self {
            Self::Tunnel(io) => io.poll_bytes(cx),
            Self::Plain(tcp) => {
                ready!(tcp.poll_read_ready(cx))?;
                let mut room = vec![0; READ_BYTES];
                let mut buffer = ReadBuf::new(&mut room);
                ready!(std::pin::Pin::new(tcp).poll_read(cx, &mut buffer))?;
                let filled = buffer.filled().len();
                room.truncate(filled);
                Poll::Ready(Ok((filled > 0).then(|| room.into())))
            }
        }
    }

    fn poll_write_bytes(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        match self {
            Self::Tunnel(io) => io.poll_write_bytes(cx, bytes),
            Self::Plain(tcp) => {
                let written = ready!(std::pin::Pin::new(tcp).poll_write(cx, bytes))?;
                bytes::Buf::advance(bytes, written);
                Poll::Ready(Ok(written))
            }
        }
    }

    fn end_output(&mut self) -> io::Result<()> {
        match self {
            Self::Tunnel(io) => io.end_output(),
            Self::Plain(tcp) => match socket2::SockRef::from(&*tcp).shutdown(std::net::Shutdown::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                result => result,
            },
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tunnel(io) => io.poll_reset(cx),
            // A broken socket is noticed when it is read or written.
            Self::Plain(_) => Poll::Pending,
        }
    }
}

/// One direction: what was read and not yet written.
#[derive(Default)]
struct Direction {
    pending: Bytes,
    input_ended: bool,
    ended: bool,
}

type Broken = (&'static str, io::Error);

/// Until both directions have ended, or one end broke.
async fn relay(downstream: &mut TunnelIo, upstream: &mut Io, bytes: &ByteCount) -> Result<(), Broken> {
    let (mut forward, mut back) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let there = poll_forward(cx, &mut forward, downstream, upstream, bytes)?;
        let here = poll_back(cx, &mut back, downstream, upstream, bytes)?;
        if there.is_ready() && here.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(error) = downstream.poll_reset(cx) {
            return Poll::Ready(Err(("client", error)));
        }
        if let Poll::Ready(error) = upstream.poll_reset(cx) {
            return Poll::Ready(Err(("endpoint", error)));
        }
        Poll::Pending
    })
    .await
}

fn poll_forward(
    cx: &mut Context<'_>,
    direction: &mut Direction,
    from: &mut TunnelIo,
    to: &mut Io,
    count: &ByteCount,
) -> Result<Poll<()>, Broken> {
    while !direction.ended {
        if !direction.pending.is_empty() {
            match to.poll_write_bytes(cx, &mut direction.pending) {
                Poll::Ready(written) => count.from_client(written.map_err(|e| ("endpoint", e))? as u64),
                Poll::Pending => return Ok(Poll::Pending),
            }
            continue;
        }
        if direction.input_ended {
            to.end_output().map_err(|error| ("endpoint", error))?;
            direction.ended = true;
            break;
        }
        match from.poll_bytes(cx) {
            Poll::Ready(read) => match read.map_err(|error| ("client", error))? {
                Some(read) => direction.pending = read,
                None => direction.input_ended = true,
            },
            Poll::Pending => return Ok(Poll::Pending),
        }
    }
    Ok(Poll::Ready(()))
}

fn poll_back(
    cx: &mut Context<'_>,
    direction: &mut Direction,
    to: &mut TunnelIo,
    from: &mut Io,
    count: &ByteCount,
) -> Result<Poll<()>, Broken> {
    while !direction.ended {
        if !direction.pending.is_empty() {
            match to.poll_write_bytes(cx, &mut direction.pending) {
                Poll::Ready(written) => count.to_client(written.map_err(|e| ("client", e))? as u64),
                Poll::Pending => return Ok(Poll::Pending),
            }
            continue;
        }
        if direction.input_ended {
            to.end_output().map_err(|error| ("client", error))?;
            direction.ended = true;
            break;
        }
        match from.poll_bytes(cx) {
            Poll::Ready(read) => match read.map_err(|error| ("endpoint", error))? {
                Some(read) => direction.pending = read,
                None => direction.input_ended = true,
            },
            Poll::Pending => return Ok(Poll::Pending),
        }
    }
    Ok(Poll::Ready(()))
}
