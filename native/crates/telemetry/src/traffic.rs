//! The five families of Istio's TCP metrics over one table of series, so that a connection looks its labels up
//! once. Bounded: past the bound, new label sets share a series that keeps only reporter and security policy.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::ResponseFlags;
use crate::labels::{SeriesKey, TrafficLabels};

/// The counters of one label set. `sent` and `received` are as Istio counts them: see [`crate::ByteCount`].
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct TrafficTable {
    series: RwLock<HashMap<SeriesKey, Arc<Series>>>,
    bound: usize,
}

impl TrafficTable {
    /// `bound`: the most series that are kept apart.
    pub(crate) fn new(bound: usize) -> Self {
        Self { series: RwLock::default(), bound }
    }

    pub(crate) fn series(&self, labels: &TrafficLabels, flags: ResponseFlags) -> Arc<Series> {
        let key = SeriesKey { labels: labels.clone(), flags };
        if let Some(found) = self.series.read().get(&key) {
            return Arc::clone(found);
        }
        let mut series = self.series.write();
        let key = if series.len() >= self.bound && !series.contains_key(&key) {
            SeriesKey { labels: labels.overflow(), flags }
        } else {
            key
        };
        Arc::clone(series.entry(key).or_default())
    }
}

/// What the registry asks at each scrape.
pub(crate) struct TrafficCollector {
    pub(crate) table: Arc<TrafficTable>,
    /// Brings the bytes of open connections into the series first.
    pub(crate) before: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for TrafficCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficCollector").finish_non_exhaustive()
    }
}

type Field = fn(&Series) -> &AtomicU64;

const FAMILIES: [(&str, &str, Field, bool); 5] = [
    ("istio_tcp_connections_opened", "The total number of TCP connections opened", |s| &s.opened, true),
    ("istio_tcp_connections_closed", "The total number of TCP connections closed", |s| &s.closed, true),
    ("istio_tcp_connections_failed", "The total number of TCP connections that failed", |s| &s.failed, false),
    ("istio_tcp_received_bytes", "Bytes that the connection's client sent", |s| &s.received, true),
    ("istio_tcp_sent_bytes", "Bytes that the connection's client was sent", |s| &s.sent, true),
];

impl Collector for TrafficCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.before)();
        // Counting goes on while the text is written: the table's lock is not held for that.
        let series: Vec<(SeriesKey, Arc<Series>)> =
            self.table.series.read().iter().map(|(key, series)| (key.clone(), Arc::clone(series))).collect();
        for (name, help, field, also_zero) in FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, counters) in &series {
                let value = field(counters).load(Relaxed);
                if value > 0 || (also_zero && key.flags == ResponseFlags::None) {
                    ConstCounter::new(value).encode(family.encode_family(key)?)?;
                }
            }
        }
        Ok(())
    }
}
