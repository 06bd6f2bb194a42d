//! `NetnsWatch`: that something in a network namespace's rules, routes or addresses has changed. What has
//! changed is for the caller to look at: events are hints, and may be lost.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::descriptor::{duplicate, watch_descriptor};
use crate::error::AddonError;
use crate::netns::inside;

/// Links (`RTMGRP_LINK`), and addresses, routes and rules of IPv4 (`RTMGRP_IPV4_IFADDR`, `_ROUTE`, `_RULE`)
/// and of IPv6 (`RTMGRP_IPV6_IFADDR`, `_ROUTE`, and `RTNLGRP_IPV6_RULE`, which is group 19).
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;
/// `NFNLGRP_NFTABLES` is group 7.
const NFTABLES_GROUPS: u32 = 1 << 6;

#[derive(Debug)]
struct Watched {
    routes: AsyncFd<OwnedFd>,
    nftables: AsyncFd<OwnedFd>,
    closed: watch::Sender<bool>,
}

#[napi]
#[derive(Debug)]
pub struct NetnsWatch {
    watched: Mutex<Option<Arc<Watched>>>,
}

#[napi]
impl NetnsWatch {
    #[napi]
    pub fn open(env: &Env, fd: i32) -> Result<PromiseRaw<'_, NetnsWatch>> {
        let namespace = duplicate(fd);
        env.spawn_future(async move {
            // A netlink socket stays in the namespace in which it was made.
            let (routes, nftables) = inside(namespace?, || {
                Ok((
                    subscribe(SockProtocol::NetlinkRoute, ROUTE_GROUPS)?,
                    subscribe(SockProtocol::NetlinkNetFilter, NFTABLES_GROUPS)?,
                ))
            })
            .await?;
            let registered = |error| AddonError::system("watch the network namespace", error);
            let watched = Watched {
                routes: watch_descriptor(routes).map_err(registered)?,
                nftables: watch_descriptor(nftables).map_err(registered)?,
                closed: watch::channel(false).0,
            };
            Ok(NetnsWatch { watched: Mutex::new(Some(Arc::new(watched))) })
        })
    }

    /// Resolves `true` when something has changed since the last call, `false` once closed.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, bool>> {
        let watched = self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        env.spawn_future(async move {
            let Some(watched) = watched else { return Ok(false) };
            let mut closed = watched.closed.subscribe();
            let changed = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return Ok(false),
                changed = watched.routes.async_io(Interest::READABLE, drain) => changed,
                changed = watched.nftables.async_io(Interest::READABLE, drain) => changed,
            };
            changed.map_err(|error| AddonError::system("watch the network namespace", error))?;
            Ok(true)
        })
    }

    #[napi]
    pub fn close(&self) {
        let taken = self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(watched) = taken {
            watched.closed.send_replace(true);
        }
    }
}

fn subscribe(protocol: SockProtocol, groups: u32) -> std::result::Result<OwnedFd, AddonError> {
    let failed = |error: Errno| AddonError::system("subscribe to changes of the network namespace", error);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(failed)?;
    bind(opened.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
    Ok(opened)
}

/// Takes all waiting messages; `WouldBlock` when there was none.
fn drain(socket: &OwnedFd) -> std::io::Result<()> {
    let mut message = [0_u8; 4096];
    let mut changed = false;
    loop {
        match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            // ENOBUFS: more has changed than the socket could hold.
            Ok(_) | Err(Errno::ENOBUFS) => changed = true,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if changed => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
