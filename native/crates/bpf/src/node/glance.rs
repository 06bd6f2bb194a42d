//! The short look, for all pods together every few seconds: whether links are as the last close look found them.
//! It goes by the kernel's numbers of links and programs, so it opens no pin and enters no namespace: some
//! microseconds for each pod.

use super::Node;
use crate::sys::{self, Attach, LinkInfo};
use crate::wanted::{Spot, Wanted};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{MutexGuard, PoisonError};

/// A link as it was, and where its program has to be the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeenLink {
    info: LinkInfo,
    /// At the host's end. What runs before a guard inside the pod, only a close look tells.
    first_at: Option<(u32, Attach)>,
}

/// What the last close look at a pod found, where all was as it is to be.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) links: Vec<SeenLink>,
    pub(super) netns_cookie: u64,
    /// Some links were not made yet (settling.rs), and are not among these.
    pub(super) partial: bool,
}

impl SeenLink {
    pub(super) fn new(link: &Wanted, info: LinkInfo) -> Self {
        let first_at = match link.spot {
            Spot::Host(ifindex) if link.is_guard() => Some((ifindex, link.attach)),
            _ => None,
        };
        Self { info, first_at }
    }

    fn holds(&self) -> io::Result<bool> {
        let link = match sys::link_by_id(self.info.id) {
            Ok(link) => link,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            Err(error) => return Err(error),
        };
        if sys::link_info(link.as_fd())? != self.info {
            return Ok(false);
        }
        match self.first_at {
            Some((ifindex, attach)) => Ok(sys::first_program(ifindex, attach)? == Some(self.info.program)),
            None => Ok(true),
        }
    }
}

impl Node {
    /// Those of the pods that are to be looked at closely (`verify`): something differs from what the last such look
    /// found, or cannot be seen, or nobody has looked since it was attached.
    pub fn glance(&self, inodes: &[u64]) -> Vec<u64> {
        inodes.iter().copied().filter(|inode| !self.is_as_seen(*inode)).collect()
    }

    fn is_as_seen(&self, inode: u64) -> bool {
        let Some(seen) = self.seen().get(&inode).cloned() else { return false };
        // Nobody makes the other links any more, and what stands in for them is not looked at here.
        if seen.partial && !self.is_unsettled(inode) {
            return false;
        }
        seen.links.iter().all(|link| link.holds().unwrap_or(false))
            && self.settings_stand(inode, seen.netns_cookie)
    }

    /// In every place where the programs look them up.
    fn settings_stand(&self, inode: u64, netns_cookie: u64) -> bool {
        let places = self.places().get(&inode).map_or(0, Vec::len);
        self.known(inode).is_ok_and(|known| {
            known.len() == places && known.iter().all(|(_, settings)| settings.netns_cookie == netns_cookie)
        })
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, HashMap<u64, Seen>> {
        // Every change of it is one step.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
