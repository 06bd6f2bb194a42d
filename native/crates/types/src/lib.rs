//! The wire contract in Rust: generated messages, and newtypes for what must not be confused.

pub mod proto;
