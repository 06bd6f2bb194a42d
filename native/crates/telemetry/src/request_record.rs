//! What is written of one HTTP request when it is over: `docs/waypoint.md`, "Access record".

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::access_record::write_pairs;
use crate::rfc3339_millis;

/// One record; fields that are unknown are absent in the text.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord {
    #[serde(serialize_with = "time")]
    pub time: SystemTime,
    pub level: &'static str,
    pub scope: &'static str,
    pub message: &'static str,
    pub direction: &'static str,
    /// "http/1.1", "http/2" or "grpc".
    pub protocol: &'static str,
    pub method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Normalised, without query.
    pub path: String,
    /// Absent where there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    pub src_addr: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_workload: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_namespace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_identity: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_addr: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_service: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_workload: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_namespace: Option<Arc<str>>,
    /// Of the response's body.
    pub bytes_sent: u64,
    /// Of the request's body.
    pub bytes_received: u64,
    #[serde(serialize_with = "millis")]
    pub duration_ms: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: Box<str>,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run_policies: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339_millis(*time))
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl RequestRecord {
    /// Appends one JSON object and a line feed.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // As of a connection's record: this cannot fail; if it did, no half line stays.
        match serde_json::to_writer(&mut *out, self) {
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
