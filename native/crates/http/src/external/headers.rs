//! Which headers an authorizer sees, and which it may change.

use crate::reply::REFUSED;
use crate::text::TextMatch;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

/// Framing, the connection, and what only this proxy says.
pub(super) fn is_own(name: &HeaderName) -> bool {
    let fixed = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, TE, TRAILER, UPGRADE, REFUSED];
    fixed.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Names of headers; none selects none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names(pub(super) Box<[TextMatch]>);

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn have(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|want| want.matches(name.as_str().as_bytes()))
    }

    /// Headers of these names, but for those that are nobody's to hand on.
    pub(super) fn of(&self, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let chosen = headers.iter().filter(|(name, _)| !is_own(name) && self.have(name));
        chosen.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
