//! Reaches a route's next hop, trying other endpoints where one cannot be reached.
use super::route::{Hop, Route, Traveller, route};
use crate::failure::Failure;
use crate::pod::Pod;
use meltemi_capture::UpstreamKind;
use meltemi_identity::Standing;
use meltemi_state::{ConnectOutcome, Workload};
use meltemi_telemetry::Reason;
use meltemi_tunnel::{OpenRequest, PoolKey, TraceParent, TunnelStream, forwarded};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Endpoints, or addresses of one, that are tried for one connection.
const ENDPOINTS: usize = 3;

pub(crate) enum Upstream {
    Plain(TcpStream),
    Tunnel(TunnelStream),
}

pub(crate) struct Reached {
    pub(crate) upstream: Upstream,
    /// How the peer proved itself.
    pub(crate) peer: Option<Arc<Standing>>,
}

/// `taken` is the route that was tried last.
pub(crate) async fn reach(
    pod: &Arc<Pod>,
    source: &Arc<Workload>,
    client: SocketAddr,
    destination: SocketAddr,
    deadline: Instant,
    taken: &mut Option<Route>,
) -> Result<Reached, Failure> {
    let mut tried = Vec::new();
    loop {
        let route = route(Traveller { pod, source, client, destination, deadline, tried: &tried }).await?;
        let attempt = async {
            match route.hop {
                Hop::Plain(address) => plain(pod, client, address).await,
                Hop::Hbone { address, authority } => {
                    tunnel(pod, source, client, &route, address, authority).await
                }
            }
        };
        let until = share(Instant::now(), deadline, route.alternatives, tried.len());
        let result = tokio::time::timeout_at(until, Box::pin(attempt)).await.unwrap_or_else(|_| {
            let error = format!("{} was not reached in time", route.hop.address());
            Err(Failure::new(Reason::UpstreamTimeout, error))
        });
        let endpoint = route.workload.clone().filter(|_| route.alternatives);
        let (port, address) = (route.port, route.hop.address());
        *taken = Some(route);
        let Some(endpoint) = endpoint else { return result };
        match result {
            Ok(reached) => {
                pod.node.mesh.report(&endpoint.uid, port, ConnectOutcome::Connected);
                return Ok(reached);
            }
            Err(failure) if failure.is_endpoints() => {
                pod.node.mesh.report(&endpoint.uid, port, ConnectOutcome::Failed);
                tried.push(address.ip());
                if tried.len() == ENDPOINTS {
                    return Err(failure);
                }
                tracing::debug!(endpoint = %endpoint.uid, error = failure.error, "endpoint not reached, choosing again");
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Until when one attempt may take: all together end with the deadline, and each leaves an equal part of what
/// is left to every one that may follow it.
fn share(now: Instant, deadline: Instant, alternatives: bool, tried: usize) -> Instant {
    let attempts = if alternatives { ENDPOINTS.saturating_sub(tried).max(1) } else { 1 };
    let left = deadline.saturating_duration_since(now);
    now + left / u32::try_from(attempts).unwrap_or(1)
}

async fn plain(pod: &Pod, client: SocketAddr, address: SocketAddr) -> Result<Reached, Failure> {
    let settings = &pod.node.settings;
    let upstream = meltemi_capture::Upstream {
        destination: address,
        source: own_address(client, address),
        apart: true,
        kind: UpstreamKind::Application,
        timeout: settings.connect_timeout,
        keepalive: settings.keepalive,
    };
    let tcp = upstream.connect(&pod.netns).await?;
    Ok(Reached { upstream: Upstream::Plain(tcp), peer: None })
}

/// The address the application used, where it can be used again towards `to`.
fn own_address(client: SocketAddr, to: SocketAddr) -> Option<std::net::IpAddr> {
    let usable = !client.ip().is_loopback() && client.is_ipv4() == to.is_ipv4();
    usable.then(|| client.ip())
}

async fn tunnel(
    pod: &Pod,
    source: &Arc<Workload>,
    client: SocketAddr,
    route: &Route,
    address: SocketAddr,
    authority: SocketAddr,
) -> Result<Reached, Failure> {
    let Some(workload) = &route.workload else {
        return Err(Failure::new(Reason::UnknownDestination, "a tunnel to nobody"));
    };
    // Names that the service lists stand for its endpoints, never for a waypoint before them.
    let service = route.service.iter().filter(|_| !route.waypoint);
    let alternative_names = service.flat_map(|service| service.subject_alt_names.iter());
    let destinations: Arc<[Arc<str>]> =
        std::iter::once(Arc::from(workload.identity.uri())).chain(alternative_names.cloned()).collect();
    let own = own_address(client, address)
        .or_else(|| source.ips.iter().copied().find(|ip| ip.is_ipv4() == address.is_ipv4()));
    let key = PoolKey {
        source: pod.identity.uri().into(),
        source_ip: own.unwrap_or(client.ip()),
        destinations,
        address,
        workload: workload.uid.text().clone(),
    };
    let request = OpenRequest {
        authority: authority.to_string(),
        baggage: pod.baggage(source),
        forwarded: forwarded(client, route.service.as_ref().map(|service| &*service.hostname)),
        trace: TraceParent::new(),
    };
    let trust = pod.node.certificates.trust();
    let (stream, peer) = pod.pool.open(&key, &request).await?;
    let Err(error) = peer.check(trust) else {
        return Ok(Reached { upstream: Upstream::Tunnel(stream), peer: Some(peer) });
    };
    // The peer may have a new certificate by now; what is open on the old tunnel is left to the re-check.
    tracing::debug!(%error, address = %key.address, "tunnel left, its peer's certificate no longer holds");
    drop(stream);
    pod.pool.retire();
    let (stream, peer) = pod.pool.open(&key, &request).await?;
    peer.check(trust).map_err(|error| Failure::new(Reason::TlsFailed, error))?;
    Ok(Reached { upstream: Upstream::Tunnel(stream), peer: Some(peer) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn attempts_share_the_time_and_end_together_with_it() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(share(begun, after(9), true, 0), after(3));
        assert_eq!(share(after(3), after(9), true, 1), after(6));
        assert_eq!(share(after(6), after(9), true, 2), after(9));
        // One that failed at once leaves its part to the others.
        assert_eq!(share(after(1), after(9), true, 1), after(5));
        assert_eq!(share(after(9), after(9), true, 2), after(9));
    }

    #[test]
    fn who_has_no_alternative_has_all_of_it() {
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(9);
        assert_eq!(share(begun, deadline, false, 0), deadline);
    }
}
