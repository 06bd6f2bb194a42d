//! The client as a whole, against servers in this process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod support;
mod tls;
