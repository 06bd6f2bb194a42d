//! A rule of a RequestAuthentication, ready to be applied.

use super::claims::Claims;
use super::keys::Keys;
use super::place::Places;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum KeySource {
    Inline(Arc<Keys>),
    /// By the set's name.
    Set(Arc<str>),
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) issuer: Box<str>,
    pub(super) audiences: Box<[String]>,
    pub(super) places: Places,
    pub(super) keys: KeySource,
    pub(super) payload_header: Option<HeaderName>,
    /// The token goes on to the endpoint.
    pub(super) forward: bool,
    /// Headers, and the claims that they are made of.
    pub(super) outputs: Box<[(HeaderName, Box<str>)]>,
}

impl Rule {
    /// Nobody but this stage says what a token says.
    pub(super) fn remove_outputs(&self, headers: &mut HeaderMap) {
        for name in self.payload_header.iter().chain(self.outputs.iter().map(|(name, _)| name)) {
            headers.remove(name);
        }
    }

    pub(super) fn write_outputs(&self, headers: &mut HeaderMap, claims: &Claims) {
        let mut write = |name: &HeaderName, text: &str| {
            // What is no header's text, such as a line break, is as if the claim were not there.
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                headers.insert(name, value);
            }
        };
        if let Some(name) = &self.payload_header {
            write(name, claims.payload());
        }
        for (name, claim) in &self.outputs {
            if let Some(text) = claims.header_text(claim) {
                write(name, &text);
            }
        }
    }
}
