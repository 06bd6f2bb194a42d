//! The labels of Istio's TCP metrics. A workload's and a service's parts are made once, when discovery brings
//! them, and shared by every connection.

use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use crate::ResponseFlags;

/// Which side of the connection speaks: the client's node or the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    Source,
    Destination,
    Waypoint,
}

impl Reporter {
    pub const fn as_str(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
            Reporter::Waypoint => "waypoint",
        }
    }
}

/// The label `connection_security_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityPolicy {
    MutualTls,
    /// Plaintext, or ended before it was known.
    Unknown,
}

impl SecurityPolicy {
    pub const fn as_str(self) -> &'static str {
        match self {
            SecurityPolicy::MutualTls => "mutual_tls",
            SecurityPolicy::Unknown => "unknown",
        }
    }
}

/// The `source_*` or `destination_*` labels of one workload. Empty texts are shown as "unknown".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// The owner's name (Deployment and so on), as Istio's `workload`: not the pod's name.
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster: Arc<str>,
    pub region: Arc<str>,
    pub zone: Arc<str>,
}

/// The `destination_service*` labels of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceLabels {
    pub hostname: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

/// One series of the TCP metrics; without the flags, which come with the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrafficLabels {
    pub reporter: Reporter,
    pub source: Option<Arc<WorkloadLabels>>,
    /// Only what a TLS handshake proved, never what discovery says.
    pub source_principal: Option<Arc<str>>,
    pub destination: Option<Arc<WorkloadLabels>>,
    pub destination_principal: Option<Arc<str>>,
    pub destination_service: Option<Arc<ServiceLabels>>,
    pub security_policy: SecurityPolicy,
}

impl TrafficLabels {
    /// The series for what exceeds the bound: the reporter and the security policy alone.
    pub(crate) fn overflow(&self) -> TrafficLabels {
        TrafficLabels {
            reporter: self.reporter,
            source: None,
            source_principal: None,
            destination: None,
            destination_principal: None,
            destination_service: None,
            security_policy: self.security_policy,
        }
    }
}

/// A series with its flags, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SeriesKey {
    pub(crate) labels: TrafficLabels,
    pub(crate) flags: ResponseFlags,
}

const UNKNOWN: &str = "unknown";

pub(crate) fn put(encoder: &mut LabelSetEncoder<'_>, prefix: &str, name: &str, value: &str) -> fmt::Result {
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    key.write_str(prefix)?;
    key.write_str(name)?;
    let mut text = key.encode_label_value()?;
    text.write_str(if value.is_empty() { UNKNOWN } else { value })?;
    text.finish()
}

fn put_workload(
    encoder: &mut LabelSetEncoder<'_>,
    prefix: &str,
    workload: Option<&WorkloadLabels>,
    principal: Option<&str>,
) -> fmt::Result {
    let text = |field: fn(&WorkloadLabels) -> &Arc<str>| workload.map_or("", |w| field(w));
    put(encoder, prefix, "workload", text(|w| &w.workload))?;
    put(encoder, prefix, "workload_namespace", text(|w| &w.namespace))?;
    put(encoder, prefix, "principal", principal.unwrap_or(""))?;
    put(encoder, prefix, "app", text(|w| &w.app))?;
    put(encoder, prefix, "version", text(|w| &w.version))?;
    put(encoder, prefix, "canonical_service", text(|w| &w.canonical_service))?;
    put(encoder, prefix, "canonical_revision", text(|w| &w.canonical_revision))?;
    put(encoder, prefix, "cluster", text(|w| &w.cluster))?;
    put(encoder, prefix, "region", text(|w| &w.region))?;
    put(encoder, prefix, "zone", text(|w| &w.zone))
}

impl TrafficLabels {
    /// All but the protocol, the flags and the security policy.
    pub(crate) fn put(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        put(encoder, "", "reporter", self.reporter.as_str())?;
        put_workload(encoder, "source_", self.source.as_deref(), self.source_principal.as_deref())?;
        let principal = self.destination_principal.as_deref();
        put_workload(encoder, "destination_", self.destination.as_deref(), principal)?;
        let service = self.destination_service.as_deref();
        put(encoder, "", "destination_service", service.map_or("", |s| &s.hostname))?;
        put(encoder, "", "destination_service_name", service.map_or("", |s| &s.name))?;
        put(encoder, "", "destination_service_namespace", service.map_or("", |s| &s.namespace))
    }
}

impl EncodeLabelSet for SeriesKey {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = &self.labels;
        labels.put(encoder)?;
        put(encoder, "", "request_protocol", "tcp")?;
        put(encoder, "", "response_flags", self.flags.as_str())?;
        put(encoder, "", "connection_security_policy", labels.security_policy.as_str())
    }
}
