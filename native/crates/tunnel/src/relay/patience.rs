//! The end of connections on which nothing passes any more.
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a connection may pass nothing before it is ended. `None`: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// One end has ended its output, and waits for the other's.
    pub half_closed: Option<Duration>,
    /// Neither has.
    pub idle: Option<Duration>,
}

/// Why patience came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// One end had ended its output.
    HalfClosed(Duration),
    Idle(Duration),
}

/// Watches one connection. Holds no timer while it may be quiet for ever.
pub(super) struct Watch {
    patience: Patience,
    progress: u64,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, progress: 0, since: Instant::now(), timer: None }
    }

    /// Completes when nothing has passed for too long. `progress` grows with whatever passes, the end of a
    /// direction included.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, progress: u64, half_closed: bool) -> Poll<Quiet> {
        let limit = if half_closed { self.patience.half_closed } else { self.patience.idle };
        let Some(limit) = limit else {
            self.timer = None;
            return Poll::Pending;
        };
        if self.timer.is_none() || self.progress != progress {
            self.progress = progress;
            self.since = Instant::now();
        }
        let due = self.since + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        // One that is too early is left: it costs less to look once than to set it with every byte.
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(if half_closed { Quiet::HalfClosed(limit) } else { Quiet::Idle(limit) });
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}
