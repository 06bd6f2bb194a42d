//! From `meltemi.v1.HttpAuthorization`. A field that cannot be understood refuses the policy: left out, it
//! would allow more, or deny less, than was written.

use super::policy::{Action, Condition, HostMatch, Operation, Policy, Rule, Source, TokenField, Wanted};
use crate::decode::{RouteError as PolicyError, check_requires};
use crate::text::{FoldedKind, TextMatch};
use meltemi_types::meltemi::{self as wire, http_authorization as wire_policy, policy_target};
use meltemi_types::{Cidr, PolicyKey, ServiceKey, security};
use std::sync::Arc;

type Result<T> = std::result::Result<T, PolicyError>;

/// What a policy is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    Waypoint,
    Service(ServiceKey),
    /// A workload's uid.
    Workload(Arc<str>),
}

/// Where a policy applies, as far as it is told; all that the waypoint serves where that is not understood.
pub(crate) fn scopes(targets: &[wire::PolicyTarget]) -> Vec<Scope> {
    let scopes: Option<Vec<_>> = targets.iter().map(scope).collect();
    scopes.filter(|scopes| !scopes.is_empty()).unwrap_or_else(|| vec![Scope::Waypoint])
}

fn scope(target: &wire::PolicyTarget) -> Option<Scope> {
    match &target.kind {
        Some(policy_target::Kind::Waypoint(true)) => Some(Scope::Waypoint),
        Some(policy_target::Kind::Service(key)) => ServiceKey::new(key.as_str()).ok().map(Scope::Service),
        Some(policy_target::Kind::Workload(uid)) if !uid.is_empty() => {
            Some(Scope::Workload(uid.as_str().into()))
        }
        _ => None,
    }
}

/// Refuses a policy of which it is not known where it applies.
pub(crate) fn check_targets(targets: &[wire::PolicyTarget]) -> Result<()> {
    if targets.is_empty() || targets.iter().any(|target| scope(target).is_none()) {
        return Err(PolicyError::new("targets", "none, or one that is not understood"));
    }
    Ok(())
}

/// Whether a policy, were it understood, would decide.
pub(super) fn would_decide(message: &wire::HttpAuthorization) -> bool {
    !message.dry_run && message.action != i32::from(wire_policy::Action::Audit)
}

pub(super) fn policy(message: &wire::HttpAuthorization) -> Result<Policy> {
    check_requires(&message.requires)?;
    let action = match wire_policy::Action::try_from(message.action) {
        Ok(wire_policy::Action::Allow) => Action::Allow,
        Ok(wire_policy::Action::Deny) => Action::Deny,
        Ok(wire_policy::Action::Audit) => Action::Audit,
        Ok(wire_policy::Action::Custom) => Action::Custom,
        Err(_) => return Err(PolicyError::new("action", "an unknown value")),
    };
    check_targets(&message.targets)?;
    if action == Action::Custom && message.provider.is_empty() {
        return Err(PolicyError::new("provider", "is empty"));
    }
    let external = message.external.as_ref().filter(|_| action == Action::Custom);
    let external = external.map(|external| crate::external::authorizer(&message.provider, external));
    let key = PolicyKey::from_parts(&message.namespace, &message.name);
    Ok(Policy {
        key: key.map_err(|error| PolicyError::new("name", error))?,
        action,
        dry_run: message.dry_run,
        rules: each("rules", &message.rules, rule)?,
        external: external.transpose()?.map(Arc::new),
    })
}

fn each<M, T>(field: &str, messages: &[M], decode: impl Fn(&str, &M) -> Result<T>) -> Result<Box<[T]>> {
    let decoded = messages.iter().enumerate();
    decoded.map(|(index, message)| decode(&format!("{field}[{index}]"), message)).collect()
}

fn rule(field: &str, message: &wire::HttpAuthorizationRule) -> Result<Rule> {
    Ok(Rule {
        sources: each(&format!("{field}.sources"), &message.sources, source)?,
        operations: each(&format!("{field}.operations"), &message.operations, operation)?,
        conditions: each(&format!("{field}.conditions"), &message.conditions, condition)?,
    })
}

fn wanted<M, T>(
    field: &str,
    any: &[M],
    none: &[M],
    decode: impl Fn(&str, &M) -> Result<T> + Copy,
) -> Result<Wanted<T>> {
    Ok(Wanted { any: each(field, any, decode)?, none: each(&format!("not_{field}"), none, decode)? })
}

