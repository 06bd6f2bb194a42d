//! Who is at the other end of a Unix socket (SO_PEERCRED, taken by the kernel at connect time).

use std::os::fd::AsFd;

use napi_derive::napi;
use nix::sys::socket::{getsockopt, sockopt};

use crate::error::AddonError;

#[napi(object)]
#[derive(Debug, Clone, Copy)]
pub struct PeerCredentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl PeerCredentials {
    pub(crate) fn of(socket: &impl AsFd) -> Result<Self, AddonError> {
        let found = getsockopt(socket, sockopt::PeerCredentials)
            .map_err(|error| AddonError::system("read the peer's credentials", error))?;
        Ok(Self { pid: found.pid(), uid: found.uid(), gid: found.gid() })
    }
}
