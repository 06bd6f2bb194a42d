//! From `meltemi.v1.TrafficPolicy` to what requests are balanced by.

use super::millis;
use crate::decode::{RouteError, check_requires};
use hashbrown::{HashMap, HashSet};
use http::HeaderName;
use meltemi_types::meltemi as wire;
use std::sync::Arc;
use std::time::Duration;

/// A proxy's own defaults, as Istio's.
const INTERVAL_MS: u32 = 10_000;
const BASE_EJECTION_MS: u32 = 30_000;
const MAX_PERCENT: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    LeastRequest,
    RoundRobin,
    Random,
    ConsistentHash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HashOf {
    Header(HeaderName),
    Cookie(Box<str>),
    SourceIp,
    Query(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HashKey {
    pub(super) of: HashOf,
    /// Of a cookie that is made here.
    pub(super) ttl_s: Option<u32>,
    pub(super) path: Box<str>,
}

/// When endpoints are avoided because of what they answer. 0 of a limit: it is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ejection {
    pub(super) consecutive_errors: u32,
    pub(super) consecutive_gateway_errors: u32,
    pub(super) interval_ms: u64,
    pub(super) base_ms: u64,
    pub(super) max_percent: u32,
    pub(super) min_health_percent: u32,
}

/// How a service's endpoints are spoken to. 0: no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub(crate) max_connections: u32,
    pub(crate) max_pending: u32,
    pub(super) max_requests: u32,
    pub(super) max_retries: u32,
    pub(crate) max_requests_per_connection: u32,
    pub(crate) connect_timeout: Option<Duration>,
    /// An unused connection is closed after this.
    pub(crate) idle: Option<Duration>,
    pub(super) algorithm: Algorithm,
    pub(super) hash: Option<HashKey>,
    pub(super) ejection: Option<Ejection>,
    /// Workloads' uids.
    pub(super) subsets: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

/// # Errors
/// The field that is not understood.
pub(super) fn policy(message: &wire::TrafficPolicy) -> Result<TrafficPolicy, RouteError> {
    use wire::traffic_policy::Balance as Wire;
    check_requires(&message.requires)?;
    let hash = message.hash.as_ref().map(hash_key).transpose()?;
    let algorithm = match Wire::try_from(message.balance) {
        Ok(Wire::LeastRequest) => Algorithm::LeastRequest,
        Ok(Wire::RoundRobin) => Algorithm::RoundRobin,
        Ok(Wire::Random) => Algorithm::Random,
        Ok(Wire::ConsistentHash) if hash.is_some() => Algorithm::ConsistentHash,
        Ok(Wire::ConsistentHash) => return Err(RouteError::new("hash", "missing")),
        Err(_) => return Err(RouteError::new("balance", "an unknown value")),
    };
    let mut subsets = HashMap::new();
    for (index, subset) in message.subsets.iter().enumerate() {
        let uids: HashSet<Arc<str>> = subset.workload_uids.iter().map(|uid| uid.as_str().into()).collect();
        if subset.name.is_empty() || subsets.insert(Arc::from(subset.name.as_str()), uids).is_some() {
            let field = format!("subsets[{index}].name");
            return Err(RouteError::new(field, format!("{:?} is empty or there twice", subset.name)));
        }
    }
    Ok(TrafficPolicy {
        max_connections: message.max_connections,
        max_pending: message.max_pending_requests,
        max_requests: message.max_requests,
        max_retries: message.max_retries,
        max_requests_per_connection: message.max_requests_per_connection,
        connect_timeout: millis(message.connect_timeout_ms),
        idle: millis(message.idle_timeout_ms),
        algorithm,
        hash,
        ejection: message.ejection.as_ref().map(ejection).transpose()?,
        subsets,
    })
}

fn hash_key(message: &wire::HashKey) -> Result<HashKey, RouteError> {
    use wire::hash_key::Kind;
    let of = match &message.kind {
        Some(Kind::Header(name)) => match HeaderName::try_from(name.as_str()) {
            Ok(name) => HashOf::Header(name),
            Err(_) => return Err(RouteError::new("hash.header", format!("{name:?} is no header's name"))),
        },
        // A token (RFC 6265, 4.1.1), as headers' names are.
        Some(Kind::Cookie(name)) if HeaderName::try_from(name.as_str()).is_ok() => {
            HashOf::Cookie(name.as_str().into())
        }
        Some(Kind::Cookie(name)) => {
            return Err(RouteError::new("hash.cookie", format!("{name:?} is no cookie's name")));
        }
        Some(Kind::SourceIp(true)) => HashOf::SourceIp,
        Some(Kind::Query(name)) if !name.is_empty() => HashOf::Query(name.as_str().into()),
        Some(Kind::SourceIp(false) | Kind::Query(_)) | None => {
            return Err(RouteError::new("hash", "want one of header, cookie, source_ip, query"));
        }
    };
    let path = message.cookie_path.as_str();
    if !path.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b';') {
        return Err(RouteError::new("hash.cookie_path", format!("{path:?} is no path")));
    }
    Ok(HashKey { of, ttl_s: message.cookie_ttl_s, path: path.into() })
}

fn ejection(message: &wire::Ejection) -> Result<Ejection, RouteError> {
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    for (field, percent) in
        [("max_percent", message.max_percent), ("min_health_percent", message.min_health_percent)]
    {
        if percent > 100 {
            return Err(RouteError::new(format!("ejection.{field}"), format!("{percent} is more than 100")));
        }
    }
    Ok(Ejection {
        consecutive_errors: message.consecutive_errors,
        consecutive_gateway_errors: message.consecutive_gateway_errors,
        interval_ms: or(message.interval_ms, INTERVAL_MS).into(),
        base_ms: or(message.base_ejection_ms, BASE_EJECTION_MS).into(),
        max_percent: or(message.max_percent, MAX_PERCENT),
        min_health_percent: message.min_health_percent,
    })
}
