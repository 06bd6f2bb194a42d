//! What is read of a request's body before it is sent on, for whoever is asked about it.

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Bytes read ahead of all requests together.
const ALL_BYTES: usize = 64 << 20;

/// The room that all bodies read ahead share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Arc<AtomicUsize>);

/// A part of it, until it is dropped.
#[derive(Debug)]
struct Taken {
    bytes: usize,
    room: Room,
}

impl Taken {
    /// False: there is no room for so many more.
    fn more(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.room.0.fetch_add(bytes, Relaxed) + bytes <= ALL_BYTES
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// Why a body cannot be read ahead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AheadError {
    #[error("the request's body does not come")]
    Idle,
    #[error("bodies that authorizers are asked about take all the room there is for them")]
    Full,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// The begin of a body in one piece, however small the pieces were that it came in.
#[derive(Debug)]
pub(crate) struct Ahead {
    data: Bytes,
    trailers: Option<Frame<Bytes>>,
    over: bool,
    taken: Taken,
}

impl Ahead {
    pub(crate) fn new(room: &Room) -> Self {
        let taken = Taken { bytes: 0, room: room.clone() };
        Self { data: Bytes::new(), trailers: None, over: false, taken }
    }

    /// Reads until there are more than `limit` bytes, or the body is over.
    ///
    /// # Errors
    /// Of the client's, or of too many clients'. Nothing of the body can be sent on then.
    pub(crate) async fn read(
        &mut self,
        body: &mut Incoming,
        limit: usize,
        idle: Duration,
    ) -> Result<(), AheadError> {
        self.over |= body.is_end_stream();
        if self.over || self.data.len() > limit {
            return Ok(());
        }
        let mut gathered = BytesMut::from(std::mem::take(&mut self.data));
        while !self.over && gathered.len() <= limit {
            let frame = tokio::time::timeout(idle, body.frame()).await.map_err(|_| AheadError::Idle)?;
            match frame.transpose()?.map(Frame::into_data) {
                None => self.over = true,
                Some(Ok(data)) if !self.taken.more(data.len()) => return Err(AheadError::Full),
                Some(Ok(data)) => gathered.extend_from_slice(&data),
                Some(Err(trailers)) => {
                    self.over = true;
                    self.trailers = Some(trailers);
                }
            }
        }
        self.data = gathered.freeze();
        Ok(())
    }

    pub(crate) fn data(&self) -> &Bytes {
        &self.data
    }

    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    /// What was read, to be sent on.
    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.data.is_empty() {
            return self.trailers.take();
        }
        let room = self.taken.room.clone();
        self.taken = Taken { bytes: 0, room };
        Some(Frame::data(std::mem::take(&mut self.data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_read_ahead_is_bounded_and_its_room_given_back() {
        let room = Room::default();
        let (mut one, mut two) = (Ahead::new(&room), Ahead::new(&room));
        assert!(one.taken.more(ALL_BYTES - 1) && two.taken.more(1));
        assert!(!two.taken.more(1));
        drop(two);
        one.data = Bytes::from_static(b"a");
        assert!(one.next().is_some());
        assert_eq!(room.0.load(Relaxed), 0);
    }
}
