//! `PacketListener` and `PacketConnection`: SOCK_SEQPACKET with descriptors, for ZDS and the sealed key
//! store (docs/node-interfaces.md).
//!
//! Each connection has one writer task, so that packets leave in the order of the `send` calls; its
//! queue holds duplicates of the descriptors, so a caller may close its own at once.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use napi::bindgen_prelude::{Buffer, PromiseRaw, spawn};
use napi::{Env, Result};
use napi_derive::napi;
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, SockType, UnixAddr, connect, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bind::{checked, unix_socket};
use crate::descriptor::{duplicate, watch_descriptor};
use crate::error::AddonError;
use crate::message::{self, MAX_DESCRIPTORS, Received};
use crate::peer::PeerCredentials;
use crate::stream::{Listening, held, take};

const MAX_PACKET_BYTES: u32 = 1 << 20;
/// How long `connect` waits for room in a listener's backlog, and how often it looks.
const CONNECT_ATTEMPTS: u32 = 500;
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

struct Outgoing {
    data: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    done: oneshot::Sender<std::result::Result<(), AddonError>>,
}

#[derive(Debug)]
struct Connected {
    socket: AsyncFd<OwnedFd>,
    closed: watch::Sender<bool>,
    receiving: AtomicBool,
}

/// Gives the right to receive back, also when the future is dropped.
struct Receiving<'a>(&'a AtomicBool);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Connected {
    async fn receive(&self, max_bytes: u32) -> std::result::Result<Option<Packet>, AddonError> {
        if self.receiving.swap(true, Ordering::Acquire) {
            return Err(AddonError::BadArgument("receive: another receive is pending".into()));
        }
        let _receiving = Receiving(&self.receiving);
        let mut closed = self.closed.subscribe();
        let received = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Ok(None),
            received = self.socket.async_io(Interest::READABLE, |socket| message::receive(socket, max_bytes as usize)) => received,
        };
        match received.map_err(|error| AddonError::system("receive", error))? {
            Received::Closed => Ok(None),
            Received::Truncated { what } => Err(AddonError::Protocol(format!("receive: the packet {what}"))),
            Received::Packet { data, descriptors } => Ok(Some(Packet {
                data: data.into(),
                fds: descriptors.into_iter().map(IntoRawFd::into_raw_fd).collect(),
            })),
        }
    }

    async fn write_all(&self, mut queue: mpsc::UnboundedReceiver<Outgoing>) {
        let mut closed = self.closed.subscribe();
        loop {
            let next = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return,
                next = queue.recv() => next,
            };
            let Some(Outgoing { data, descriptors, done }) = next else { return };
            let sent = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => Err(closed_error()),
                sent = self.socket.async_io(Interest::WRITABLE, |socket| message::send(socket, &data, &descriptors)) => {
                    sent.map_err(|error| AddonError::system("send", error))
                }
            };
            // The caller may have gone; the packet has left all the same.
            let _ = done.send(sent);
        }
    }
}

fn closed_error() -> AddonError {
    AddonError::Protocol("send: the connection is closed".into())
}

#[napi(object)]
pub struct Packet {
    pub data: Buffer,
    pub fds: Vec<i32>,
}

#[derive(Debug, Clone)]
struct Handle {
    connected: Arc<Connected>,
    queue: mpsc::UnboundedSender<Outgoing>,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet").field("fds", &self.fds).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("bytes", &self.data.len()).finish_non_exhaustive()
    }
}

#[napi]
#[derive(Debug)]
pub struct PacketConnection {
    handle: Mutex<Option<Handle>>,
    peer: PeerCredentials,
}

impl PacketConnection {
    fn over(socket: OwnedFd) -> std::result::Result<Self, AddonError> {
        message::pass_credentials(&socket).map_err(|error| AddonError::system("set SO_PASSCRED", error))?;
        let peer = PeerCredentials::of(&socket)?;
        let socket =
            watch_descriptor(socket).map_err(|error| AddonError::system("watch the connection", error))?;
        let connected = Arc::new(Connected {
            socket,
            closed: watch::channel(false).0,
            receiving: AtomicBool::new(false),
        });
        let (queue, outgoing) = mpsc::unbounded_channel();
        let writer = Arc::clone(&connected);
        spawn(async move { writer.write_all(outgoing).await });
        Ok(Self { handle: Mutex::new(Some(Handle { connected, queue })), peer })
    }
}

