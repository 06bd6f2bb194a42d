//! The end of commands that run until they are told.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at SIGTERM or SIGINT.
pub(crate) async fn terminated() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the signals' own effect ends the process.
        _ => std::future::pending().await,
    }
}

/// Resolves at a signal, or after the given time if there is one.
pub(crate) async fn terminated_or_after(limit: Option<Duration>) {
    match limit {
        Some(limit) => {
            tokio::select! {
                () = terminated() => {}
                () = tokio::time::sleep(limit) => {}
            }
        }
        None => terminated().await,
    }
}
