//! What a rule changes in a request or a response, and what it answers by itself.

mod cors;
mod fault;
mod regex_change;

pub use cors::{Asked, Cors, Listed};
pub(crate) use fault::befalls;
pub use fault::{Abort, Drawn, Fault};
pub use regex_change::RegexChange;

use crate::matcher::PathMatch;
use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{StatusCode, Uri};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    RequestHeaders(HeaderChange),
    ResponseHeaders(HeaderChange),
    Redirect(Redirect),
    Rewrite(Rewrite),
    DirectResponse { status: StatusCode, body: Bytes, content_type: Option<HeaderValue> },
}

impl Filter {
    /// Whether it changes the request that goes on to a backend.
    pub fn changes_request(&self) -> bool {
        match self {
            Self::RequestHeaders(_) | Self::Rewrite(_) => true,
            Self::ResponseHeaders(_) | Self::Redirect(_) | Self::DirectResponse { .. } => false,
        }
    }
}

/// In this order: set, add, remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChange {
    pub set: Box<[(HeaderName, HeaderValue)]>,
    pub add: Box<[(HeaderName, HeaderValue)]>,
    pub remove: Box<[HeaderName]>,
}

impl HeaderChange {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    Full(Box<str>),
    /// Replaces what the rule's prefix matched.
    Prefix(Box<str>),
    Regex(Box<RegexChange>),
}

impl PathChange {
    /// The new path. Where the match was no prefix, nothing is replaced. `None` where a pattern would make too
    /// much of this path.
    fn apply(&self, path: &str, matched: &PathMatch) -> Option<String> {
        let with = match self {
            Self::Full(full) => return Some(full.to_string()),
            Self::Regex(change) => return change.apply(path).map(absolute),
            Self::Prefix(with) => with,
        };
        let (prefix, by_segment) = match matched {
            PathMatch::Segments(prefix) | PathMatch::FoldedSegments(prefix) => (prefix, true),
            PathMatch::Prefix(prefix) | PathMatch::FoldedPrefix(prefix) => (prefix, false),
            // Istio replaces the whole of an exact path.
            PathMatch::Exact(exact) | PathMatch::FoldedExact(exact) => (exact, true),
            PathMatch::Any | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => {
                return Some(path.to_owned());
            }
        };
        let rest = path.get(prefix.len()..).unwrap_or_default();
        let joined = match by_segment {
            // "/foo" to "/bar/": one slash between, whatever both say (HTTPPathModifier's table).
            true if !rest.is_empty() => format!("{}{rest}", with.strip_suffix('/').unwrap_or(with)),
            _ => format!("{with}{rest}"),
        };
        Some(absolute(joined))
    }
}

fn absolute(path: String) -> String {
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// What a change has put together must not climb where no policy has looked.
fn climbs(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub hostname: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<PathChange>,
    pub status: StatusCode,
    /// The port that the client came by is left out where no other is given.
    pub drop_port: bool,
}

impl Redirect {
    /// The `location` for a request; `None` where it would be no URI, or too long.
    pub fn location(&self, request: &Seen<'_>, matched: &PathMatch) -> Option<HeaderValue> {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = self.hostname.as_deref().unwrap_or(request.host);
        let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        // HTTPRequestRedirectFilter.port: the given one; else the given scheme's own; else the listener's.
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => well_known(scheme),
            (None, None) if self.drop_port => well_known(scheme),
            (None, None) => request.port,
        };
        let path = match &self.path {
            Some(change) => change.apply(request.path, matched)?,
            None => request.path.to_owned(),
        };
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        let authority = match port == well_known(scheme) {
            true => host.to_owned(),
            false => format!("{host}:{port}"),
        };
        let text = format!("{scheme}://{authority}{path}{query}");
        text.parse::<Uri>().ok()?;
        HeaderValue::from_str(&text).ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    pub authority: Option<Authority>,
    pub path: Option<PathChange>,
}

/// Of the request, before anything was changed.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub scheme: &'a str,
    /// Without port.
    pub host: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// What filters make of a request that goes on to a backend.
#[derive(Debug)]
pub struct Outgoing {
    pub target: PathAndQuery,
    pub authority: Authority,
}

/// What filters say.
#[derive(Debug)]
pub enum Step<'a> {
    /// On to the backend.
    Go,
    Answer {
        status: StatusCode,
        location: Option<HeaderValue>,
        body: Bytes,
        content_type: Option<&'a HeaderValue>,
    },
    /// A filter's result is nothing that can be sent.
    Broken(&'static str),
    /// The request makes of a change what it was not meant to be.
    Refused(&'static str),
}

/// Applies the filters that concern the request, until one answers.
pub fn on_request<'a>(
    filters: &'a [Filter],
    seen: &Seen<'_>,
    matched: &PathMatch,
    headers: &mut HeaderMap,
    outgoing: &mut Outgoing,
) -> Step<'a> {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(_) => {}
            Filter::RequestHeaders(change) => {
                change.apply(headers);
                // "host" as a header is the authority.
                if let Some(host) = headers.remove(HOST) {
                    match Authority::try_from(host.as_bytes()) {
                        Ok(authority) => outgoing.authority = authority,
                        Err(_) => return Step::Broken("a filter set a host that is none"),
                    }
                }
            }
            Filter::Rewrite(rewrite) => {
                if let Some(authority) = &rewrite.authority {
                    outgoing.authority = authority.clone();
                }
                if let Some(change) = &rewrite.path {
                    let Some(path) = change.apply(seen.path, matched) else {
                        return Step::Refused("the path, or what it would be rewritten to, is too long");
                    };
                    if climbs(&path) {
                        return Step::Refused("the rewritten path has dot segments");
                    }
                    let query = seen.query.map(|query| format!("?{query}")).unwrap_or_default();
                    match format!("{path}{query}").parse() {
                        Ok(target) => outgoing.target = target,
                        Err(_) => return Step::Broken("a filter made a path that is none"),
                    }
                }
            }
            Filter::Redirect(redirect) => {
                let Some(location) = redirect.location(seen, matched) else {
                    return Step::Broken("a redirect's location is no URI");
                };
                return Step::Answer {
                    status: redirect.status,
                    location: Some(location),
                    body: Bytes::new(),
                    content_type: None,
                };
            }
            Filter::DirectResponse { status, body, content_type } => {
                return Step::Answer {
                    status: *status,
                    location: None,
                    body: body.clone(),
                    content_type: content_type.as_ref(),
                };
            }
        }
    }
    Step::Go
}

