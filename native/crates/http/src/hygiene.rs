//! One reading of a request, whatever its sender meant to have read differently further on; and headers that
//! are one connection's alone.
//!
//! Messages are framed anew on each side (by hyper): a request's own framing headers never reach a backend.

use crate::matcher::RequestView;
use crate::path::{self, PathSettings};
use crate::reply::{Cause, Reply};
use crate::world::Downstream;
use http::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What a proxy with TLS says of its client: only a trusted one may, and none stands before a waypoint.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A request that has one reading.
#[derive(Debug)]
pub struct Admitted {
    /// As the client wrote it.
    pub authority: Authority,
    /// In lower case, without port or final dots.
    pub host: String,
    /// `host`, and the port that was asked for.
    pub host_port: String,
    /// Normalised.
    pub path: String,
    pub query: Option<String>,
    pub grpc: bool,
    /// The protocol that the client wants to go on with on this connection.
    pub upgrade: Option<HeaderValue>,
}

impl Admitted {
    /// As routes and policies look at it.
    pub fn view<'a>(
        &'a self,
        method: &'a Method,
        headers: &'a HeaderMap,
        downstream: &'a impl Downstream,
    ) -> RequestView<'a> {
        let identity = downstream.caller().identity.as_ref();
        RequestView {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method,
            scheme: "http",
            headers,
            source_namespace: identity.map_or("", |identity| identity.namespace()),
            port: downstream.port(),
        }
    }
}

fn bad(message: impl Into<String>) -> Reply {
    Reply::new(Cause::BadRequest, message)
}

/// Reads a request, and takes from its headers what concerns only the client's connection.
///
/// # Errors
/// The answer, where there are two readings or none.
pub fn admit(parts: &mut Parts, paths: PathSettings, limits: HeaderLimits) -> Result<Admitted, Reply> {
    if parts.method == Method::CONNECT {
        return Err(Reply::new(Cause::NotImplemented, "CONNECT is not carried here"));
    }
    if parts.headers.len() > limits.count {
        return Err(bad(format!("{} headers: at most {} are taken", parts.headers.len(), limits.count)));
    }
    let authority = authority(parts)?;
    let host = authority.host().to_ascii_lowercase();
    let host = host.trim_end_matches('.').to_owned();
    if host.is_empty() {
        return Err(bad("an empty host"));
    }
    let host_port = match port(&authority)? {
        Some(port) => format!("{host}:{port}"),
        None => host.clone(),
    };
    let path = path::normalise(parts.uri.path(), paths).map_err(|error| bad(error.to_string()))?.into_owned();
    transfer_coding(parts)?;
    let upgrade = wanted_upgrade(parts);
    remove_connections_own(&mut parts.headers);
    parts.headers.remove(HOST);
    parts.headers.remove(EXPECT);
    parts.headers.remove(CLIENT_CERTIFICATE);
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    Ok(Admitted {
        authority,
        host,
        host_port,
        path,
        query: parts.uri.query().map(str::to_owned),
        grpc: is_grpc(&parts.headers),
        upgrade,
    })
}

#[derive(Debug, Clone, Copy)]
pub struct HeaderLimits {
    pub count: usize,
}

/// Exactly one authority: of the target, or of the one `host`.
fn authority(parts: &Parts) -> Result<Authority, Reply> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one host header"));
    }
    let host = host.map(|value| {
        Authority::try_from(value.as_bytes()).map_err(|_| bad("the host header is no authority"))
    });
    let host = host.transpose()?;
    let authority = match (parts.uri.authority().cloned(), host) {
        // HTTP/1.1 lets an absolute target stand above host (RFC 9112, 3.2.2); a difference is an attempt to
        // be read in two ways all the same.
        (Some(target), Some(host)) if !same(&target, &host) => {
            return Err(bad("the target and the host header name different hosts"));
        }
        (Some(target), _) => target,
        (None, Some(host)) => host,
        (None, None) => return Err(bad("no host")),
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(bad("a host with user information, or an empty one"));
    }
    Ok(authority)
}

/// As a number, which has many spellings.
fn port(authority: &Authority) -> Result<Option<u16>, Reply> {
    let rest = &authority.as_str()[authority.host().len()..];
    match rest.strip_prefix(':').unwrap_or(rest) {
        "" => Ok(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_| bad("a host with a port that is none"))
        }
        _ => Err(bad("a host with a port that is none")),
    }
}

fn same(a: &Authority, b: &Authority) -> bool {
    a.as_str().eq_ignore_ascii_case(b.as_str())
}

/// Only `chunked` is taken off; a coding that stayed would be the backend's to guess.
fn transfer_coding(parts: &Parts) -> Result<(), Reply> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(_), _) if parts.version == Version::HTTP_2 => Err(bad("transfer-encoding in HTTP/2")),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Reply::new(Cause::NotImplemented, "a transfer coding other than chunked")),
    }
}

fn wanted_upgrade(parts: &Parts) -> Option<HeaderValue> {
    let mut upgrades = parts.headers.get_all(UPGRADE).iter();
    let (Some(upgrade), None) = (upgrades.next(), upgrades.next()) else { return None };
    let named = options(&parts.headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    // h2c by upgrade is obsolete (RFC 9113, 3.1), and a way around whoever reads HTTP/1.1 only.
    let mut protocols =
        upgrade.as_bytes().split(|byte| matches!(byte, b',' | b';' | b'"') || byte.is_ascii_whitespace());
    let h2c = protocols.any(|name| name.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case(b"h2c")));
    (parts.version == Version::HTTP_11 && named && !h2c).then(|| upgrade.clone())
}

fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes what belongs to one connection (RFC 9110, 7.6.1).
pub fn remove_connections_own(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = options(headers).filter_map(|option| option.parse().ok()).collect();
    for name in named {
        // What says whom and how much is nobody's to take away on the way.
        if name != HOST && name != http::header::CONTENT_LENGTH && name != TE {
            headers.remove(name);
        }
    }
    let trailers = headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|t| t.trim().eq_ignore_ascii_case("trailers")))
    });
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 may split the cookie, HTTP/1.1 must not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> =
        headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(http::header::COOKIE, cookie);
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn read(
        version: Version,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Admitted, HeaderMap), Cause> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let admitted = admit(&mut parts, PathSettings::default(), HeaderLimits { count: 10 });
        admitted.map(|admitted| (admitted, parts.headers)).map_err(|reply| reply.cause)
    }

    #[test]
    fn there_is_one_host() {
        let h1 = Version::HTTP_11;
        let host = |target, headers: &[_]| read(h1, target, headers).map(|(admitted, _)| admitted.host);
        assert_eq!(host("/", &[("host", "A.example.:80")]), Ok("a.example".into()));
        assert_eq!(host("http://a/", &[("host", "A")]), Ok("a".into()));
        assert_eq!(host("/", &[("host", "[::1]:80")]), Ok("[::1]".into()));
        assert_eq!(host("/", &[("host", "a.example...")]), Ok("a.example".into()));
        for (target, headers) in [
            ("/", &[][..]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("/", &[("host", "")]),
            ("/", &[("host", ".")]),
            ("/", &[("host", "a:65536")]),
            ("/", &[("host", "a:+80")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "user@a")]),
            ("/", &[("host", "a/b")]),
            ("http://a/", &[("host", "b")]),
        ] {
            assert_eq!(host(target, headers), Err(Cause::BadRequest), "{target} {headers:?}");
        }
        let two = read(Version::HTTP_2, "http://a/", &[("host", "b")]);
        assert_eq!(two.map(|_| ()), Err(Cause::BadRequest));
    }

    #[test]
    fn a_host_and_its_port_have_one_spelling() {
        for host in ["admin.example:8080", "Admin.Example.:8080", "admin.example..:08080"] {
            let (admitted, _) = read(Version::HTTP_11, "/", &[("host", host)]).unwrap();
            assert_eq!(admitted.host_port, "admin.example:8080", "{host}");
        }
        for (host, want) in [("A.", "a"), ("a:", "a"), ("[::1]:0443", "[::1]:443"), ("[::1]", "[::1]")] {
            let (admitted, _) = read(Version::HTTP_11, "/", &[("host", host)]).unwrap();
            assert_eq!(admitted.host_port, want, "{host}");
        }
    }

    #[test]
    fn a_connections_own_headers_go_no_further() {
        let headers = [
            ("host", "a"),
            ("connection", "close, X-Drop, host, content-length"),
            ("x-drop", "1"),
            ("content-length", "0"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("x-keep", "1"),
        ];
        let (admitted, left) = read(Version::HTTP_11, "/", &headers).unwrap();
        let mut names: Vec<_> = left.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "te", "x-keep"]);
        assert_eq!(left["te"], "trailers");
        assert_eq!(admitted.upgrade, None);
    }

    #[test]
    fn upgrades_are_known_only_where_they_are_asked_for() {
        let asked = [("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket")];
        let (admitted, left) = read(Version::HTTP_11, "/", &asked).unwrap();
        assert_eq!(admitted.upgrade.unwrap(), "websocket");
        assert!(left.is_empty());
        let (admitted, _) = read(Version::HTTP_11, "/", &[asked[0], asked[2]]).unwrap();
        assert_eq!(admitted.upgrade, None);
        for listed in ["h2c", "websocket, H2C", "h2c-14,websocket", "websocket h2c"] {
            let (admitted, left) =
                read(Version::HTTP_11, "/", &[asked[0], asked[1], ("upgrade", listed)]).unwrap();
            assert_eq!(admitted.upgrade, None, "{listed}");
            assert!(left.is_empty());
        }
        let two = [asked[0], asked[1], asked[2], ("upgrade", "h2c")];
        assert_eq!(read(Version::HTTP_11, "/", &two).unwrap().0.upgrade, None);
    }

    #[test]
    fn other_codings_limits_and_methods_are_refused() {
        let coding = |value| read(Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", value)]);
        assert!(coding("Chunked").is_ok());
        assert_eq!(coding("gzip, chunked").map(|_| ()), Err(Cause::NotImplemented));
        let many: Vec<(String, String)> = (0..11).map(|i| (format!("x-{i}"), "1".into())).collect();
        let mut headers = vec![("host", "a")];
        headers.extend(many.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        assert_eq!(read(Version::HTTP_11, "/", &headers).map(|_| ()), Err(Cause::BadRequest));
    }

    #[test]
    fn cookies_and_grpc() {
        let headers = [("cookie", "a=1"), ("cookie", "b=2"), ("content-type", "application/grpc+proto")];
        let (admitted, left) = read(Version::HTTP_2, "http://a/s/m", &headers).unwrap();
        assert_eq!(left["cookie"], "a=1; b=2");
        assert!(admitted.grpc);
        let web = [("host", "a"), ("content-type", "application/grpc-web")];
        assert!(!read(Version::HTTP_11, "/", &web).unwrap().0.grpc);
    }
}
