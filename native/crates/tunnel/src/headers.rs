//! Headers of a CONNECT and of its answer (ambient's wire contract).
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::net::SocketAddr;

pub(crate) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
pub(crate) const FORWARDED: HeaderName = http::header::FORWARDED;
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("x-meltemi-refused");

/// Longest value taken over from a peer's header; names of Kubernetes are at most 253 bytes.
const VALUE_BYTES: usize = 253;

/// Who the source says it is. Never proof of anything: identity comes from the certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: String,
    pub namespace: String,
    /// `deployment`, `cronjob`, `pod` or `job`.
    pub workload_type: &'static str,
    pub workload: String,
    pub service: String,
    pub revision: String,
    pub region: String,
    pub zone: String,
}

impl Baggage {
    /// As the `baggage` header writes it; empty members are left out.
    pub fn header(&self) -> Option<HeaderValue> {
        let workload = match self.workload_type {
            "cronjob" => "k8s.cronjob.name",
            "job" => "k8s.job.name",
            "pod" => "k8s.pod.name",
            _ => "k8s.deployment.name",
        };
        let members = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (workload, &self.workload),
            ("service.name", &self.service),
            ("service.version", &self.revision),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let text = members
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(",");
        HeaderValue::from_str(&text).ok()
    }

    /// Reads what is there; unknown members and values that are too long are passed over.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut baggage = Self::default();
        let members = headers.get_all(BAGGAGE).into_iter().filter_map(|v| v.to_str().ok());
        for member in members.flat_map(|text| text.split(',')) {
            let Some((name, value)) = member.split_once('=') else { continue };
            if value.len() > VALUE_BYTES {
                continue;
            }
            let value = value.trim().to_owned();
            match name.trim() {
                "k8s.cluster.name" => baggage.cluster = value,
                "k8s.namespace.name" => baggage.namespace = value,
                "k8s.deployment.name" => (baggage.workload_type, baggage.workload) = ("deployment", value),
                "k8s.cronjob.name" => (baggage.workload_type, baggage.workload) = ("cronjob", value),
                "k8s.pod.name" => (baggage.workload_type, baggage.workload) = ("pod", value),
                "k8s.job.name" => (baggage.workload_type, baggage.workload) = ("job", value),
                "service.name" => baggage.service = value,
                "service.version" => baggage.revision = value,
                "cloud.region" => baggage.region = value,
                "cloud.availability_zone" => baggage.zone = value,
                _ => {}
            }
        }
        baggage
    }
}

/// `for="ip:port";host=<service fqdn>`, the client as its node saw it.
pub fn forwarded(client: SocketAddr, service: Option<&str>) -> Option<HeaderValue> {
    let text = match service {
        Some(host) => format!("for=\"{client}\";host={host}"),
        None => format!("for=\"{client}\""),
    };
    HeaderValue::from_str(&text).ok()
}

/// The service that the source addressed, from `forwarded`.
pub fn parse_forwarded_host(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(FORWARDED)?.to_str().ok()?;
    let host = text.split([';', ',']).find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("host").then(|| value.trim().trim_matches('"'))
    })?;
    (!host.is_empty() && host.len() <= VALUE_BYTES).then(|| host.to_owned())
}

/// The client's own address, from `forwarded`, where a single proxy says it. Never proof of anything.
pub fn parse_forwarded_client(headers: &HeaderMap) -> Option<SocketAddr> {
    let text = headers.get(FORWARDED)?.to_str().ok()?;
    if text.contains(',') {
        return None;
    }
    text.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("for").then(|| value.parse().ok())?
    })
}

/// W3C trace context: one trace a connection, a span at each proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: u128,
    pub span: u64,
    pub flags: u8,
}

impl TraceParent {
    pub fn new() -> Self {
        Self { trace: rand::random(), span: rand::random(), flags: 0 }
    }

    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
            return None;
        }
        Some(Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        })
    }

    pub(crate) fn header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.to_string()).ok()
    }
}

impl Default for TraceParent {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// `x-meltemi-refused: reason[; policy=namespace/name]`: why a peer of ours refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub policy: Option<String>,
}

impl Refusal {
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.to_string()).ok()
    }

    pub(crate) fn parse(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(REFUSED)?.to_str().ok()?;
        let mut parts = text.split(';').map(str::trim);
        let reason = parts.next().filter(|r| !r.is_empty() && r.len() <= 64)?.to_owned();
        let policy = parts
            .find_map(|part| part.strip_prefix("policy="))
            .filter(|policy| policy.len() <= 2 * VALUE_BYTES)
            .map(str::to_owned);
        Some(Self { reason, policy })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some(policy) => write!(f, "{}; policy={policy}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: HeaderValue) -> HeaderMap {
        HeaderMap::from_iter([(name, value)])
    }

    #[test]
    fn baggage_is_read_as_it_is_written() {
        let baggage = Baggage {
            cluster: "Kubernetes".into(),
            namespace: "default".into(),
            workload_type: "pod",
            workload: "a-1".into(),
            service: "a".into(),
            ..Baggage::default()
        };
        let header = baggage.header().unwrap();
        assert_eq!(
            header,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=a-1,service.name=a"
        );
        assert_eq!(Baggage::parse(&with(BAGGAGE, header)), baggage);
    }

    #[test]
    fn forwarded_names_client_and_service() {
        let client = "10.0.0.1:4000".parse().unwrap();
        let header = forwarded(client, Some("b.default.svc.cluster.local")).unwrap();
        assert_eq!(header, "for=\"10.0.0.1:4000\";host=b.default.svc.cluster.local");
        let host = parse_forwarded_host(&with(FORWARDED, header));
        assert_eq!(host.as_deref(), Some("b.default.svc.cluster.local"));
        assert_eq!(forwarded(client, None).unwrap(), "for=\"10.0.0.1:4000\"");
        for header in [forwarded(client, None), forwarded(client, Some("b.default"))] {
            assert_eq!(parse_forwarded_client(&with(FORWARDED, header.unwrap())), Some(client));
        }
        for odd in ["for=unknown", "for=\"10.0.0.1:4000\", for=\"10.0.0.2:1\"", "host=x", ";;="] {
            assert_eq!(
                parse_forwarded_client(&with(FORWARDED, HeaderValue::from_static(odd))),
                None,
                "{odd}"
            );
        }
    }

    #[test]
    fn traces_are_read_as_they_are_written() {
        let trace = TraceParent::new();
        assert_eq!(TraceParent::parse(&with(TRACEPARENT, trace.header().unwrap())), Some(trace));
        let broken = with(TRACEPARENT, HeaderValue::from_static("00-zz-1-00"));
        assert_eq!(TraceParent::parse(&broken), None);
    }

    #[test]
    fn a_refusal_names_its_policy() {
        let refusal = Refusal { reason: "policy_denied".into(), policy: Some("default/deny".into()) };
        let headers = with(REFUSED, refusal.header().unwrap());
        assert_eq!(Refusal::parse(&headers), Some(refusal));
        let bare = with(REFUSED, HeaderValue::from_static("policy_denied"));
        assert_eq!(Refusal::parse(&bare).unwrap().policy, None);
        assert_eq!(Refusal::parse(&with(REFUSED, HeaderValue::from_static(""))), None);
    }
}