/// Applies the filters that concern the response.
pub fn on_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(change) = filter {
            change.apply(headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_as_the_specification_tabulates() {
        for (path, prefix, with, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/a", "/", "/x", "/x/a"),
        ] {
            let change = PathChange::Prefix(with.into());
            let changed = change.apply(path, &PathMatch::segments(prefix));
            assert_eq!(changed.as_deref(), Some(want), "{path} {prefix} {with}");
        }
        let change = PathChange::Prefix("/xyz".into());
        let changed = change.apply("/foobar", &PathMatch::Prefix("/foo".into()));
        assert_eq!(changed.as_deref(), Some("/xyzbar"));
    }

    #[test]
    fn a_rewrite_cannot_be_made_to_climb() {
        let change = PathChange::Prefix(String::new().into());
        let changed = change.apply("/pre../admin", &PathMatch::Prefix("/pre".into()));
        assert_eq!(changed.as_deref(), Some("/../admin"));
        let rewrite = Filter::Rewrite(Rewrite { authority: None, path: Some(change) });
        let seen = Seen { scheme: "http", host: "a", port: 80, path: "/pre../admin", query: None };
        let mut outgoing =
            Outgoing { target: PathAndQuery::from_static("/"), authority: Authority::from_static("a") };
        let matched = PathMatch::Prefix("/pre".into());
        let filters = [rewrite];
        let step = on_request(&filters, &seen, &matched, &mut HeaderMap::new(), &mut outgoing);
        assert!(matches!(step, Step::Refused(_)), "{step:?}");
    }

    fn redirect() -> Redirect {
        Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
            drop_port: false,
        }
    }

    #[test]
    fn redirects_name_a_port_only_where_needed() {
        let seen = Seen { scheme: "http", host: "a.example", port: 8080, path: "/x", query: Some("q=1") };
        let to = |redirect: Redirect| redirect.location(&seen, &PathMatch::Any).unwrap();
        assert_eq!(to(redirect()), "http://a.example:8080/x?q=1");
        assert_eq!(to(Redirect { port: Some(80), ..redirect() }), "http://a.example/x?q=1");
        assert_eq!(to(Redirect { scheme: Some("https".into()), ..redirect() }), "https://a.example/x?q=1");
        assert_eq!(to(Redirect { drop_port: true, ..redirect() }), "http://a.example/x?q=1");
        let full = Some(PathChange::Full("/y".into()));
        let far = Redirect { hostname: Some("b".into()), path: full, ..redirect() };
        assert_eq!(to(far), "http://b:8080/y?q=1");
    }

    #[test]
    fn a_host_header_is_the_authority() {
        let change = HeaderChange {
            set: vec![(HOST, HeaderValue::from_static("other.example:81"))].into(),
            ..HeaderChange::default()
        };
        let seen = Seen { scheme: "http", host: "a", port: 80, path: "/", query: None };
        let mut headers = HeaderMap::new();
        let mut outgoing =
            Outgoing { target: PathAndQuery::from_static("/"), authority: Authority::from_static("a") };
        let filters = [Filter::RequestHeaders(change)];
        let step = on_request(&filters, &seen, &PathMatch::Any, &mut headers, &mut outgoing);
        assert!(matches!(step, Step::Go));
        assert_eq!(outgoing.authority, "other.example:81");
        assert!(headers.is_empty());
    }
}
