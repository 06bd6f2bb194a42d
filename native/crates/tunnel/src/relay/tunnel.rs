//! Relay between a TCP socket and a stream of a tunnel.
use super::patience::Watch;
use super::tcp::{break_off, broken, end_output, poll_read, poll_write};
use super::{Cause, Meter, Patience, RelayEnd};
use crate::TunnelStream;
use crate::budget::Share;
use crate::buffers::ReadSize;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

/// Pieces and bytes taken from a tunnel before they are written.
const GATHER_PIECES: usize = 16;
const GATHER_BYTES: usize = 512 << 10;

enum Fault {
    Socket(io::Error),
    Stream(Cause),
    Overloaded,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Self {
        Self::Stream(Cause::Stream(error))
    }
}

/// Socket to tunnel.
#[derive(Default)]
struct Forward {
    size: ReadSize,
    pending: Bytes,
    ended: bool,
}

impl Forward {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        send: &mut SendStream<Bytes>,
        mut count: impl FnMut(usize),
    ) -> Poll<Result<(), Fault>> {
        loop {
            if !self.pending.is_empty() {
                let capacity = ready!(poll_capacity(cx, send, self.pending.len()))?;
                let piece = self.pending.split_to(capacity.min(self.pending.len()));
                count(piece.len());
                send.send_data(piece, false)?;
                continue;
            }
            // Also where nothing is to be sent, a reset by the peer ends the connection.
            if let Poll::Ready(reset) = send.poll_reset(cx) {
                let reason = reset?;
                if !(self.ended && reason == Reason::NO_ERROR) {
                    return Poll::Ready(Err(h2::Error::from(reason).into()));
                }
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(poll_read(cx, tcp, &mut self.size))? {
                Some(bytes) => self.pending = bytes,
                None => {
                    self.ended = true;
                    send.send_data(Bytes::new(), true)?;
                }
            }
        }
    }

    /// Waits for something else than its input: a failure there would go unnoticed.
    fn ignores_input(&self) -> bool {
        self.ended || !self.pending.is_empty()
    }
}

/// Room for at least one byte of `wanted`.
fn poll_capacity(
    cx: &mut Context<'_>,
    send: &mut SendStream<Bytes>,
    wanted: usize,
) -> Poll<Result<usize, Fault>> {
    send.reserve_capacity(wanted);
    loop {
        // poll_capacity tells only of increases: what is there already is asked first.
        let capacity = send.capacity();
        if capacity > 0 {
            return Poll::Ready(Ok(capacity));
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => {
                let cause = match send.poll_reset(cx) {
                    Poll::Ready(Ok(reason)) => Cause::Stream(reason.into()),
                    Poll::Ready(Err(error)) => Cause::Stream(error),
                    Poll::Pending => Cause::StreamClosed,
                };
                return Poll::Ready(Err(Fault::Stream(cause)));
            }
        }
    }
}

/// Tunnel to socket.
struct Back {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The application did not take what was there: everything that comes is counted.
    stalled: bool,
    share: Share,
    input_ended: bool,
    ended: bool,
    /// The stream has failed; what came before that is written first.
    failed: Option<Fault>,
}

