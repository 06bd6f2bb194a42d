//! What was sent of a request's body, for the case that it has to be sent again.

use super::BodyError;
use super::request::{Client, RequestBody};
use super::tap::cost;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

/// Bytes kept of one request, the cost of each piece with them.
const REQUEST_BYTES: usize = 64 << 10;
/// Bytes kept of all requests together.
const ALL_BYTES: usize = 16 << 20;

/// The room that all kept bodies share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keeper {
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct State {
    client: Client,
    sent: Vec<Bytes>,
    /// What the pieces cost.
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// The client's body has come to its end.
    over: bool,
    /// More has been sent than is kept, or it broke off.
    lost: bool,
    /// The attempt that the client's body is read for; those before it get no more.
    attempt: u32,
    keeper: Keeper,
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        let total = self.keeper.bytes.fetch_add(cost(data), Relaxed) + cost(data);
        self.bytes += cost(data);
        self.sent.push(data.clone());
        if self.bytes > REQUEST_BYTES || total > ALL_BYTES {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.lost = true;
        self.sent = Vec::new();
        self.keeper.bytes.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.keeper.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// A body that can be sent again, as long as all of what was sent is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept(Arc<Mutex<State>>);

impl Kept {
    pub(super) fn new(client: Client, keeper: Keeper) -> Self {
        Self(Arc::new(Mutex::new(State {
            client,
            sent: Vec::new(),
            bytes: 0,
            trailers: None,
            over: false,
            lost: false,
            attempt: 0,
            keeper,
        })))
    }

    pub(crate) fn is_whole(&self) -> bool {
        !self.0.lock().lost
    }

    /// Takes the body from the attempt that is sending it. False where it has sent more than was kept: what is
    /// left is no whole body, and stays that attempt's.
    pub(crate) fn take_over(&self) -> bool {
        let mut state = self.0.lock();
        if !state.lost {
            state.attempt += 1;
        }
        !state.lost
    }

    /// The body from its begin, for the attempt that has taken it over.
    pub(crate) fn whole_again(&self) -> RequestBody {
        let state = self.0.lock();
        RequestBody::replay(Replay { kept: self.clone(), attempt: state.attempt, at: 0 })
    }
}

/// One attempt's reading of a kept body.
#[derive(Debug)]
pub(super) struct Replay {
    kept: Kept,
    attempt: u32,
    /// Of the pieces kept.
    at: usize,
}

impl Replay {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.kept.0.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = state.sent.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if state.over {
            let trailers = state.trailers.clone().filter(|_| self.at != usize::MAX);
            self.at = usize::MAX;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = state.client.poll(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) if !state.lost && !data.is_empty() => {
                    self.at += 1;
                    state.keep(data);
                }
                (_, Some(trailers)) => {
                    state.trailers = Some(trailers.clone());
                    state.over = true;
                    self.at = usize::MAX;
                }
                _ => {}
            },
            Poll::Ready(Some(Err(_))) => state.give_up(),
            Poll::Ready(None) => {
                state.over = true;
                self.at = usize::MAX;
            }
            Poll::Pending => {}
        }
        polled
    }

    pub(super) fn is_over(&self) -> bool {
        let state = self.kept.0.lock();
        let all = self.at >= state.sent.len();
        match (state.over, self.at) {
            (true, usize::MAX) => true,
            (true, _) => all && state.trailers.is_none(),
            (false, _) => all && state.client.is_over(),
        }
    }

    /// Of the whole body, which is asked for before it is read.
    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.kept.0.lock();
        let rest = match state.over {
            true => SizeHint::with_exact(0),
            false => state.client.size_hint(),
        };
        let before: u64 = state.sent.iter().skip(self.at).map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + before);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + before);
        }
        hint
    }
}
