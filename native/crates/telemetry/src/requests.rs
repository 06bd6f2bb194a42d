//! Istio's request metrics: rate, errors, duration and sizes, over one table of series, bounded as that of TCP.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::histogram::Histogram;

use crate::labels::put;
use crate::{Metrics, TrafficLabels};

/// Label sets shown apart.
const SERIES_BOUND: usize = 10_000;
/// Upper bounds, of milliseconds and of bytes: Istio's dashboards know no others.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The label `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    Http,
    Grpc,
}

/// One series of the request metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    pub traffic: TrafficLabels,
    pub protocol: RequestProtocol,
    /// 0 where there was no answer.
    pub status: u16,
    pub grpc_status: Option<u16>,
    /// The cause's word where the proxy answered by itself or the exchange broke off, else "-".
    pub flags: &'static str,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.traffic.put(encoder)?;
        let protocol = match self.protocol {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
        };
        put(encoder, "", "request_protocol", protocol)?;
        put(encoder, "", "response_code", &self.status.to_string())?;
        if let Some(status) = self.grpc_status {
            put(encoder, "", "grpc_response_status", &status.to_string())?;
        }
        put(encoder, "", "response_flags", self.flags)?;
        put(encoder, "", "connection_security_policy", self.traffic.security_policy.as_str())
    }
}

/// What one request adds to its series.
#[derive(Clone, Copy, Debug)]
pub struct RequestTotals {
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

#[derive(Debug)]
struct Series {
    count: AtomicU64,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl Default for Series {
    fn default() -> Self {
        let histogram = || Histogram::new(BUCKETS);
        Self {
            count: AtomicU64::new(0),
            duration: histogram(),
            request_bytes: histogram(),
            response_bytes: histogram(),
        }
    }
}

type Table = Arc<RwLock<HashMap<RequestLabels, Arc<Series>>>>;

/// Where requests are counted.
#[derive(Debug)]
pub struct RequestTelemetry {
    table: Table,
}

impl RequestTelemetry {
    /// Registers the request metrics with `metrics`: one for each `Metrics`.
    pub fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        let table = Table::default();
        metrics.registry.lock().register_collector(Box::new(RequestCollector { table: table.clone() }));
        Arc::new(Self { table })
    }

    pub fn count(&self, labels: RequestLabels, totals: RequestTotals) {
        let series = self.series(labels);
        series.count.fetch_add(1, Relaxed);
        series.duration.observe(totals.duration.as_secs_f64() * 1e3);
        series.request_bytes.observe(totals.request_bytes as f64);
        series.response_bytes.observe(totals.response_bytes as f64);
    }

    fn series(&self, labels: RequestLabels) -> Arc<Series> {
        if let Some(found) = self.table.read().get(&labels) {
            return Arc::clone(found);
        }
        let mut table = self.table.write();
        let labels = match table.len() >= SERIES_BOUND && !table.contains_key(&labels) {
            true => RequestLabels { traffic: labels.traffic.overflow(), ..labels },
            false => labels,
        };
        Arc::clone(table.entry(labels).or_default())
    }
}

#[derive(Debug)]
struct RequestCollector {
    table: Table,
}

type Field = fn(&Series) -> &Histogram;

const HISTOGRAMS: [(&str, &str, Field); 3] = [
    ("istio_request_duration_milliseconds", "How long requests took", |s| &s.duration),
    ("istio_request_bytes", "Bytes of requests' bodies", |s| &s.request_bytes),
    ("istio_response_bytes", "Bytes of responses' bodies", |s| &s.response_bytes),
];

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let series: Vec<(RequestLabels, Arc<Series>)> =
            self.table.read().iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
        if series.is_empty() {
            return Ok(());
        }
        let help = "The total number of requests";
        let mut family = encoder.encode_descriptor("istio_requests", help, None, MetricType::Counter)?;
        for (labels, series) in &series {
            ConstCounter::new(series.count.load(Relaxed)).encode(family.encode_family(labels)?)?;
        }
        for (name, help, field) in HISTOGRAMS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (labels, series) in &series {
                field(series).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reporter, SecurityPolicy, ServiceLabels};

    #[test]
    fn a_request_is_counted_once_with_its_labels() {
        let metrics = Metrics::new("waypoint", "test");
        let requests = RequestTelemetry::new(&metrics);
        let service =
            ServiceLabels { hostname: "cart.shop".into(), name: "cart".into(), namespace: "shop".into() };
        let labels = RequestLabels {
            traffic: TrafficLabels {
                reporter: Reporter::Waypoint,
                source: None,
                source_principal: Some("spiffe://td/ns/web/sa/front".into()),
                destination: None,
                destination_principal: None,
                destination_service: Some(Arc::new(service)),
                security_policy: SecurityPolicy::MutualTls,
            },
            protocol: RequestProtocol::Grpc,
            status: 200,
            grpc_status: Some(5),
            flags: "-",
        };
        let duration = Duration::from_millis(7);
        for _ in 0..2 {
            requests.count(labels.clone(), RequestTotals { duration, request_bytes: 3, response_bytes: 600 });
        }
        let text = metrics.text();
        let line = |start: &str, part: &str| {
            text.lines().find(|line| line.starts_with(start) && line.contains(part)).unwrap_or_default()
        };
        let total = line("istio_requests_total{", "reporter=\"waypoint\"");
        for label in
            ["response_code=\"200\"", "grpc_response_status=\"5\"", "destination_service=\"cart.shop\""]
        {
            assert!(total.contains(label), "{label}: {text}");
        }
        assert!(total.ends_with(" 2"), "{total}");
        assert!(line("istio_request_duration_milliseconds_bucket{", "le=\"10.0\"").ends_with(" 2"));
        assert!(line("istio_request_duration_milliseconds_bucket{", "le=\"5.0\"").ends_with(" 0"));
        assert!(line("istio_response_bytes_sum{", "").ends_with(" 1200.0"), "{text}");
    }
}