fn texts<T>(
    field: &str,
    any: &[String],
    none: &[String],
    decode: impl Fn(&str, &str) -> Result<T> + Copy,
) -> Result<Wanted<T>> {
    wanted(field, any, none, |field, text: &String| decode(field, text))
}

/// Names the rule a field's problem is in.
fn within<T>(field: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| PolicyError::new(format!("{field}.{}", error.field), error.problem))
}

fn source(field: &str, m: &wire::SourceMatch) -> Result<Source> {
    let source = within(
        field,
        (|| {
            Ok(Source {
                principals: texts("principals", &m.principals, &m.not_principals, principal)?,
                namespaces: texts("namespaces", &m.namespaces, &m.not_namespaces, text)?,
                accounts: texts("service_accounts", &m.service_accounts, &m.not_service_accounts, account)?,
                request_principals: texts(
                    "request_principals",
                    &m.request_principals,
                    &m.not_request_principals,
                    text,
                )?,
                ips: wanted("ips", &m.ips, &m.not_ips, range)?,
                remote_ips: wanted("remote_ips", &m.remote_ips, &m.not_remote_ips, range)?,
            })
        })(),
    )?;
    not_empty(field, source == Source::default())?;
    Ok(source)
}

fn operation(field: &str, m: &wire::OperationMatch) -> Result<Operation> {
    let operation = within(
        field,
        (|| {
            Ok(Operation {
                hosts: texts("hosts", &m.hosts, &m.not_hosts, host)?,
                ports: wanted("ports", &m.ports, &m.not_ports, port)?,
                methods: texts("methods", &m.methods, &m.not_methods, text)?,
                paths: texts("paths", &m.paths, &m.not_paths, path)?,
            })
        })(),
    )?;
    not_empty(field, operation == Operation::default())?;
    Ok(operation)
}

/// An empty match may be one whose fields this version does not know.
fn not_empty(field: &str, empty: bool) -> Result<()> {
    if empty { Err(PolicyError::new(field, "nothing is asked for")) } else { Ok(()) }
}

/// "exact", "prefix*", "*suffix" or "*".
pub(crate) fn text(field: &str, text: &str) -> Result<TextMatch> {
    match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
        ("", ..) => Err(PolicyError::new(field, "an empty text")),
        ("*", ..) => Ok(TextMatch::Present),
        (_, Some(prefix), _) if !prefix.contains('*') => Ok(TextMatch::Prefix(prefix.into())),
        (_, _, Some(suffix)) if !suffix.contains('*') => Ok(TextMatch::Suffix(suffix.into())),
        (exact, ..) if !exact.contains('*') => Ok(TextMatch::exact(exact)),
        _ => Err(PolicyError::new(field, format!("{text:?}: a star may only be first or last"))),
    }
}

/// With or without its scheme.
fn principal(field: &str, principal: &str) -> Result<TextMatch> {
    text(field, principal.strip_prefix("spiffe://").unwrap_or(principal))
}

fn account(field: &str, text: &str) -> Result<(Box<str>, Box<str>)> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.into(), name.into()))
        }
        _ => Err(PolicyError::new(field, format!("{text:?}: want NAMESPACE/SERVICE_ACCOUNT"))),
    }
}

fn range(field: &str, message: &security::Address) -> Result<Cidr> {
    Cidr::from_bytes(&message.address, message.length).map_err(|error| PolicyError::new(field, error))
}

fn port(field: &str, port: &u32) -> Result<u16> {
    let fits = u16::try_from(*port).ok().filter(|port| *port > 0);
    fits.ok_or_else(|| PolicyError::new(field, format!("{port} is no port")))
}

fn host(field: &str, host: &str) -> Result<HostMatch> {
    let folded = |kind, text: &str| TextMatch::Folded { kind, text: text.into() };
    let text = match text(field, &host.to_ascii_lowercase())? {
        TextMatch::Exact(text) => folded(FoldedKind::Exact, &text),
        TextMatch::Prefix(text) => folded(FoldedKind::Prefix, &text),
        TextMatch::Suffix(text) => folded(FoldedKind::Suffix, &text),
        other => other,
    };
    Ok(HostMatch { text, with_port: host.contains(':') })
}

