//! The compiled form of an AuthorizationPolicy for requests, and when it matches.

use crate::authentication::Claims;
use crate::external::Authorizer;
use crate::matcher::{RequestView, joined};
use crate::text::TextMatch;
use http::HeaderName;
use meltemi_types::{Cidr, Identity, PolicyKey};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// Never decides.
    Audit,
    /// Someone else is asked ([`crate::external`]), before all others.
    Custom,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub key: PolicyKey,
    pub action: Action,
    pub dry_run: bool,
    pub rules: Box<[Rule]>,
    /// CUSTOM: who is asked. `None`: the provider is not known, and what matches is refused.
    pub(crate) external: Option<Arc<Authorizer>>,
}

/// Any of the sources, any of the operations, all of the conditions; what is empty holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub sources: Box<[Source]>,
    pub operations: Box<[Operation]>,
    pub conditions: Box<[Condition]>,
}

/// Entries of which any suffices, and entries of which none may hold. Both empty: nothing is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<T> {
    pub any: Box<[T]>,
    pub none: Box<[T]>,
}

impl<T> Default for Wanted<T> {
    fn default() -> Self {
        Self { any: Box::default(), none: Box::default() }
    }
}

impl<T> Wanted<T> {
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    fn holds(&self, matches: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&matches)) && !self.none.iter().any(&matches)
    }

    /// Of something that must have been proven: what is not there matches no entry, and where something is
    /// allowed by it, it is not among the excluded either.
    fn holds_proven<V>(&self, action: Action, value: Option<V>, matches: impl Fn(&T, &V) -> bool) -> bool {
        match value {
            Some(value) => self.holds(|entry| matches(entry, &value)),
            None => self.any.is_empty() && (self.none.is_empty() || action != Action::Allow),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    pub principals: Wanted<TextMatch>,
    pub namespaces: Wanted<TextMatch>,
    /// Namespace and name.
    pub accounts: Wanted<(Box<str>, Box<str>)>,
    /// Of a verified token.
    pub request_principals: Wanted<TextMatch>,
    pub ips: Wanted<Cidr>,
    pub remote_ips: Wanted<Cidr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    pub hosts: Wanted<HostMatch>,
    pub ports: Wanted<u16>,
    pub methods: Wanted<TextMatch>,
    pub paths: Wanted<TextMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMatch {
    pub text: TextMatch,
    pub with_port: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Header(HeaderName, Wanted<TextMatch>),
    SourceIp(Wanted<Cidr>),
    RemoteIp(Wanted<Cidr>),
    SourceNamespace(Wanted<TextMatch>),
    SourcePrincipal(Wanted<TextMatch>),
    /// Namespace and name.
    SourceAccount(Wanted<(Box<str>, Box<str>)>),
    DestinationIp(Wanted<Cidr>),
    Port(Wanted<u16>),
    /// That the client named when it opened TLS.
    Sni(Wanted<TextMatch>),
    /// Of a verified token.
    Token(TokenField, Wanted<TextMatch>),
}

/// What a condition looks at in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenField {
    /// `ISSUER/SUBJECT`.
    Principal,
    /// By its names, from the outermost. Of a list any entry counts.
    Claim(Box<[Box<str>]>),
}

/// The original caller, as its mutual TLS with the waypoint proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub identity: Option<Identity>,
    pub source_ip: IpAddr,
    pub remote_ip: IpAddr,
}

/// A request that is judged, or a connection whose bytes nobody looks into.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub caller: &'a Caller,
    /// That was connected to.
    pub destination: IpAddr,
    pub port: u16,
    /// The name that the client gave when it opened TLS, where that was read.
    pub sni: Option<&'a str>,
    pub http: Option<HttpFacts<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub struct HttpFacts<'a> {
    pub request: RequestView<'a>,
    /// In lower case, with its port if it has one.
    pub authority: &'a str,
    pub token: Option<&'a Claims>,
}

/// What a rule asks of a request holds for no connection that is allowed by it, and for every one that is
/// denied by it: what is not looked into may restrict, never permit.
fn unseen<T>(action: Action, wanted: &Wanted<T>) -> bool {
    wanted.is_empty() || action != Action::Allow
}

impl Policy {
    /// Whether the policy takes part in the decision.
    pub fn decides(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }

    /// Independent of dry run.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(self.action, facts))
    }
}

impl Rule {
    fn matches(&self, action: Action, facts: &Facts<'_>) -> bool {
        (self.sources.is_empty() || self.sources.iter().any(|source| source.matches(action, facts)))
            && (self.operations.is_empty()
                || self.operations.iter().any(|operation| operation.matches(action, facts)))
            && self.conditions.iter().all(|condition| condition.matches(action, facts))
    }
}

/// A principal is compared without its scheme.
fn principal(want: &TextMatch, identity: &&Identity) -> bool {
    want.matches(identity.principal().as_bytes())
}

