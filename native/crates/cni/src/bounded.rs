//! A connection that has an end: however slowly the peer sends, no call goes on beyond it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Bounded {
    stream: TcpStream,
    end: Instant,
}

impl Bounded {
    pub(crate) fn connect(address: &SocketAddr, end: Instant) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect_timeout(address, left(end)?)?, end })
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(too_late)
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// The kernel's word for a time that is over is that the call would block.
fn named(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { too_late() } else { error }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.end)?))?;
        self.stream.read(buffer).map_err(named)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.end)?))?;
        self.stream.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
