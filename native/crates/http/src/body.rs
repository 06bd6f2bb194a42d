//! Bodies on their way: counted, limited in size and time. Gathered only as far as a retry may need them again.

mod ahead;
mod kept;
mod request;
mod response;
mod tap;

pub(crate) use ahead::{Ahead, AheadError, Room};
pub(crate) use kept::{Keeper, Kept};
pub use request::RequestBody;
pub use response::ResponseBody;

use http::HeaderMap;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the exchange took too long")]
    Deadline,
    #[error("no byte came for {} ms", .0.as_millis())]
    Idle(Duration),
    /// A mirror's, whose original went on without it.
    #[error("the request was not mirrored to its end")]
    Mirror,
    /// Of an attempt that another one has taken the place of.
    #[error("the request is sent again")]
    Superseded,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// A deadline, and a time that each byte sets back. A timer is made only when a body has to be waited for.
#[derive(Debug, Default)]
struct Timers {
    deadline: Option<Instant>,
    idle: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer is for the deadline, not for what is idle.
    last: bool,
}

impl Timers {
    fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Self {
        Self { deadline, idle: idle.filter(|idle| !idle.is_zero()), timer: None, last: false }
    }

    /// Of a body that has nothing to give at present.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<BodyError> {
        if self.timer.is_none() {
            let idle = self.idle.map(|idle| Instant::now() + idle);
            self.last = match (self.deadline, idle) {
                (Some(deadline), Some(idle)) => deadline <= idle,
                (deadline, _) => deadline.is_some(),
            };
            let at = if self.last { self.deadline } else { idle };
            self.timer = at.map(|at| Box::pin(tokio::time::sleep_until(at)));
        }
        self.timer.as_mut()?.as_mut().poll(cx).is_ready().then(|| match self.idle {
            Some(idle) if !self.last => BodyError::Idle(idle),
            _ => BodyError::Deadline,
        })
    }

    fn moved(&mut self) {
        self.timer = None;
    }
}

/// The status of a gRPC response, from its trailers or its only headers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
