//! Kinds of failure, as tests tell them apart.

use std::io;

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// RST in answer to SYN.
    Refused,
    Reset,
    Timeout,
    /// The peer ended the connection before its answer was complete.
    Closed,
    Unreachable,
    /// An answer that is not what the protocol or the check wants.
    Wrong,
    Other,
}

/// A failed attempt: its kind, and the words for a person.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn timeout() -> Self {
        Self::new(Kind::Timeout, "no answer in time")
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(kind_of(&error), error.to_string())
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let mut kind = if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Kind::Closed
        } else if error.is_parse() {
            Kind::Wrong
        } else {
            Kind::Other
        };
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            message = format!("{message}: {inner}");
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                kind = kind_of(io);
            }
            source = inner.source();
        }
        Self { kind, message }
    }
}

pub(crate) fn kind_of(error: &io::Error) -> Kind {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Kind::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Kind::Reset,
        ErrorKind::TimedOut => Kind::Timeout,
        ErrorKind::UnexpectedEof | ErrorKind::NotConnected => Kind::Closed,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Kind::Unreachable,
        _ => Kind::Other,
    }
}