fn namespace(want: &TextMatch, identity: &&Identity) -> bool {
    want.matches(identity.namespace().as_bytes())
}

fn account((namespace, name): &(Box<str>, Box<str>), identity: &&Identity) -> bool {
    identity.namespace() == &**namespace && identity.service_account() == &**name
}

impl TokenField {
    /// Of a token that was verified: without one, nothing is proven.
    fn holds(&self, action: Action, facts: &Facts<'_>, wanted: &Wanted<TextMatch>) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let Some(http) = &facts.http else { return unseen(action, wanted) };
        let texts = http.token.and_then(|token| match self {
            Self::Principal => token.principal().map(|principal| vec![principal]),
            Self::Claim(path) => token.texts(path),
        });
        wanted
            .holds_proven(action, texts, |want, texts| texts.iter().any(|text| want.matches(text.as_bytes())))
    }
}

impl Source {
    fn matches(&self, action: Action, facts: &Facts<'_>) -> bool {
        let caller = facts.caller;
        let identity = caller.identity.as_ref();
        self.principals.holds_proven(action, identity, principal)
            && self.namespaces.holds_proven(action, identity, namespace)
            && self.accounts.holds_proven(action, identity, account)
            && TokenField::Principal.holds(action, facts, &self.request_principals)
            && self.ips.holds(|range| range.contains(caller.source_ip))
            && self.remote_ips.holds(|range| range.contains(caller.remote_ip))
    }
}

impl Operation {
    fn matches(&self, action: Action, facts: &Facts<'_>) -> bool {
        if !self.ports.holds(|port| *port == facts.port) {
            return false;
        }
        let Some(HttpFacts { request, authority, .. }) = &facts.http else {
            return unseen(action, &self.hosts)
                && unseen(action, &self.methods)
                && unseen(action, &self.paths);
        };
        self.methods.holds(|want| want.matches(request.method.as_str().as_bytes()))
            && self.paths.holds(|want| want.matches(request.path.as_bytes()))
            && self.hosts.holds(|host| {
                let text = if host.with_port { authority } else { request.host };
                host.text.matches(text.as_bytes())
            })
    }
}

impl Condition {
    fn matches(&self, action: Action, facts: &Facts<'_>) -> bool {
        let identity = facts.caller.identity.as_ref();
        match self {
            Self::Header(name, wanted) => match &facts.http {
                None => unseen(action, wanted),
                Some(http) => match joined(http.request.headers, name) {
                    Some(value) => wanted.holds(|want| want.matches(&value)),
                    // A header that is absent has none of the excluded values.
                    None => wanted.any.is_empty(),
                },
            },
            Self::SourceIp(wanted) => wanted.holds(|range| range.contains(facts.caller.source_ip)),
            Self::RemoteIp(wanted) => wanted.holds(|range| range.contains(facts.caller.remote_ip)),
            Self::SourceNamespace(wanted) => wanted.holds_proven(action, identity, namespace),
            Self::SourcePrincipal(wanted) => wanted.holds_proven(action, identity, principal),
            Self::SourceAccount(wanted) => wanted.holds_proven(action, identity, account),
            Self::DestinationIp(wanted) => wanted.holds(|range| range.contains(facts.destination)),
            Self::Port(wanted) => wanted.holds(|port| *port == facts.port),
            Self::Sni(wanted) => match (facts.sni, &facts.http) {
                // A connection whose bytes nobody looks into may have opened TLS.
                (None, None) => unseen(action, wanted),
                (sni, _) => wanted.holds_proven(action, sni, |want, sni| want.matches(sni.as_bytes())),
            },
            Self::Token(field, wanted) => field.holds(action, facts, wanted),
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The ALLOW policy that matched; `None` where none applies.
    Allow(Option<Arc<Policy>>),
    Denied(Arc<Policy>),
    /// ALLOW policies apply, none matched.
    NoneAllowed(Vec<PolicyKey>),
    /// Policies that apply are refused or have not come.
    Unknown(Vec<Arc<str>>),
}

/// How many policies an explanation names.
const NAMED: usize = 4;

impl Decision {
    /// "NAMESPACE/NAME" of what decided; where no ALLOW matched, those that could have, separated by commas.
    pub fn explanation(&self) -> Option<Arc<str>> {
        match self {
            Self::Allow(policy) => policy.as_ref().map(|policy| policy.key.text().clone()),
            Self::Denied(policy) => Some(policy.key.text().clone()),
            Self::NoneAllowed(keys) => Some(list(keys.iter().map(PolicyKey::as_str))),
            Self::Unknown(names) if names.is_empty() => None,
            Self::Unknown(names) => Some(list(names.iter().map(|name| &**name))),
        }
    }

    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Arc<str> {
    let rest = names.len().saturating_sub(NAMED);
    let named = names.take(NAMED).map(str::to_owned);
    named.chain((rest > 0).then(|| format!("+{rest}"))).collect::<Vec<_>>().join(",").into()
}
