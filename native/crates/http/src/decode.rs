//! From `meltemi.v1.HttpRoute` to a [`Route`]. What is not understood in full is refused in full: a match or a
//! filter that were left out would be another route than the user wrote.

mod filter;

use crate::matcher::{HeaderPredicate, Host, Order, PathMatch, QueryPredicate, RequestMatch};
use crate::route::{
    Action, Backend, Backends, MatchedRule, Mirror, Parent, ParentPort, Retry, Route, Rule, Target, Timeouts,
};
use crate::text::{FoldedKind, Pattern, TextError, TextMatch};
use http::HeaderName;
use meltemi_types::{ServiceKey, meltemi as wire};
use std::sync::Arc;
use std::time::Duration;

/// Features that a resource may require of this version.
const KNOWN_FEATURES: [&str; 0] = [];

/// A route that is refused: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct RouteError {
    pub field: String,
    pub problem: String,
}

impl RouteError {
    pub(crate) fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }
}

type Result<T> = std::result::Result<T, RouteError>;

/// Refuses a resource that needs what this version does not know.
pub fn check_requires(requires: &[String]) -> Result<()> {
    match requires.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
        Some(feature) => Err(RouteError::new("requires", format!("this proxy does not know {feature:?}"))),
        None => Ok(()),
    }
}

/// `name`: the resource's.
pub fn route(name: &str, message: &wire::HttpRoute) -> Result<Route> {
    check_requires(&message.requires)?;
    let order = match wire::http_route::Order::try_from(message.order) {
        Ok(wire::http_route::Order::MostSpecific) => Order::MostSpecific,
        Ok(wire::http_route::Order::InOrder) => Order::InOrder,
        Err(_) => return Err(RouteError::new("order", "an unknown value")),
    };
    let name: Arc<str> = name.into();
    let hosts = match message.hostnames.is_empty() {
        true => vec![Host::Any],
        false => each("hostnames", &message.hostnames, |field, text| host(field, text))?,
    };
    let rules = each("rules", &message.rules, |field, message| rule(field, &name, message))?;
    let consumer = consumer(message);
    // Policies come before routes. The producer's judge what its own routes then change as it wishes; another
    // namespace's would send its callers' requests past them.
    if consumer.is_some() && rules.iter().any(|(_, rule)| rule.changes_requests()) {
        let problem = "a consumer's route may not change requests: policies have judged them as they came";
        return Err(RouteError::new("rules", problem));
    }
    Ok(Route {
        key: format!("{}/{}", message.namespace, message.name).into(),
        order,
        created_ms: message.created_ms,
        parents: each("parents", &message.parents, parent)?.into(),
        hosts: hosts.into(),
        consumer,
        rules: rules.into(),
        name,
    })
}

/// A consumer route's namespace.
pub fn consumer(message: &wire::HttpRoute) -> Option<Arc<str>> {
    (!message.consumer_namespace.is_empty()).then(|| Arc::from(message.consumer_namespace.as_str()))
}

/// The parents alone, of a route that is refused otherwise.
pub fn parents(message: &wire::HttpRoute) -> Vec<ParentPort> {
    message.parents.iter().filter_map(|message| parent("", message).ok()).collect()
}

fn each<M, T>(field: &str, messages: &[M], decode: impl Fn(&str, &M) -> Result<T>) -> Result<Vec<T>> {
    let decoded = messages.iter().enumerate();
    decoded.map(|(index, message)| decode(&format!("{field}[{index}]"), message)).collect()
}

fn port(field: &str, port: u32) -> Result<Option<u16>> {
    match u16::try_from(port) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(RouteError::new(field, format!("{port} is no port"))),
    }
}

fn parent(field: &str, message: &wire::RouteParent) -> Result<ParentPort> {
    use wire::route_parent::Target as Wire;
    let parent = match &message.target {
        Some(Wire::Service(key)) => Parent::Service(service(&format!("{field}.service"), key)?),
        Some(Wire::Workload(uid)) if !uid.is_empty() => Parent::Workload(uid.as_str().into()),
        _ => return Err(RouteError::new(field, "neither a service nor a workload")),
    };
    Ok(ParentPort { parent, port: port(&format!("{field}.port"), message.port)? })
}

fn service(field: &str, key: &str) -> Result<ServiceKey> {
    ServiceKey::new(key).map_err(|error| RouteError::new(field, error))
}

fn host(field: &str, text: &str) -> Result<Host> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_prefix('*').unwrap_or(&lower);
    let fits = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
    };
    match (lower.as_str(), lower.starts_with('*')) {
        ("*", _) => Ok(Host::Any),
        (_, true) if name.starts_with('.') && fits(&name[1..]) => Ok(Host::Suffix(name.into())),
        (_, false) if fits(name) => Ok(Host::Exact(name.into())),
        _ => Err(RouteError::new(field, format!("{text:?} is no host name: want a.example or *.example"))),
    }
}