#[napi]
impl PacketConnection {
    #[napi]
    pub fn connect(env: &Env, path: String) -> Result<PromiseRaw<'_, PacketConnection>> {
        env.spawn_future(async move {
            let place = checked(&path)?;
            let failed = |error: Errno| AddonError::system(format!("connect {path}"), error);
            let address = UnixAddr::new(&place).map_err(failed)?;
            let socket = unix_socket(SockType::SeqPacket).map_err(failed)?;
            for _ in 0..CONNECT_ATTEMPTS {
                match connect(socket.as_raw_fd(), &address) {
                    Ok(()) => return Ok(PacketConnection::over(socket)?),
                    // A full backlog: Unix sockets give no event for its end.
                    Err(Errno::EAGAIN | Errno::EINTR) => tokio::time::sleep(CONNECT_PAUSE).await,
                    Err(error) => return Err(failed(error).into()),
                }
            }
            Err(failed(Errno::ETIMEDOUT).into())
        })
    }

    #[napi(getter)]
    pub fn peer(&self) -> PeerCredentials {
        self.peer
    }

    #[napi]
    pub fn send<'env>(&self, env: &'env Env, data: Buffer, fds: Vec<i32>) -> Result<PromiseRaw<'env, ()>> {
        let queued = self.enqueue(&data, &fds);
        env.spawn_future(async move {
            match queued?.await {
                Ok(sent) => Ok(sent?),
                Err(_) => Err(closed_error().into()),
            }
        })
    }

    #[napi]
    pub fn receive<'env>(&self, env: &'env Env, max_bytes: u32) -> Result<PromiseRaw<'env, Option<Packet>>> {
        let handle = held(&self.handle);
        env.spawn_future(async move {
            if max_bytes == 0 || max_bytes > MAX_PACKET_BYTES {
                return Err(AddonError::BadArgument(format!(
                    "receive: maxBytes {max_bytes} is outside 1..{MAX_PACKET_BYTES}"
                ))
                .into());
            }
            let Some(handle) = handle else { return Ok(None) };
            Ok(handle.connected.receive(max_bytes).await?)
        })
    }

    #[napi]
    pub fn close(&self) {
        let Some(handle) = take(&self.handle) else { return };
        handle.connected.closed.send_replace(true);
        // Also reaches the peer while a pending call still holds the socket.
        let _ = shutdown(handle.connected.socket.get_ref().as_raw_fd(), Shutdown::Both);
    }

    fn enqueue(
        &self,
        data: &[u8],
        fds: &[i32],
    ) -> std::result::Result<oneshot::Receiver<std::result::Result<(), AddonError>>, AddonError> {
        if data.is_empty() || data.len() > MAX_PACKET_BYTES as usize {
            return Err(AddonError::BadArgument(format!(
                "send: a packet has 1 to {MAX_PACKET_BYTES} bytes, not {}",
                data.len()
            )));
        }
        if fds.len() > MAX_DESCRIPTORS {
            return Err(AddonError::BadArgument(format!(
                "send: a packet has at most {MAX_DESCRIPTORS} descriptors, not {}",
                fds.len()
            )));
        }
        let descriptors = fds.iter().map(|fd| duplicate(*fd)).collect::<std::result::Result<Vec<_>, _>>()?;
        let handle = held(&self.handle).ok_or_else(closed_error)?;
        let (done, outcome) = oneshot::channel();
        handle.queue.send(Outgoing { data: data.to_vec(), descriptors, done }).map_err(|_| closed_error())?;
        Ok(outcome)
    }
}

impl Drop for PacketConnection {
    fn drop(&mut self) {
        self.close();
    }
}

#[napi]
#[derive(Debug)]
pub struct PacketListener {
    listening: Mutex<Option<Arc<Listening>>>,
}

#[napi]
impl PacketListener {
    #[napi(factory)]
    pub fn bind(path: String, mode: u32) -> Result<Self> {
        let listening = Listening::bind(&path, mode, SockType::SeqPacket)?;
        Ok(Self { listening: Mutex::new(Some(listening)) })
    }

    #[napi]
    pub fn accept<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, Option<PacketConnection>>> {
        let listening = held(&self.listening);
        env.spawn_future(async move {
            let Some(listening) = listening else { return Ok(None) };
            match listening.accept().await? {
                Some(socket) => Ok(Some(PacketConnection::over(socket)?)),
                None => Ok(None),
            }
        })
    }

    #[napi]
    pub fn close(&self) {
        if let Some(listening) = take(&self.listening) {
            listening.close();
        }
    }
}

impl Drop for PacketListener {
    fn drop(&mut self) {
        self.close();
    }
}
