//! A mesh of real processes in a sandbox of namespaces: no root on the host is needed.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part")]

pub mod agent;
pub mod control;
pub mod objects;
pub mod sandbox;
pub mod world;

use std::time::Duration;

/// Generous: a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: took too long"),
    }
}
