//! What a match asks for, and which of two matches goes first.

use super::request::RequestView;
use crate::text::{Pattern, TextMatch};
use http::HeaderName;
use std::cmp::Reverse;
use std::sync::Arc;

/// Hosts that a route is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    Any,
    /// In lower case.
    Exact(Box<str>),
    /// What follows the star of `*.example`, with its dot. One label or more stands before it.
    Suffix(Box<str>),
}

impl Host {
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(want) => host == &**want,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }

    /// A name without wildcard goes first, then the longer one.
    fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Suffix(suffix) => (1, suffix.len()),
            Self::Exact(name) => (2, name.len()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Any,
    Exact(Box<str>),
    /// Whole segments, without a slash at the end; "" is every path.
    Segments(Box<str>),
    Prefix(Box<str>),
    Regex(Box<Pattern>),
    /// The second and last segment.
    GrpcMethod(Box<str>),
    /// In lower case, compared without case.
    FoldedExact(Box<str>),
    FoldedSegments(Box<str>),
    FoldedPrefix(Box<str>),
}

impl PathMatch {
    /// Gateway API's PathPrefix: a slash at the end means nothing.
    pub fn segments(prefix: &str) -> Self {
        Self::Segments(prefix.strip_suffix('/').unwrap_or(prefix).into())
    }

    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(want) => path == &**want,
            Self::Prefix(want) => path.starts_with(&**want),
            Self::Segments(want) => path.starts_with(&**want) && ends_segment(path, want.len()),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
            Self::GrpcMethod(method) => grpc_method(path) == Some(method),
            Self::FoldedExact(want) => path.eq_ignore_ascii_case(want),
            Self::FoldedPrefix(want) => folded_prefix(path, want),
            Self::FoldedSegments(want) => folded_prefix(path, want) && ends_segment(path, want.len()),
        }
    }

    /// Exact goes before regular expressions (the specification leaves their place open), these before
    /// prefixes; within a kind the longer one. Then a gRPC method alone, then nothing.
    fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Exact(text) | Self::FoldedExact(text) => (4, text.len()),
            Self::Regex(pattern) => (3, pattern.source().len()),
            Self::Segments(text) | Self::FoldedSegments(text) => (2, text.len().max(1)),
            Self::Prefix(text) | Self::FoldedPrefix(text) => (2, text.len().max(1)),
            Self::GrpcMethod(text) => (1, text.len()),
            Self::Any => (0, 0),
        }
    }
}

/// The prefix of that length ends where a segment does.
fn ends_segment(path: &str, length: usize) -> bool {
    path.len() == length || path.as_bytes().get(length) == Some(&b'/')
}

fn folded_prefix(path: &str, prefix: &str) -> bool {
    path.as_bytes().get(..prefix.len()).is_some_and(|part| part.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// The method of `/package.Service/Method`.
pub(super) fn grpc_method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some(method)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderPredicate {
    pub name: HeaderName,
    pub value: TextMatch,
    /// The header is absent or has another value.
    pub not: bool,
}

impl HeaderPredicate {
    fn holds(&self, request: &RequestView<'_>) -> bool {
        // The authority is a header to Istio's routes, and none to HTTP/2.
        let value = match self.name {
            http::header::HOST => Some(request.host.as_bytes().into()),
            _ => request.header(&self.name),
        };
        value.is_some_and(|value| self.value.matches(&value)) != self.not
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPredicate {
    pub name: Box<str>,
    pub value: TextMatch,
}

/// Everything that must hold, besides the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMatch {
    pub path: PathMatch,
    pub method: Option<TextMatch>,
    pub authority: Option<TextMatch>,
    pub scheme: Option<TextMatch>,
    pub headers: Box<[HeaderPredicate]>,
    pub query: Box<[QueryPredicate]>,
    /// Any of them; none: every caller's.
    pub source_namespaces: Box<[Box<str>]>,
    pub port: Option<u16>,
}

impl Default for RequestMatch {
    fn default() -> Self {
        Self {
            path: PathMatch::Any,
            method: None,
            authority: None,
            scheme: None,
            headers: Box::default(),
            query: Box::default(),
            source_namespaces: Box::default(),
            port: None,
        }
    }
}

impl RequestMatch {
    pub fn holds(&self, request: &RequestView<'_>) -> bool {
        let text = |want: &Option<TextMatch>, have: &str| {
            want.as_ref().is_none_or(|want| want.matches(have.as_bytes()))
        };
        self.port.is_none_or(|port| port == request.port)
            && text(&self.method, request.method.as_str())
            && text(&self.scheme, request.scheme)
            && text(&self.authority, request.host)
            && (self.source_namespaces.is_empty()
                || self.source_namespaces.iter().any(|namespace| **namespace == *request.source_namespace))
            && self.headers.iter().all(|header| header.holds(request))
            && self.query.iter().all(|query| {
                request.query_parameter(&query.name).is_some_and(|value| query.value.matches(&value))
            })
            && self.path.matches(request.path)
    }
}

/// Which of several matches decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Gateway API.
    MostSpecific,
    /// Istio's VirtualService: as written.
    InOrder,
}

/// One match of one rule of one route, for one host.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    pub host: Host,
    pub order: Order,
    pub created_ms: i64,
    /// `NAMESPACE/NAME` of the route.
    pub route: Arc<str>,
    pub rule: u32,
    pub index: u32,
    pub request: RequestMatch,
    pub value: T,
}

type Key<'a> =
    (Order, Reverse<(u8, usize)>, Reverse<((u8, usize), bool, usize, usize)>, i64, &'a str, u32, u32);

impl<T> Entry<T> {
    /// Entries that come first decide. HTTPRouteSpec's order: host, path, method, number of headers, number
    /// of query parameters; among equals the older route, then the first by name, then as written.
    pub(super) fn precedence(&self) -> Key<'_> {
        let request = &self.request;
        let specificity = match self.order {
            Order::MostSpecific => (
                request.path.specificity(),
                request.method.is_some(),
                request.headers.len(),
                request.query.len(),
            ),
            Order::InOrder => ((0, 0), false, 0, 0),
        };
        (
            self.order,
            Reverse(self.host.specificity()),
            Reverse(specificity),
            self.created_ms,
            &self.route,
            self.rule,
            self.index,
        )
    }

    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.host.matches(request.host) && self.request.holds(request)
    }
}
