//! Cross-origin requests of browsers (Fetch, 3.2): Gateway API's HTTPCORSFilter and Istio's corsPolicy.

use crate::text::TextMatch;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};
use http::{Method, Response};

/// A list of a response's header: named, or anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `None`: the list is empty, and the header is left out.
    pub text: Option<HeaderValue>,
    pub any: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    pub origins: Box<[TextMatch]>,
    pub methods: Listed,
    pub headers: Listed,
    pub expose: Listed,
    pub max_age: Option<HeaderValue>,
    pub credentials: bool,
    /// Other origins are the backend's affair.
    pub forward_unmatched: bool,
}

/// What a request asks for, as far as origins are concerned.
#[derive(Debug)]
pub enum Asked {
    /// Nothing.
    SameOrigin,
    /// From an origin that is allowed.
    Allowed(HeaderValue),
    /// From another one.
    Unmatched,
    /// A preflight that is answered here.
    Answered(Box<Response<Bytes>>),
}

impl Cors {
    pub fn ask(&self, method: &Method, headers: &HeaderMap) -> Asked {
        let Some(origin) = headers.get(ORIGIN) else { return Asked::SameOrigin };
        let allowed = self.origins.iter().any(|allowed| allowed.matches(origin.as_bytes()));
        let preflight = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        match (allowed, preflight) {
            (true, true) => Asked::Answered(Box::new(self.preflight(origin, headers))),
            (true, false) => Asked::Allowed(origin.clone()),
            (false, true) if !self.forward_unmatched => Asked::Answered(Box::default()),
            (false, _) => Asked::Unmatched,
        }
    }

    fn preflight(&self, origin: &HeaderValue, request: &HeaderMap) -> Response<Bytes> {
        let mut response = Response::default();
        let headers = response.headers_mut();
        self.allow(origin, headers);
        // A star means nothing where credentials are sent (Fetch, 3.2.5): what is asked for is named.
        let list = |listed: &Listed, asked: HeaderName| match listed.any && self.credentials {
            true => request.get(asked).cloned(),
            false => listed.text.clone(),
        };
        let lists = [
            (ACCESS_CONTROL_ALLOW_METHODS, list(&self.methods, ACCESS_CONTROL_REQUEST_METHOD)),
            (ACCESS_CONTROL_ALLOW_HEADERS, list(&self.headers, ACCESS_CONTROL_REQUEST_HEADERS)),
            (ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.text.clone()),
            (ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ];
        for (name, value) in lists {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        response
    }

    fn allow(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        match self.credentials {
            true => {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            false => {
                headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
            }
        }
        // Caches must not give one origin's answer to another.
        headers.append(VARY, HeaderValue::from_static("origin"));
    }

    /// What the response says, whoever made it. Of a backend's own words on origins that are not allowed nothing
    /// is left, unless they are its affair.
    pub fn on_response(&self, asked: &Asked, headers: &mut HeaderMap) {
        match asked {
            Asked::Allowed(origin) => {
                self.allow(origin, headers);
                if self.expose.any && self.credentials {
                    let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
                    if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
                        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
                    }
                } else if let Some(expose) = &self.expose.text {
                    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
                }
            }
            Asked::Unmatched if !self.forward_unmatched => {
                headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
                headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
            }
            Asked::Unmatched | Asked::SameOrigin | Asked::Answered(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &'static str) -> Listed {
        Listed { text: Some(HeaderValue::from_static(text)), any: text == "*" }
    }

    fn cors(credentials: bool) -> Cors {
        Cors {
            origins: [TextMatch::exact("https://a.example"), TextMatch::regex(r"https://[^/:]+\.b").unwrap()]
                .into(),
            methods: listed("GET, PUT"),
            headers: listed("*"),
            expose: listed("*"),
            max_age: Some(HeaderValue::from_static("60")),
            credentials,
            forward_unmatched: false,
        }
    }

    fn request(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn preflight(cors: &Cors, origin: &'static str) -> Asked {
        let headers = request(&[
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a"),
        ]);
        cors.ask(&Method::OPTIONS, &headers)
    }

    #[test]
    fn preflights_of_allowed_origins_are_answered_in_full() {
        for (credentials, allowed_headers) in [(false, "*"), (true, "x-a")] {
            let Asked::Answered(response) = preflight(&cors(credentials), "https://x.b") else { panic!() };
            let headers = response.headers();
            assert_eq!(response.status(), 200);
            assert_eq!(headers["access-control-allow-origin"], "https://x.b");
            assert_eq!(headers["access-control-allow-methods"], "GET, PUT");
            assert_eq!(headers["access-control-allow-headers"], allowed_headers);
            assert_eq!(headers["access-control-max-age"], "60");
            assert_eq!(headers["vary"], "origin");
            assert_eq!(headers.contains_key("access-control-allow-credentials"), credentials);
        }
    }

    #[test]
    fn other_origins_are_told_nothing_or_go_on() {
        let mut cors = cors(false);
        let Asked::Answered(response) = preflight(&cors, "https://evil") else { panic!() };
        assert!(response.headers().is_empty());
        let other = request(&[("origin", "https://a.example.evil")]);
        let asked = cors.ask(&Method::GET, &other);
        let mut headers = request(&[("access-control-allow-origin", "*"), ("x-a", "1")]);
        cors.on_response(&asked, &mut headers);
        assert_eq!(headers, request(&[("x-a", "1")]));
        cors.forward_unmatched = true;
        assert!(matches!(preflight(&cors, "https://evil"), Asked::Unmatched));
        let mut headers = request(&[("access-control-allow-origin", "*")]);
        cors.on_response(&asked, &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "*");
    }

    #[test]
    fn responses_name_the_origin() {
        let cors = cors(true);
        let asked = cors.ask(&Method::GET, &request(&[("origin", "https://a.example")]));
        let mut headers = request(&[("access-control-allow-origin", "*"), ("x-a", "1")]);
        cors.on_response(&asked, &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("x-a"));
        assert!(matches!(cors.ask(&Method::GET, &HeaderMap::new()), Asked::SameOrigin));
        // An OPTIONS request that asks for no method is none of the browser's.
        let plain = request(&[("origin", "https://a.example")]);
        assert!(matches!(cors.ask(&Method::OPTIONS, &plain), Asked::Allowed(_)));
    }
}
