//! Walks over the sockets of a pod's namespace.

use crate::error::{BpfError, failed};
use crate::inside::inside;
use crate::sys;
use crate::template::Programs;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The iterators, ready to run in any namespace.
#[derive(Debug)]
pub(crate) struct Walk {
    exempt_present: OwnedFd,
    exempt_late: OwnedFd,
    mark_carried: OwnedFd,
}

impl Walk {
    pub(crate) fn new(programs: &Programs) -> Result<Self, BpfError> {
        let link = |name: &str| {
            sys::link_iter(programs.get(name)?).map_err(failed(format!("attach the iterator {name}")))
        };
        Ok(Self {
            exempt_present: link("exempt_present")?,
            exempt_late: link("exempt_late")?,
            mark_carried: link("mark_carried")?,
        })
    }

    /// Vouches for every connection that there is, opening ones as well. Returns how many.
    pub(crate) fn exempt_present(&self, namespace: BorrowedFd<'_>) -> Result<usize, BpfError> {
        run(&self.exempt_present, namespace)
    }

    /// Vouches for established connections.
    pub(crate) fn exempt_late(&self, namespace: BorrowedFd<'_>) -> Result<usize, BpfError> {
        run(&self.exempt_late, namespace)
    }

    /// Marks the application's sockets whose connections pass the proxy.
    pub(crate) fn mark_carried(&self, namespace: BorrowedFd<'_>) -> Result<usize, BpfError> {
        run(&self.mark_carried, namespace)
    }
}

/// Each socket that was marked gives one byte.
fn run(link: &OwnedFd, namespace: BorrowedFd<'_>) -> Result<usize, BpfError> {
    inside(namespace, || {
        let walking = || failed("walk over the pod's sockets");
        let mut output = File::from(sys::iter_create(link.as_fd()).map_err(walking())?);
        let mut bytes = [0_u8; 4096];
        let mut marked = 0;
        loop {
            match output.read(&mut bytes).map_err(walking())? {
                0 => return Ok(marked),
                count => marked += count,
            }
        }
    })
}
