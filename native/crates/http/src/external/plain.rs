//! The check over plain HTTP: the request's method and path, below a prefix; 200 lets it through.

use super::authorizer::Plain;
use super::headers::is_own;
use super::{About, Changes, Denial, Question, Response};
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode, response};

/// Whether a body was cut off for the authorizer (as Envoy's filter names it).
pub(super) const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// # Errors
/// Why the request cannot be asked about.
pub(super) fn question(plain: &Plain, about: &About<'_>) -> Result<Question, String> {
    let admitted = about.admitted;
    let query = admitted.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{}{}{query}", plain.prefix, admitted.path);
    let mut headers = HeaderMap::new();
    for (name, value) in plain.request_headers.of(about.headers) {
        headers.append(name, value);
    }
    for (name, value) in &plain.further {
        headers.insert(name, value.clone());
    }
    if let Some((_, partial)) = about.body {
        headers.insert(PARTIAL, HeaderValue::from_static(if *partial { "true" } else { "false" }));
    }
    Ok(Question {
        method: about.method.clone(),
        headers,
        target: target.parse().map_err(|_| "the path cannot be asked about".to_owned())?,
        authority: admitted.authority.clone(),
        body: about.body.map(|(bytes, _)| bytes.clone()).unwrap_or_default(),
        http2: false,
    })
}

/// # Errors
/// A failure of the authorizer's, which is no answer.
pub(super) fn answer(plain: &Plain, parts: &response::Parts, body: Bytes) -> Result<Response, String> {
    if parts.status.is_server_error() {
        return Err(format!("it answered {}", parts.status.as_u16()));
    }
    if parts.status == StatusCode::OK {
        return Ok(Response::Allowed(Changes {
            set: plain.to_upstream.of(&parts.headers),
            response: plain.on_allow.of(&parts.headers),
            ..Changes::default()
        }));
    }
    if parts.status.is_informational() {
        return Err(format!("it answered {}", parts.status.as_u16()));
    }
    let all = plain.on_deny.is_empty();
    let handed_on = parts.headers.iter().filter(|(name, _)| {
        let always = [WWW_AUTHENTICATE, LOCATION].contains(name);
        !is_own(name) && (all || always || plain.on_deny.have(name))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in handed_on {
        headers.append(name, value.clone());
    }
    Ok(Response::Denied(Denial { status: parts.status, headers, body }))
}