fn rule(field: &str, route: &Arc<str>, message: &wire::HttpRule) -> Result<MatchedRule> {
    let mut matches = each(&format!("{field}.matches"), &message.matches, request_match)?;
    if matches.is_empty() {
        matches.push(RequestMatch::default());
    }
    let action = match (message.invalid.as_str(), message.to_parent) {
        ("", true) if !message.backends.is_empty() => {
            return Err(RouteError::new(field, "both to_parent and backends"));
        }
        ("", true) => Action::Parent,
        ("", false) => {
            let backends = each(&format!("{field}.backends"), &message.backends, backend)?;
            let backends = Backends::new(backends);
            Action::Backends(backends.ok_or_else(|| {
                RouteError::new(format!("{field}.backends"), "the sum of the weights is more than 32 bits")
            })?)
        }
        (problem, _) => Action::Invalid(problem.into()),
    };
    let filter::Filters { cors, fault, filters, mirrors } =
        filter::filters(&format!("{field}.filters"), &message.filters)?;
    let rule = Rule {
        route: route.clone(),
        name: message.name.as_str().into(),
        cors,
        fault,
        filters,
        mirrors,
        action,
        timeouts: timeouts(message.timeouts.as_ref()),
        retry: message
            .retry
            .as_ref()
            .map(|retry| decode_retry(&format!("{field}.retry"), retry))
            .transpose()?,
    };
    Ok((matches.into(), Arc::new(rule)))
}

fn request_match(field: &str, message: &wire::HttpMatch) -> Result<RequestMatch> {
    let at = |name: &str| format!("{field}.{name}");
    let optional = |name: &str, message: &Option<wire::TextMatch>| {
        message.as_ref().map(|message| text_match(&at(name), message)).transpose()
    };
    Ok(RequestMatch {
        path: match &message.path {
            Some(message) => path_match(&at("path"), message)?,
            None => PathMatch::Any,
        },
        method: optional("method", &message.method)?,
        authority: optional("authority", &message.authority)?,
        scheme: optional("scheme", &message.scheme)?,
        headers: each(&at("headers"), &message.headers, header_predicate)?.into(),
        query: each(&at("query"), &message.query, |field, message| {
            let value = required(field, message.value.as_ref())?;
            Ok(QueryPredicate {
                name: message.name.as_str().into(),
                value: text_match(&format!("{field}.value"), value)?,
            })
        })?
        .into(),
        source_namespaces: message.source_namespaces.iter().map(|text| text.as_str().into()).collect(),
        port: port(&at("port"), message.port)?,
    })
}

fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T> {
    value.ok_or_else(|| RouteError::new(format!("{field}.value"), "missing"))
}

fn header_predicate(field: &str, message: &wire::HeaderMatch) -> Result<HeaderPredicate> {
    let value = required(field, message.value.as_ref())?;
    Ok(HeaderPredicate {
        name: header_name(&format!("{field}.name"), &message.name)?,
        value: text_match(&format!("{field}.value"), value)?,
        not: message.not,
    })
}

fn header_name(field: &str, text: &str) -> Result<HeaderName> {
    // ":authority" is how Istio's users write the host.
    let text = if text == ":authority" { "host" } else { text };
    HeaderName::try_from(text).map_err(|_| RouteError::new(field, format!("{text:?} is no header's name")))
}

fn path_match(field: &str, message: &wire::PathMatch) -> Result<PathMatch> {
    use wire::path_match::Kind;
    let absolute = |text: &str| match text.starts_with('/') {
        true => Ok(()),
        false => Err(RouteError::new(field, format!("{text:?} does not begin with a slash"))),
    };
    let fold = message.ignore_case;
    let lower = |text: &str| text.to_ascii_lowercase().into_boxed_str();
    match &message.kind {
        Some(Kind::Exact(text)) => {
            absolute(text)?;
            Ok(if fold {
                PathMatch::FoldedExact(lower(text))
            } else {
                PathMatch::Exact(text.as_str().into())
            })
        }
        Some(Kind::Segments(text)) => {
            absolute(text)?;
            Ok(match PathMatch::segments(text) {
                PathMatch::Segments(text) if fold => PathMatch::FoldedSegments(lower(&text)),
                path => path,
            })
        }
        Some(Kind::Prefix(text)) => Ok(if fold {
            PathMatch::FoldedPrefix(lower(text))
        } else {
            PathMatch::Prefix(text.as_str().into())
        }),
        Some(Kind::Regex(text)) => {
            let pattern = Pattern::new(text, fold).map_err(|error| RouteError::new(field, error))?;
            Ok(PathMatch::Regex(Box::new(pattern)))
        }
        Some(Kind::GrpcMethod(text)) if !text.is_empty() && !text.contains('/') && !fold => {
            Ok(PathMatch::GrpcMethod(text.as_str().into()))
        }
        Some(Kind::GrpcMethod(text)) => Err(RouteError::new(field, format!("{text:?} is no gRPC method"))),
        None => Err(RouteError::new(field, TextError::Empty)),
    }
}

