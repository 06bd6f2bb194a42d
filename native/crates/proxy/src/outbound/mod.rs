//! Connections that a pod's application opens.
mod reach;
mod route;

use crate::connections::Closed;
use crate::failure::{Failure, relay_ended};
use crate::labels;
use crate::pod::Pod;
use meltemi_capture::{original_destination, reset_on_close};
use meltemi_state::Workload;
use meltemi_telemetry::{
    ByteCount, ConnectionInfo, ConnectionRecord, Protocol, Reason, Reporter, SecurityPolicy, TrafficLabels,
};
use meltemi_tunnel::{Meter, relay_tcp, relay_tunnel};
use reach::{Reached, Upstream};
use route::{Hop, Route, is_loop};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;

/// Serves one captured connection until it ends.
pub(crate) async fn serve(pod: Arc<Pod>, tcp: TcpStream, client: SocketAddr) {
    let accepted = Instant::now();
    let destination = match original_destination(&tcp) {
        Ok(destination) => destination,
        Err(error) => {
            tracing::debug!(%error, pod = %pod.info.uid, "connection without a destination");
            return reset_on_close(&tcp);
        }
    };
    let mut attempt = Attempt { accepted, client, destination, source: None, route: None };
    // Boxed: what is needed to begin a connection is not kept for its life.
    let begun = Box::pin(async {
        tokio::select! {
            reached = attempt.reach(&pod) => reached,
            () = pod.kill.cancelled() => {
                Err(Failure::new(pod.stopped(), "the pod is no longer served"))
            }
        }
    })
    .await;
    let mut record = attempt.record(&pod);
    match begun {
        Ok(reached) => carry(&pod, tcp, reached, record).await,
        Err(failure) => {
            if let Some(policy) = failure.peer_policy {
                record.set_peer_policy(policy);
            }
            record.fail(failure.reason, failure.error);
            reset_on_close(&tcp);
        }
    }
}

/// Client is the first end.
struct FromClient(ByteCount);

impl Meter for FromClient {
    fn forward(&self, bytes: usize) {
        self.0.from_client(bytes as u64);
    }
    fn back(&self, bytes: usize) {
        self.0.to_client(bytes as u64);
    }
}

async fn carry(pod: &Arc<Pod>, tcp: TcpStream, reached: Reached, mut record: ConnectionRecord) {
    let connections = &pod.node.connections;
    let mut tracked = connections.track(record.id(), &pod.info.uid, None, reached.peer);
    if pod.kill.is_cancelled() {
        record.fail(pod.stopped(), "the pod is no longer served");
        return reset_on_close(&tcp);
    }
    let (meter, patience) = (FromClient(record.bytes()), pod.node.settings.patience);
    let ended = match reached.upstream {
        Upstream::Tunnel(mut stream) => {
            tokio::select! {
                // What ends a connection also breaks its tunnel: the reason is looked at first.
                biased;
                closed = tracked.closed() => {
                    stream.reset();
                    reset_on_close(&tcp);
                    Err(closed)
                }
                end = relay_tunnel(&tcp, &mut stream, &meter, patience) => Ok(end),
            }
        }
        Upstream::Plain(upstream) => {
            tokio::select! {
                // What ends a connection also breaks its tunnel: the reason is looked at first.
                biased;
                closed = tracked.closed() => {
                    reset_on_close(&upstream);
                    reset_on_close(&tcp);
                    Err(closed)
                }
                end = relay_tcp(&tcp, &upstream, &meter, patience) => Ok(end),
            }
        }
    };
    match ended {
        Ok(end) => relay_ended(pod, &mut record, &end, "application", "upstream"),
        Err(Closed { reason, error, .. }) => record.fail(reason, error),
    }
}

/// What is known of a connection while it begins.
struct Attempt {
    accepted: Instant,
    client: SocketAddr,
    destination: SocketAddr,
    source: Option<Arc<Workload>>,
    route: Option<Route>,
}

impl Attempt {
    /// Finds out where to, and gets there. What was learnt is kept for the record, also on failure.
    async fn reach(&mut self, pod: &Arc<Pod>) -> Result<Reached, Failure> {
        let deadline = tokio::time::Instant::now() + pod.node.settings.connect_timeout;
        let source = pod.workload(deadline).await.ok_or_else(|| {
            Failure::new(Reason::UnknownDestination, "discovery has not told of this pod itself yet")
        })?;
        self.source = Some(source.clone());
        if is_loop(self.destination, self.client, &source) {
            return Err(Failure::new(Reason::Loop, format!("{} is the proxy itself", self.destination)));
        }
        reach::reach(pod, &source, self.client, self.destination, deadline, &mut self.route).await
    }

    fn record(self, pod: &Pod) -> ConnectionRecord {
        let (workload, service, tunnel) = match &self.route {
            Some(route) => {
                let authority = match route.hop {
                    Hop::Hbone { authority, .. } => Some(authority),
                    Hop::Plain(_) => None,
                };
                (route.workload.as_ref(), route.service.as_ref(), authority)
            }
            None => (None, None, None),
        };
        let principal = |workload: &Arc<Workload>| Arc::<str>::from(workload.identity.uri());
        pod.node.telemetry.open(ConnectionInfo {
            protocol: if tunnel.is_some() { Protocol::Hbone } else { Protocol::Tcp },
            accepted: self.accepted,
            src_addr: self.client,
            dst_addr: self.destination,
            dst_hbone_addr: tunnel.map(|authority| authority.to_string().into()),
            src_workload: Some(pod.info.name.as_str().into()),
            dst_workload: workload.map(|workload| workload.name.clone()),
            labels: TrafficLabels {
                reporter: Reporter::Source,
                source: self.source.as_deref().map(labels::of_workload),
                source_principal: tunnel.map(|_| pod.identity.uri().into()),
                destination: workload.map(|workload| labels::of_workload(workload)),
                destination_principal: tunnel.and(workload).map(principal),
                destination_service: service.map(|service| labels::of_service(service)),
                security_policy: match tunnel {
                    Some(_) => SecurityPolicy::MutualTls,
                    None => SecurityPolicy::Unknown,
                },
            },
        })
    }
}
