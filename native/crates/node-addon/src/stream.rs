//! `StreamListener`: accepts on a SOCK_STREAM socket and hands out descriptors with their peer's
//! credentials; Node's own `net.Socket` carries the bytes from there.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;
use nix::sys::socket::SockType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::bind::{BoundPath, listen_at};
use crate::descriptor::watch_descriptor;
use crate::error::AddonError;
use crate::peer::PeerCredentials;

/// A listening socket shared by the JavaScript object and its pending accepts.
#[derive(Debug)]
pub(crate) struct Listening {
    socket: AsyncFd<OwnedFd>,
    closed: watch::Sender<bool>,
    file: BoundPath,
}

impl Listening {
    pub(crate) fn bind(path: &str, mode: u32, kind: SockType) -> std::result::Result<Arc<Self>, AddonError> {
        let (socket, file) = listen_at(path, mode, kind)?;
        let socket =
            watch_descriptor(socket).map_err(|error| AddonError::system(format!("bind {path}"), error))?;
        Ok(Arc::new(Self { socket, closed: watch::channel(false).0, file }))
    }

    /// The next connection (non-blocking, close-on-exec), or `None` once closed.
    pub(crate) async fn accept(&self) -> std::result::Result<Option<OwnedFd>, AddonError> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Ok(None),
            accepted = self.socket.async_io(Interest::READABLE, accept_once) => {
                accepted.map(Some).map_err(|error| AddonError::system("accept", error))
            }
        }
    }

    pub(crate) fn close(&self) {
        if !self.closed.send_replace(true) {
            self.file.remove();
        }
    }
}

fn accept_once(socket: &OwnedFd) -> std::io::Result<OwnedFd> {
    loop {
        // SAFETY: the descriptor is open for the length of the call, and no address is asked for.
        let accepted = unsafe {
            libc::accept4(
                socket.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            )
        };
        if accepted >= 0 {
            // SAFETY: accept4 has just made this descriptor, nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(accepted) });
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            // The client went away before it was accepted, or a signal came.
            Some(libc::ECONNABORTED | libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Takes what JavaScript holds, so that the socket closes with its last pending call.
pub(crate) fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What JavaScript holds, if it has not been closed.
pub(crate) fn held<T: Clone>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[napi(object)]
#[derive(Debug)]
pub struct AcceptedStream {
    pub fd: i32,
    pub peer: PeerCredentials,
}

#[napi]
#[derive(Debug)]
pub struct StreamListener {
    listening: Mutex<Option<Arc<Listening>>>,
}

#[napi]
impl StreamListener {
    #[napi(factory)]
    pub fn bind(path: String, mode: u32) -> Result<Self> {
        let listening = Listening::bind(&path, mode, SockType::Stream)?;
        Ok(Self { listening: Mutex::new(Some(listening)) })
    }

    #[napi]
    pub fn accept<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, Option<AcceptedStream>>> {
        let listening = held(&self.listening);
        env.spawn_future(async move {
            let Some(listening) = listening else { return Ok(None) };
            let Some(stream) = listening.accept().await? else { return Ok(None) };
            let peer = PeerCredentials::of(&stream.as_fd())?;
            Ok(Some(AcceptedStream { fd: stream.into_raw_fd(), peer }))
        })
    }

    #[napi]
    pub fn close(&self) {
        if let Some(listening) = take(&self.listening) {
            listening.close();
        }
    }
}

impl Drop for StreamListener {
    fn drop(&mut self) {
        self.close();
    }
}
