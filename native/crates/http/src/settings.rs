//! Bounds on what clients and backends can make the proxy hold, and for how long.

use crate::hygiene::HeaderLimits;
use crate::path::{EscapedSlashes, PathSettings};
use http::HeaderName;
use meltemi_types::meltemi as wire;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Settings {
    pub paths: PathSettings,
    pub header_count: usize,
    /// Of one request or response, all together.
    pub header_bytes: u32,
    pub request_body_bytes: u64,
    /// Of one HTTP/2 connection.
    pub concurrent_streams: u32,
    /// For a request's headers, and between requests.
    pub header_timeout: Duration,
    /// No byte of a body that is waited for.
    pub body_idle: Duration,
    /// Tells backends who the caller is.
    pub caller_header: Option<HeaderName>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            paths: PathSettings::default(),
            header_count: 100,
            header_bytes: 64 << 10,
            request_body_bytes: u64::MAX,
            concurrent_streams: 100,
            header_timeout: Duration::from_secs(60),
            body_idle: Duration::from_secs(300),
            caller_header: None,
        }
    }
}

impl Settings {
    /// # Errors
    /// The field that is not understood.
    pub fn from_wire(message: &wire::HttpSettings) -> Result<Self, crate::decode::RouteError> {
        use wire::http_settings::EscapedSlashes as Wire;
        let problem = |field: &str, problem: &str| crate::decode::RouteError::new(field, problem);
        let default = Self::default();
        let millis = |ms: u32, default| if ms == 0 { default } else { Duration::from_millis(ms.into()) };
        let escaped_slashes = match Wire::try_from(message.escaped_slashes) {
            Ok(Wire::Keep) => EscapedSlashes::Keep,
            Ok(Wire::Refuse) => EscapedSlashes::Refuse,
            Ok(Wire::Decode) => EscapedSlashes::Decode,
            Err(_) => return Err(problem("http.escaped_slashes", "an unknown value")),
        };
        let header_bytes = match message.max_header_bytes {
            0 => default.header_bytes,
            // Hyper's least buffer.
            bytes @ 8_192..=1_048_576 => bytes,
            _ => return Err(problem("http.max_header_bytes", "want 8192 to 1048576")),
        };
        let caller_header = match message.caller_identity_header.as_str() {
            "" => None,
            name => match name.parse::<HeaderName>() {
                Ok(name) => Some(name),
                Err(_) => return Err(problem("http.caller_identity_header", "no header's name")),
            },
        };
        Ok(Self {
            paths: PathSettings { escaped_slashes, keep_repeated_slashes: message.keep_repeated_slashes },
            header_count: match message.max_headers {
                0 => default.header_count,
                count => count as usize,
            },
            header_bytes,
            request_body_bytes: match message.max_request_body_bytes {
                0 => default.request_body_bytes,
                bytes => bytes,
            },
            concurrent_streams: match message.max_concurrent_streams {
                0 => default.concurrent_streams,
                streams => streams,
            },
            header_timeout: millis(message.header_timeout_ms, default.header_timeout),
            body_idle: millis(message.idle_timeout_ms, default.body_idle),
            caller_header,
        })
    }

    pub(crate) fn header_limits(&self) -> HeaderLimits {
        HeaderLimits { count: self.header_count }
    }
}
