//! A pod's interfaces, and which of the host's is the other end of each.

use crate::error::{BpfError, failed};
use crate::inside::inside;
use crate::netlink::{self, Link};
use crate::sys;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsFd, BorrowedFd};

/// The other end of a pod's veth, in the host's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEnd {
    pub name: String,
    pub ifindex: u32,
}

/// An interface of a pod, other than lo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub ifindex: u32,
    /// Frames begin with an Ethernet header; else with that of IP.
    pub(crate) ethernet: bool,
    /// `None`: it has none there (macvlan, a device of the host's that was moved into the pod).
    pub host: Option<HostEnd>,
}

/// What the kernel says of a pod's namespace.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    pub(crate) cookie: u64,
    /// The pod's namespace, as the host's numbers it.
    pub(crate) netns_id: i32,
    pub(crate) interfaces: Vec<Interface>,
}

pub(crate) const LOOPBACK: u32 = 1;

/// Looks at a pod from inside and from outside. To be called in the host's namespace.
pub(crate) fn survey(namespace: BorrowedFd<'_>) -> Result<Survey, BpfError> {
    let (cookie, links) = inside(namespace, || {
        let links = netlink::links().map_err(failed("list the pod's interfaces"))?;
        Ok((current_cookie()?, links))
    })?;
    let netns_id = netlink::netns_id(namespace).map_err(failed("number the pod's network namespace"))?;
    let interfaces = links
        .into_iter()
        // The kernel's unused tunnel devices (tunl0, sit0) are in every namespace; a pod cannot raise them.
        .filter(|link| link.ifindex != LOOPBACK && (link.ethernet || link.up))
        .map(|link| Ok(Interface { host: host_end(&link, netns_id)?, ..interface(link) }))
        .collect::<Result<Vec<_>, BpfError>>()?;
    Ok(Survey { cookie, netns_id, interfaces })
}

/// The cookie of the calling thread's namespace.
pub(crate) fn current_cookie() -> Result<u64, BpfError> {
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| BpfError::system("open a socket", errno))?;
    sys::netns_cookie(probe.as_fd()).map_err(failed("read the network namespace's cookie"))
}

fn interface(link: Link) -> Interface {
    Interface { name: link.name, ifindex: link.ifindex, ethernet: link.ethernet, host: None }
}

/// The other end, if it is in the calling thread's namespace: each end has to name the other.
fn host_end(link: &Link, netns_id: i32) -> Result<Option<HostEnd>, BpfError> {
    let (Some(peer), "veth") = (link.peer, link.kind.as_str()) else { return Ok(None) };
    let found = netlink::link(peer).map_err(failed(format!("look up the other end of {}", link.name)))?;
    let matching = found.filter(|other| {
        other.kind == "veth" && other.peer == Some(link.ifindex) && other.peer_netns_id == Some(netns_id)
    });
    Ok(matching.map(|other| HostEnd { name: other.name, ifindex: other.ifindex }))
}
