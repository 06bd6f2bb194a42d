//! Plaintext to a pod: from outside the mesh, where its policies let it in.
use super::judge::judge;
use super::{Arrival, closed, connect_application, is_proxy_port, waypoint};
use crate::failure::{Failure, relay_ended};
use crate::pod::Pod;
use meltemi_capture::{original_destination, reset_on_close};
use meltemi_telemetry::{ByteCount, ConnectionRecord, Reason};
use meltemi_tunnel::{Meter, relay_tcp};
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
    let arrival = Arrival {
        accepted,
        client,
        destination,
        identity: None,
        standing: None,
        service: None,
        claimed: None,
        authority: None,
        shared: false,
    };
    let deadline = tokio::time::Instant::now() + pod.node.settings.connect_timeout;
    let workload = tokio::select! {
        workload = pod.workload(deadline) => workload,
        () = pod.kill.cancelled() => None,
    };
    let (mut record, mut tracked) = arrival.open(&pod, workload.as_ref());
    let Some(workload) = workload else {
        record.fail(Reason::UnknownDestination, "discovery has not told of this pod itself yet");
        return reset_on_close(&tcp);
    };
    let begun = Box::pin(async {
        if is_proxy_port(destination.port()) {
            return Err(Failure::new(Reason::Loop, format!("{destination} is the proxy itself")));
        }
        // What is routed through the pod's namespace to somewhere else is not the pod's to receive.
        if !workload.ips.contains(&destination.ip()) {
            return Err(Failure::new(
                Reason::UnknownDestination,
                format!("{} is no address of pod {}", destination.ip(), pod.info.name),
            ));
        }
        judge(&pod, &workload, &arrival.facts(), deadline, &mut record).await.map_err(|r| r.failure)?;
        waypoint::require(&workload, false)?;
        connect_application(&pod, client.ip(), destination).await
    });
    let begun = tokio::select! {
        begun = begun => Ok(begun),
        end = tracked.closed() => Err(end),
    };
    let upstream = match begun {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(failure)) => {
            record.fail(failure.reason, failure.error);
            return reset_on_close(&tcp);
        }
        Err(end) => {
            closed(&mut record, end);
            return reset_on_close(&tcp);
        }
    };
    drop((arrival, workload));
    carry(&pod, &tcp, &upstream, &mut record, &mut tracked).await;
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

async fn carry(
    pod: &Pod,
    tcp: &TcpStream,
    upstream: &TcpStream,
    record: &mut ConnectionRecord,
    tracked: &mut crate::connections::Tracked,
) {
    let meter = FromClient(record.bytes());
    tokio::select! {
        // What ends a connection also breaks its tunnel: the reason is looked at first.
        biased;
        end = tracked.closed() => {
            closed(record, end);
            reset_on_close(tcp);
            reset_on_close(upstream);
        }
        end = relay_tcp(tcp, upstream, &meter, pod.node.settings.patience) => {
            relay_ended(pod, record, &end, "client", "application");
        }
    }
}
