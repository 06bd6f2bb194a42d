//! What is written of one connection when it ends: `docs/node-interfaces.md`, "Access record".

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Reason, Reporter, rfc3339_millis};

/// How the two nodes talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Hbone,
    /// Plaintext.
    Tcp,
}

/// What the policy that decided said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyAction {
    Allow,
    Deny,
    Audit,
    DryRun,
}

/// One record; fields that are unknown are absent in the text.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    pub time: SystemTime,
    pub reporter: Reporter,
    pub protocol: Protocol,
    pub src_addr: SocketAddr,
    pub src_workload: Option<Arc<str>>,
    pub src_namespace: Option<Arc<str>>,
    pub src_identity: Option<Arc<str>>,
    pub dst_addr: SocketAddr,
    pub dst_hbone_addr: Option<Arc<str>>,
    pub dst_service: Option<Arc<str>>,
    pub dst_workload: Option<Arc<str>>,
    pub dst_namespace: Option<Arc<str>>,
    pub dst_identity: Option<Arc<str>>,
    /// Bytes that this node's own pod sent.
    pub bytes_sent: u64,
    /// Bytes that this node's own pod received.
    pub bytes_received: u64,
    pub duration: Duration,
    pub policy: Option<Arc<str>>,
    pub policy_action: Option<PolicyAction>,
    pub dry_run_policies: Vec<Arc<str>>,
    /// Policies in dry run that would have denied it.
    pub dry_run_denied_by: Vec<Arc<str>>,
    pub reason: Option<Reason>,
    /// The rule that a refusing peer named.
    pub peer_policy: Option<Arc<str>>,
    pub error: Option<String>,
}

/// The order and form of the fields on the line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    scope: &'static str,
    message: &'static str,
    direction: &'static str,
    protocol: Protocol,
    src_addr: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_identity: Option<&'a str>,
    dst_addr: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_hbone_addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_identity: Option<&'a str>,
    bytes_sent: u64,
    bytes_received: u64,
    #[serde(serialize_with = "millis")]
    duration_ms: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_action: Option<PolicyAction>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dry_run_policies: &'a [Arc<str>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dry_run_denied_by: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// "outbound" at the source, "inbound" at the destination, "waypoint" between them.
pub(crate) const fn direction(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "outbound",
        Reporter::Destination => "inbound",
        Reporter::Waypoint => "waypoint",
    }
}

impl AccessRecord {
    fn line(&self) -> Line<'_> {
        let failed = self.reason.is_some_and(Reason::is_failure);
        Line {
            time: rfc3339_millis(self.time),
            level: if failed { "error" } else { "info" },
            scope: "access",
            message: if failed { "connection failed" } else { "connection complete" },
            direction: direction(self.reporter),
            protocol: self.protocol,
            src_addr: self.src_addr,
            src_workload: self.src_workload.as_deref(),
            src_namespace: self.src_namespace.as_deref(),
            src_identity: self.src_identity.as_deref(),
            dst_addr: self.dst_addr,
            dst_hbone_addr: self.dst_hbone_addr.as_deref(),
            dst_service: self.dst_service.as_deref(),
            dst_workload: self.dst_workload.as_deref(),
            dst_namespace: self.dst_namespace.as_deref(),
            dst_identity: self.dst_identity.as_deref(),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            duration_ms: self.duration,
            policy: self.policy.as_deref(),
            policy_action: self.policy_action,
            dry_run_policies: &self.dry_run_policies,
            dry_run_denied_by: &self.dry_run_denied_by,
            reason: self.reason.map(Reason::as_str),
            peer_policy: self.peer_policy.as_deref(),
            error: self.error.as_deref(),
        }
    }

    /// Appends one JSON object and a line feed.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // Every field is a text, a number or a list of texts: this cannot fail; if it did, no half line stays.
        match serde_json::to_writer(&mut *out, &self.line()) {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(start),
        }
    }

    /// Appends `key="value"` pairs, in the order of the JSON form, and a line feed.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        let mut json = Vec::with_capacity(512);
        self.write_json(&mut json);
        write_pairs(&json, out);
    }
}

/// One JSON object as `key="value"` pairs and a line feed.
pub(crate) fn write_pairs(json: &[u8], out: &mut Vec<u8>) {
    let Ok(Pairs(fields)) = serde_json::from_slice(json) else { return };
    let mut line = String::with_capacity(512);
    for (key, value) in fields {
        if !line.is_empty() {
            line.push(' ');
        }
        // Debug of a str escapes quotes and control characters: one record stays one line.
        let _ = match value {
            serde_json::Value::String(text) => write!(line, "{key}={text:?}"),
            serde_json::Value::Array(items) => {
                let items: Vec<&str> = items.iter().filter_map(|item| item.as_str()).collect();
                write!(line, "{key}={:?}", items.join(","))
            }
            other => write!(line, "{key}=\"{other}\""),
        };
    }
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

/// An object's members in their order.
struct Pairs(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = members.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