impl Back {
    fn new(share: Share) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            stalled: false,
            share,
            input_ended: false,
            ended: false,
            failed: None,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        receive: &mut RecvStream,
        tcp: &TcpStream,
        mut count: impl FnMut(usize),
    ) -> Poll<Result<(), Fault>> {
        loop {
            self.gather(cx, receive);
            if self.queue.is_empty() {
                if let Some(fault) = self.failed.take() {
                    return Poll::Ready(Err(fault));
                }
                if !self.input_ended {
                    return Poll::Pending;
                }
                if !self.ended {
                    self.ended = true;
                    end_output(tcp)?;
                }
                return Poll::Ready(Ok(()));
            }
            let written = match poll_write(cx, tcp, &mut self.queue) {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    self.stall(cx, receive)?;
                    // An application that does not read does not keep a connection that is broken.
                    return self.failed.take().map_or(Poll::Pending, |fault| Poll::Ready(Err(fault)));
                }
            };
            self.queued -= written;
            self.stalled = false;
            self.share.taken(written, self.queued, self.queue.len());
            count(written);
            // The peer may send as much again only now, when the application took it: an application
            // that does not read stops its own connection and no other.
            receive.flow_control().release_capacity(written)?;
        }
    }

    /// Takes all that has come and counts it, so that nothing is held that the budget does not know of.
    fn stall(&mut self, cx: &mut Context<'_>, receive: &mut RecvStream) -> Result<(), Fault> {
        self.stalled = true;
        self.gather(cx, receive);
        self.share.set(self.queued, self.queue.len());
        match self.share.poll_ended(cx) {
            Poll::Ready(()) => Err(Fault::Overloaded),
            Poll::Pending => Ok(()),
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>, receive: &mut RecvStream) {
        let over = |back: &Self| back.input_ended || back.failed.is_some();
        let enough =
            |back: &Self| !back.stalled && (back.queue.len() >= GATHER_PIECES || back.queued >= GATHER_BYTES);
        while !over(self) && !enough(self) {
            match receive.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    if !bytes.is_empty() {
                        self.queued += bytes.len();
                        self.queue.push_back(bytes);
                    }
                }
                // A server that answered in full may stop the request that way (RFC 9113, 8.1).
                Poll::Ready(Some(Err(error)))
                    if error.reason() == Some(Reason::NO_ERROR) && !error.is_go_away() =>
                {
                    self.input_ended = true;
                }
                Poll::Ready(Some(Err(error))) => self.failed = Some(error.into()),
                Poll::Ready(None) => self.input_ended = true,
                Poll::Pending => break,
            }
        }
    }
}

/// Relays between a socket (first) and a tunnel's stream (second) until both directions have ended, one end
/// broke, or nothing passed for longer than `patience` allows. When cancelled the caller resets both.
pub async fn relay_tunnel(
    tcp: &TcpStream,
    stream: &mut TunnelStream,
    meter: &impl Meter,
    patience: Patience,
) -> RelayEnd {
    let mut forward = Forward::default();
    let mut back = Back::new(stream.budget.share());
    let mut tcp_broken = pin!(broken(tcp));
    let TunnelStream { send, receive, .. } = stream;
    let mut watch = Watch::new(patience);
    let mut passed = 0;
    let end = poll_fn(|cx| {
        // What came before a reset is delivered before it.
        let back_polled = back.poll(cx, receive, tcp, |n| {
            passed += n as u64;
            meter.back(n);
        });
        let here = match back_polled {
            Poll::Ready(Err(fault)) => return Poll::Ready(fault.into()),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let forward_polled = forward.poll(cx, tcp, send, |n| {
            passed += n as u64;
            meter.forward(n);
        });
        let there = match forward_polled {
            Poll::Ready(Err(fault)) => return Poll::Ready(fault.into()),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if there && here {
            return Poll::Ready(RelayEnd::Finished);
        }
        if forward.ignores_input()
            && let Poll::Ready(error) = Pin::as_mut(&mut tcp_broken).poll(cx)
        {
            return Poll::Ready(RelayEnd::FirstReset(Cause::Socket(error)));
        }
        let half_closed = forward.ended || back.ended;
        watch.poll(cx, passed + u64::from(half_closed), half_closed).map(RelayEnd::Quiet)
    })
    .await;
    match &end {
        RelayEnd::Finished => {}
        RelayEnd::FirstReset(_) => {
            // What the application sent before it broke off still goes out.
            stream.flush().await;
            stream.reset();
        }
        RelayEnd::SecondReset(_) => break_off(tcp),
        RelayEnd::Overloaded | RelayEnd::Quiet(_) => {
            break_off(tcp);
            stream.reset();
        }
    }
    end
}

impl From<Fault> for RelayEnd {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Socket(error) => Self::FirstReset(Cause::Socket(error)),
            Fault::Stream(cause) => Self::SecondReset(cause),
            Fault::Overloaded => Self::Overloaded,
        }
    }
}
