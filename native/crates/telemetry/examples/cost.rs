//! What one connection's accounting costs: `cargo run --release -p meltemi-telemetry --example cost`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use meltemi_telemetry::{
    AccessLog, AccessLogFormat, ConnectionInfo, Metrics, Protocol, Reporter, SecurityPolicy, Telemetry,
    TelemetryError, TrafficLabels, WorkloadLabels,
};

const CONNECTIONS: u32 = 500_000;

fn main() -> Result<(), TelemetryError> {
    let workload = |name: &str| {
        Some(Arc::new(WorkloadLabels {
            workload: name.into(),
            namespace: "team-of-people".into(),
            app: name.into(),
            version: "v1".into(),
            canonical_service: name.into(),
            canonical_revision: "v1".into(),
            cluster: "Kubernetes".into(),
            ..WorkloadLabels::default()
        }))
    };
    let labels = TrafficLabels {
        reporter: Reporter::Source,
        source: workload("frontend"),
        source_principal: Some("spiffe://cluster.local/ns/team-of-people/sa/frontend".into()),
        destination: workload("backend"),
        destination_principal: Some("spiffe://cluster.local/ns/team-of-people/sa/backend".into()),
        destination_service: None,
        security_policy: SecurityPolicy::MutualTls,
    };
    for format in [AccessLogFormat::Off, AccessLogFormat::Json] {
        let metrics = Metrics::new("ztunnel", "cost");
        let log = AccessLog::to_sink(format, Box::new(std::io::sink()), Arc::clone(&metrics))?;
        let log = if format == AccessLogFormat::Off {
            AccessLog::open(format, &meltemi_telemetry::AccessLogTarget::Stdout, Arc::clone(&metrics))?
        } else {
            log
        };
        let telemetry = Telemetry::new(metrics, log);
        let start = Instant::now();
        for number in 0..CONNECTIONS {
            let record = telemetry.open(ConnectionInfo {
                protocol: Protocol::Hbone,
                accepted: Instant::now(),
                src_addr: SocketAddr::from(([10, 0, 0, 1], number as u16)),
                dst_addr: SocketAddr::from(([10, 0, 0, 2], 80)),
                dst_hbone_addr: None,
                src_workload: None,
                dst_workload: None,
                labels: labels.clone(),
            });
            record.bytes().from_client(black_box(100));
            drop(record);
        }
        println!(
            "access log {format:?}: {} ns per connection",
            start.elapsed().as_nanos() / u128::from(CONNECTIONS)
        );
    }
    Ok(())
}
