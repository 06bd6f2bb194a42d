//! A connection inside a tunnel as a stream of bytes, for who speaks a protocol on it: the waypoint's HTTP, and
//! its passage of bytes from one tunnel to another.
use crate::TunnelStream;
use bytes::{Buf, Bytes};
use h2::Reason;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the other side may send goes back to it when it is read. Dropped before both directions have ended, it
/// resets the stream.
#[derive(Debug)]
pub struct TunnelIo {
    stream: TunnelStream,
    /// Received, not read yet.
    unread: Bytes,
    input_ended: bool,
    output_ended: bool,
}

fn failed(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

impl From<TunnelStream> for TunnelIo {
    fn from(stream: TunnelStream) -> Self {
        Self { stream, unread: Bytes::new(), input_ended: false, output_ended: false }
    }
}

impl TunnelIo {
    /// Tells the peer that the connection failed.
    pub fn reset(&mut self) {
        self.stream.reset();
    }

    /// What has come, in one piece; `None` at the end.
    pub async fn read_bytes(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_bytes(cx)).await
    }

    /// As [`TunnelIo::read_bytes`].
    ///
    /// # Errors
    /// If the peer reset the stream, or the tunnel ended.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !ready!(self.poll_unread(cx))? {
            return Poll::Ready(Ok(None));
        }
        let bytes = std::mem::take(&mut self.unread);
        self.release(bytes.len())?;
        Poll::Ready(Ok(Some(bytes)))
    }

    /// Completes when the peer has reset the stream; it never does while the stream is in order.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.stream.send.poll_reset(cx)) {
            // After both ends have said all (RFC 9113, 8.1).
            Ok(Reason::NO_ERROR) if self.output_ended => Poll::Pending,
            Ok(reason) => Poll::Ready(failed(reason.into())),
            Err(error) => Poll::Ready(failed(error)),
        }
    }

    fn release(&mut self, bytes: usize) -> io::Result<()> {
        self.stream.receive.flow_control().release_capacity(bytes).map_err(failed)
    }

    /// True once there is something unread, false at the end.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.unread.is_empty() {
            if self.input_ended {
                return Poll::Ready(Ok(false));
            }
            match ready!(self.stream.receive.poll_data(cx)) {
                Some(Ok(bytes)) => self.unread = bytes,
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) && !error.is_go_away() => {
                    self.input_ended = true;
                }
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => self.input_ended = true,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Room for at least one byte of `wanted`.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let send = &mut self.stream.send;
        send.reserve_capacity(wanted);
        loop {
            let capacity = send.capacity();
            if capacity > 0 {
                return Poll::Ready(Ok(capacity.min(wanted)));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Hands a part of `bytes` on, without a copy; how much.
    ///
    /// # Errors
    /// If the stream takes no more.
    pub fn poll_write_bytes(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        let capacity = ready!(self.poll_capacity(cx, bytes.len()))?;
        self.stream.send.send_data(bytes.split_to(capacity), false).map_err(failed)?;
        Poll::Ready(Ok(capacity))
    }

    /// Ends output; the peer may go on sending.
    ///
    /// # Errors
    /// If the stream is gone.
    pub fn end_output(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.output_ended, true) {
            self.stream.send.send_data(Bytes::new(), true).map_err(failed)?;
        }
        Ok(())
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if ready!(this.poll_unread(cx))? {
            let length = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread[..length]);
            this.unread.advance(length);
            this.release(length)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let capacity = ready!(this.poll_capacity(cx, bytes.len()))?;
        this.stream.send.send_data(Bytes::copy_from_slice(&bytes[..capacity]), false).map_err(failed)?;
        Poll::Ready(Ok(capacity))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().end_output())
    }
}
