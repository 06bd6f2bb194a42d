//! TCP sockets as ends of a relay.
use super::patience::Watch;
use super::{Cause, Meter, Patience, RelayEnd};
use crate::buffers::{Read, ReadSize, read_once};
use bytes::{Buf, Bytes};
use socket2::SockRef;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Pieces written by one system call.
const VECTORS: usize = 16;

/// Reads what is there; `None` at the end of input.
pub(super) fn poll_read(
    cx: &mut Context<'_>,
    tcp: &TcpStream,
    size: &mut ReadSize,
) -> Poll<io::Result<Option<Bytes>>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        let read = read_once(size, |memory| {
            drained_io(tcp, Interest::READABLE, memory.len(), || (&*SockRef::from(tcp)).read(memory))
        })?;
        match read {
            Read::Data(bytes) => return Poll::Ready(Ok(Some(bytes))),
            Read::End => return Poll::Ready(Ok(None)),
            Read::WouldBlock => {}
        }
    }
}

/// Writes some of `queue`, and removes it from there. Returns the bytes written.
pub(super) fn poll_write(
    cx: &mut Context<'_>,
    tcp: &TcpStream,
    queue: &mut VecDeque<Bytes>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let mut slices = [IoSlice::new(&[]); VECTORS];
        let mut wanted = 0;
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(queue.iter()) {
            *slice = IoSlice::new(bytes);
            wanted += bytes.len();
            count += 1;
        }
        let written = drained_io(tcp, Interest::WRITABLE, wanted, || {
            (&*SockRef::from(tcp)).write_vectored(&slices[..count])
        });
        match written {
            Ok(n) => {
                advance(queue, n);
                return Poll::Ready(Ok(n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Runs a read or write. One that moved less than it could have has emptied (or filled) the socket's
/// buffer: readiness is cleared at once (edge-triggered epoll), which saves the call that would fail.
fn drained_io(
    tcp: &TcpStream,
    interest: Interest,
    wanted: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = 0;
    let outcome = tcp.try_io(interest, || {
        moved = call()?;
        if moved > 0 && moved < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(moved) }
    });
    if moved > 0 { Ok(moved) } else { outcome }
}

fn advance(queue: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let Some(front) = queue.front_mut() else { return };
        if front.len() > written {
            front.advance(written);
            return;
        }
        written -= front.len();
        queue.pop_front();
    }
}

/// Ends output; the peer may go on sending.
pub(super) fn end_output(tcp: &TcpStream) -> io::Result<()> {
    match SockRef::from(tcp).shutdown(Shutdown::Write) {
        // It has already gone away.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// Makes the coming close a reset.
pub(super) fn break_off(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Completes when the socket has failed, also while nobody reads or writes it.
pub(super) async fn broken(tcp: &TcpStream) -> io::Error {
    match tcp.ready(Interest::ERROR).await {
        Ok(_) => match tcp.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    }
}

/// One direction between sockets.
#[derive(Default)]
struct Direction {
    size: ReadSize,
    queue: VecDeque<Bytes>,
    input_ended: bool,
    ended: bool,
}

enum Fault {
    Input(io::Error),
    Output(io::Error),
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        mut count: impl FnMut(usize),
    ) -> Poll<Result<(), Fault>> {
        loop {
            if !self.queue.is_empty() {
                count(ready!(poll_write(cx, to, &mut self.queue)).map_err(Fault::Output)?);
                continue;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(poll_read(cx, from, &mut self.size)).map_err(Fault::Input)? {
                Some(bytes) => self.queue.push_back(bytes),
                None => {
                    self.input_ended = true;
                    self.ended = true;
                    end_output(to).map_err(Fault::Output)?;
                }
            }
        }
    }

    /// Waits for something else than its input: a failure there would go unnoticed.
    fn ignores_input(&self) -> bool {
        self.input_ended || !self.queue.is_empty()
    }
}

/// Relays between two sockets until both directions have ended, one end broke, or nothing passed for longer
/// than `patience` allows. Cancel safe in that nothing is lost that was not already on its way; the caller
/// then resets both.
pub async fn relay_tcp(
    first: &TcpStream,
    second: &TcpStream,
    meter: &impl Meter,
    patience: Patience,
) -> RelayEnd {
    let mut forward = Direction::default();
    let mut back = Direction::default();
    let mut first_broken = pin!(broken(first));
    let mut second_broken = pin!(broken(second));
    let mut watch = Watch::new(patience);
    let mut passed = 0;
    let end = poll_fn(|cx| {
        let there = forward.poll(cx, first, second, |n| {
            passed += n as u64;
            meter.forward(n);
        });
        let here = back.poll(cx, second, first, |n| {
            passed += n as u64;
            meter.back(n);
        });
        match (&there, &here) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(RelayEnd::Finished),
            (Poll::Pending | Poll::Ready(Ok(())), Poll::Pending | Poll::Ready(Ok(()))) => {}
            _ => return Poll::Ready(fault(there, here)),
        }
        if forward.ignores_input()
            && let Poll::Ready(error) = Pin::as_mut(&mut first_broken).poll(cx)
        {
            return Poll::Ready(RelayEnd::FirstReset(Cause::Socket(error)));
        }
        if back.ignores_input()
            && let Poll::Ready(error) = Pin::as_mut(&mut second_broken).poll(cx)
        {
            return Poll::Ready(RelayEnd::SecondReset(Cause::Socket(error)));
        }
        let half_closed = forward.ended || back.ended;
        watch.poll(cx, passed + u64::from(half_closed), half_closed).map(RelayEnd::Quiet)
    })
    .await;
    match &end {
        RelayEnd::Finished | RelayEnd::Overloaded => {}
        RelayEnd::Quiet(_) => {
            break_off(first);
            break_off(second);
        }
        RelayEnd::FirstReset(_) => break_off(second),
        RelayEnd::SecondReset(_) => break_off(first),
    }
    end
}

fn fault(there: Poll<Result<(), Fault>>, here: Poll<Result<(), Fault>>) -> RelayEnd {
    match (there, here) {
        (Poll::Ready(Err(Fault::Input(error))), _) | (_, Poll::Ready(Err(Fault::Output(error)))) => {
            RelayEnd::FirstReset(Cause::Socket(error))
        }
        (Poll::Ready(Err(Fault::Output(error))), _) | (_, Poll::Ready(Err(Fault::Input(error)))) => {
            RelayEnd::SecondReset(Cause::Socket(error))
        }
        _ => RelayEnd::Finished,
    }
}