pub(crate) fn text_match(field: &str, message: &wire::TextMatch) -> Result<TextMatch> {
    use wire::text_match::Kind;
    let folded = |kind, text: &str| TextMatch::Folded { kind, text: text.to_ascii_lowercase().into() };
    let fold = message.ignore_case;
    Ok(match &message.kind {
        Some(Kind::Exact(text)) if fold => folded(FoldedKind::Exact, text),
        Some(Kind::Prefix(text)) if fold => folded(FoldedKind::Prefix, text),
        Some(Kind::Suffix(text)) if fold => folded(FoldedKind::Suffix, text),
        Some(Kind::Exact(text)) => TextMatch::Exact(text.as_str().into()),
        Some(Kind::Prefix(text)) => TextMatch::Prefix(text.as_str().into()),
        Some(Kind::Suffix(text)) => TextMatch::Suffix(text.as_str().into()),
        Some(Kind::Regex(text)) => {
            let pattern = Pattern::new(text, fold).map_err(|error| RouteError::new(field, error))?;
            TextMatch::Regex(Box::new(pattern))
        }
        Some(Kind::Present(true)) => TextMatch::Present,
        Some(Kind::Present(false)) | None => return Err(RouteError::new(field, TextError::Empty)),
    })
}

fn backend(field: &str, message: &wire::HttpBackend) -> Result<(u32, Backend)> {
    let target = match message.invalid.as_str() {
        "" => Target::Service {
            service: service(&format!("{field}.service"), &message.service)?,
            port: port(&format!("{field}.port"), message.port)?
                .ok_or_else(|| RouteError::new(format!("{field}.port"), "missing"))?,
            subset: (!message.subset.is_empty()).then(|| message.subset.as_str().into()),
        },
        problem => Target::Invalid(problem.into()),
    };
    let at = format!("{field}.filters");
    let filter::Filters { cors, fault, filters, mirrors } = filter::filters(&at, &message.filters)?;
    if cors.is_some() || fault.is_some() || filters.iter().any(filter::answers) {
        return Err(RouteError::new(at, "a backend's filter cannot answer"));
    }
    Ok((message.weight, Backend { target, filters, mirrors }))
}

fn mirror(field: &str, message: &wire::Mirror) -> Result<Mirror> {
    let at = format!("{field}.backend");
    let (_, backend) = match &message.backend {
        Some(message) if message.filters.is_empty() => backend(&at, message)?,
        Some(_) => return Err(RouteError::new(at, "a mirror has no filters of its own")),
        None => return Err(RouteError::new(at, "missing")),
    };
    let per_million = if message.all { 1_000_000 } else { share(field, "per_million", message.per_million)? };
    Ok(Mirror { backend, per_million })
}

/// Of a million.
fn share(field: &str, name: &str, share: u32) -> Result<u32> {
    match share {
        0..=1_000_000 => Ok(share),
        _ => Err(RouteError::new(format!("{field}.{name}"), format!("{share} is more than a million"))),
    }
}

/// Gateway API: 0 is "no limit".
fn timeouts(message: Option<&wire::HttpTimeouts>) -> Timeouts {
    let time = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
    message.map_or_else(Timeouts::default, |message| Timeouts {
        request: time(message.request_ms),
        backend: time(message.backend_request_ms),
        idle: message.idle_ms.map(Duration::from_millis),
    })
}

fn decode_retry(field: &str, message: &wire::HttpRetry) -> Result<Retry> {
    let grpc_statuses = message.grpc_statuses.iter().map(|code| match u16::try_from(*code) {
        Ok(code @ 1..=16) => Ok(code),
        _ => Err(RouteError::new(format!("{field}.grpc_statuses"), format!("{code} is no error's status"))),
    });
    let statuses = message.statuses.iter().map(|code| match u16::try_from(*code) {
        Ok(code @ 400..=599) => Ok(code),
        _ => Err(RouteError::new(format!("{field}.statuses"), format!("{code} is no error's status"))),
    });
    let backoff = Duration::from_millis(message.backoff_ms.unwrap_or(25));
    let longest = message.backoff_max_ms.map_or(backoff.saturating_mul(10), Duration::from_millis);
    Ok(Retry {
        attempts: message.attempts,
        per_try: message.per_try_timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis),
        statuses: statuses.collect::<Result<_>>()?,
        grpc_statuses: grpc_statuses.collect::<Result<_>>()?,
        connect_failure: message.connect_failure,
        reset: message.reset,
        backoff,
        backoff_max: longest.max(backoff),
        budget_per_million: message.budget_per_million.unwrap_or(200_000),
    })
}

#[cfg(test)]
mod tests;
