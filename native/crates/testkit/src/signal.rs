//! The end of commands that run until they are told.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, watched from now on: made before a command says that it is ready, so that no
/// signal meets a process without handlers.
#[derive(Debug)]
pub(crate) struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the first signal.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Resolves at a signal, or after the given time if there is one.
    pub(crate) async fn wait_or_after(&mut self, limit: Option<Duration>) {
        match limit {
            Some(limit) => {
                tokio::select! {
                    () = self.wait() => {}
                    () = tokio::time::sleep(limit) => {}
                }
            }
            None => self.wait().await,
        }
    }
}
