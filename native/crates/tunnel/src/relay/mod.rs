//! Moves the bytes of one connection, both ways, in one task.
//!
//! Each direction ends by itself (half-close): the end of input on one side becomes the end of output
//! on the other. A connection that breaks on one side is reset on the other. Nothing is held while
//! nothing passes: buffers are taken when a socket is readable and go back when written.

mod patience;
mod tcp;
mod tunnel;

pub use patience::{Patience, Quiet};
pub use tcp::relay_tcp;
pub use tunnel::relay_tunnel;

use std::fmt;
use std::io;

/// Learns how many bytes were handed on.
pub trait Meter {
    /// From the first end to the second.
    fn forward(&self, bytes: usize);
    /// From the second end to the first.
    fn back(&self, bytes: usize);
}

/// How a connection ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both directions ended in order.
    Finished,
    /// The first end broke; the second was reset.
    FirstReset(Cause),
    /// The second end broke; the first was reset.
    SecondReset(Cause),
    /// The process holds too much for applications that do not read; both were reset.
    Overloaded,
    /// Nothing passed for too long; both were reset.
    Quiet(Quiet),
}

/// What broke.
#[derive(Debug)]
pub enum Cause {
    Socket(io::Error),
    Stream(h2::Error),
    /// The stream was closed without an error of its own.
    StreamClosed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => error.fmt(f),
            Self::Stream(error) => error.fmt(f),
            Self::StreamClosed => f.write_str("stream closed by the peer"),
        }
    }
}