/// As [`text`], and templates: `{*}` is one segment, `{**}` any number of them.
fn path(field: &str, path: &str) -> Result<TextMatch> {
    if !path.contains('{') {
        return text(field, path);
    }
    let problem = |problem: &str| PolicyError::new(field, format!("{path:?}: {problem}"));
    if !path.starts_with('/') {
        return Err(problem("a template begins with a slash"));
    }
    let mut pattern = String::new();
    let segments: Vec<&str> = path[1..].split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        match *segment {
            "{*}" => pattern.push_str("/[^/]+"),
            "{**}" if segments[index + 1..].contains(&"{**}") => {
                return Err(problem("{**} may stand only once"));
            }
            "{**}" => pattern.push_str("(?:/[^/]*)*"),
            literal if literal.contains(['{', '}', '*']) => {
                return Err(problem("{*} and {**} must be whole segments"));
            }
            literal => {
                pattern.push('/');
                pattern.push_str(&regex_syntax::escape(literal));
            }
        }
    }
    TextMatch::regex(&pattern).map_err(|error| PolicyError::new(field, error))
}

fn condition(field: &str, m: &wire::ConditionMatch) -> Result<Condition> {
    if m.values.is_empty() && m.not_values.is_empty() {
        return Err(PolicyError::new(field, "neither values nor not_values"));
    }
    within(
        field,
        (|| {
            let values = || texts("values", &m.values, &m.not_values, text);
            let ranges = || texts("values", &m.values, &m.not_values, written_range);
            let header = m.key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
            Ok(match (m.key.as_str(), header) {
                (_, Some(name)) => {
                    let name = name
                        .parse()
                        .map_err(|_| PolicyError::new("key", format!("{name:?} is no header's name")))?;
                    Condition::Header(name, values()?)
                }
                ("source.ip", _) => Condition::SourceIp(ranges()?),
                ("remote.ip", _) => Condition::RemoteIp(ranges()?),
                ("source.namespace", _) => Condition::SourceNamespace(values()?),
                ("source.principal", _) => {
                    Condition::SourcePrincipal(texts("values", &m.values, &m.not_values, principal)?)
                }
                ("destination.port", _) => {
                    let number = |field: &str, text: &str| {
                        let number = text.parse::<u32>();
                        number
                            .map_err(|_| PolicyError::new(field, format!("{text:?} is no port")))
                            .and_then(|number| port(field, &number))
                    };
                    Condition::Port(texts("values", &m.values, &m.not_values, number)?)
                }
                ("source.serviceAccount", _) => {
                    Condition::SourceAccount(texts("values", &m.values, &m.not_values, account)?)
                }
                ("destination.ip", _) => Condition::DestinationIp(ranges()?),
                ("connection.sni", _) => Condition::Sni(values()?),
                (key, _) if key.starts_with("request.auth.") => {
                    Condition::Token(token_field(key)?, values()?)
                }
                (key, _) => {
                    return Err(PolicyError::new("key", format!("this proxy does not implement {key:?}")));
                }
            })
        })(),
    )
}

/// `request.auth.principal`, and claims: those that have a name of their own in conditions, and
/// `request.auth.claims[NAME][NAME]…`.
fn token_field(key: &str) -> Result<TokenField> {
    let claim = |names: &[&str]| TokenField::Claim(names.iter().map(|name| (*name).into()).collect());
    match key {
        "request.auth.principal" => return Ok(TokenField::Principal),
        "request.auth.audiences" => return Ok(claim(&["aud"])),
        "request.auth.presenter" => return Ok(claim(&["azp"])),
        _ => {}
    }
    let names = key.strip_prefix("request.auth.claims[").and_then(|rest| rest.strip_suffix(']'));
    let names: Vec<&str> = names.map(|names| names.split("][").collect()).unwrap_or_default();
    if names.is_empty() || names.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
        return Err(PolicyError::new("key", format!("this proxy does not implement {key:?}")));
    }
    Ok(claim(&names))
}

/// "10.0.0.0/8" or "10.0.0.1".
fn written_range(field: &str, text: &str) -> Result<Cidr> {
    let problem = || PolicyError::new(field, format!("{text:?} is no address or range"));
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip, Some(length.parse().map_err(|_| problem())?)),
        None => (text, None),
    };
    let ip: std::net::IpAddr = ip.parse().map_err(|_| problem())?;
    Cidr::new(ip, length.unwrap_or(if ip.is_ipv4() { 32 } else { 128 })).map_err(|_| problem())
}
