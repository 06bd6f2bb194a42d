//! The links that a pod is to have, and how one is made, kept or replaced.

use crate::bpffs;
use crate::error::{BpfError, failed};
use crate::inside::inside;
use crate::interfaces::{Interface, Survey};
use crate::sys::{self, Attach, LinkInfo, Order, Tag};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spot {
    /// An interface of the host's namespace.
    Host(u32),
    /// An interface of the pod's.
    Pod(u32),
    /// The pod's namespace.
    Namespace,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its pin in the pod's directory.
    pub(crate) pin: String,
    pub(crate) program: &'static str,
    pub(crate) spot: Spot,
    pub(crate) attach: Attach,
    /// Of the interface.
    pub(crate) ethernet: bool,
}

/// The guard's links, and what makes the pod's redirection of any mode leave alone what the guard exempts. At
/// the host's end, what enters there comes from the pod; on the pod's own interface it is the other way round.
pub(crate) fn guard(survey: &Survey) -> Vec<Wanted> {
    survey.interfaces.iter().flat_map(guard_of).collect()
}

pub(crate) fn guard_of(interface: &Interface) -> [Wanted; 3] {
    let (spot, from_pod, to_pod) = match &interface.host {
        Some(end) => (Spot::Host(end.ifindex), Attach::TcxIngress, Attach::TcxEgress),
        None => (Spot::Pod(interface.ifindex), Attach::TcxEgress, Attach::TcxIngress),
    };
    let wanted = |pin: &str, program, attach| Wanted {
        pin: format!("{pin}-{}", interface.ifindex),
        program,
        spot,
        attach,
        ethernet: interface.ethernet,
    };
    [
        wanted("guard_out", "guard_from_pod", from_pod),
        wanted("guard_in", "guard_to_pod", to_pod),
        Wanted {
            pin: format!("ingress-{}", interface.ifindex),
            program: "pod_ingress",
            spot: Spot::Pod(interface.ifindex),
            attach: Attach::TcxIngress,
            ethernet: interface.ethernet,
        },
    ]
}

/// Whether a pin is one of the redirection's links. Agents before this one had one at lo, too.
pub(crate) fn is_redirect_link(pin: &str) -> bool {
    matches!(pin, "loopback" | "redirect")
}

/// The redirection's links.
pub(crate) fn redirect() -> [Wanted; 1] {
    [Wanted {
        pin: "redirect".to_owned(),
        program: "redirect",
        spot: Spot::Namespace,
        attach: Attach::SkLookup,
        ethernet: true,
    }]
}

/// Detaches the link at `path` and removes its pin; either may be gone.
pub(crate) fn remove(path: &Path) -> Result<(), BpfError> {
    let action = || format!("detach {}", path.display());
    match sys::open_pinned(path) {
        // Else the kernel would do it a moment later, and a guard without its settings drops everything.
        Ok(link) => sys::link_detach(link.as_fd()).map_err(failed(action()))?,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        Err(error) => return Err(BpfError::system(action(), error)),
    }
    bpffs::unpin(path)
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Gone,
    Detached,
    Replaced,
    NotFirst,
}

impl Wanted {
    /// The phrase for people and metrics; constant for each kind of fault.
    pub(crate) fn phrase(&self, fault: Fault) -> &'static str {
        match (self.program, fault) {
            ("guard_from_pod" | "guard_to_pod", Fault::Gone) => "guard link gone",
            ("guard_from_pod" | "guard_to_pod", Fault::Detached) => "guard not attached",
            ("guard_from_pod" | "guard_to_pod", Fault::Replaced) => "guard program replaced",
            (_, Fault::NotFirst) => "another program runs before the guard",
            ("pod_ingress", Fault::Gone) => "ingress mark link gone",
            ("pod_ingress", Fault::Detached) => "ingress mark not attached",
            ("pod_ingress", Fault::Replaced) => "ingress mark program replaced",
            (_, Fault::Gone) => "redirect link gone",
            (_, Fault::Detached) => "redirect not attached",
            (_, Fault::Replaced) => "redirect program replaced",
        }
    }

    /// Whether it is one of the guard's programs.
    pub(crate) fn is_guard(&self) -> bool {
        matches!(self.program, "guard_from_pod" | "guard_to_pod")
    }

    fn order(&self) -> Order {
        // The guard has the first word; what looks at its flows comes after it.
        if self.is_guard() { Order::First } else { Order::Last }
    }

    /// Looks at the link as it is; `Err` where it is not as wanted.
    pub(crate) fn inspect(
        &self,
        directory: &Path,
        namespace: BorrowedFd<'_>,
        inode: u64,
        tag: Tag,
    ) -> Result<Result<(OwnedFd, LinkInfo), Fault>, BpfError> {
        let path = directory.join(&self.pin);
        let looking = || format!("look at link {}", path.display());
        let link = match sys::open_pinned(&path) {
            Ok(link) => link,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Err(Fault::Gone)),
            Err(error) => return Err(BpfError::system(looking(), error)),
        };
        let info = sys::link_info(link.as_fd()).map_err(failed(looking()))?;
        let target = match self.spot {
            Spot::Host(ifindex) | Spot::Pod(ifindex) => ifindex,
            Spot::Namespace => inode as u32,
        };
        if info.target != target {
            return Ok(Err(Fault::Detached));
        }
        let program = sys::prog_by_id(info.program).map_err(failed(looking()))?;
        if sys::prog_tag(program.as_fd()).map_err(failed(looking()))? != tag {
            return Ok(Err(Fault::Replaced));
        }
        if self.first(namespace)?.is_some_and(|first| first != info.program) {
            return Ok(Err(Fault::NotFirst));
        }
        Ok(Ok((link, info)))
    }

    /// The program that sees the spot's packets first; `None` where order has no meaning.
    fn first(&self, namespace: BorrowedFd<'_>) -> Result<Option<u32>, BpfError> {
        let asking = || failed(format!("ask for the programs around {}", self.pin));
        if self.order() == Order::Last {
            return Ok(None);
        }
        match self.spot {
            Spot::Host(ifindex) => sys::first_program(ifindex, self.attach).map_err(asking()),
            Spot::Pod(ifindex) => {
                inside(namespace, || sys::first_program(ifindex, self.attach).map_err(asking()))
            }
            Spot::Namespace => Ok(None),
        }
    }

    /// Puts `program` in force: by exchange within the link if that is there, else by a new one. At no time
    /// is there no program where there was one. The same program cannot be attached a second time while a
    /// former link with it is there, pinned or not: that is the error EEXIST.
    pub(crate) fn establish(
        &self,
        fault: Fault,
        directory: &Path,
        namespace: BorrowedFd<'_>,
        program: BorrowedFd<'_>,
    ) -> Result<(), BpfError> {
        let path = directory.join(&self.pin);
        let action = || format!("attach {} at {}", self.program, path.display());
        if fault == Fault::Replaced {
            let link = sys::open_pinned(&path).map_err(failed(action()))?;
            return sys::link_update(link.as_fd(), program).map_err(failed(action()));
        }
        // The former one, if any, stays attached until this descriptor is closed.
        let former = sys::open_pinned(&path).ok();
        let link = match self.spot {
            Spot::Host(ifindex) => {
                sys::link_tcx(program, ifindex, self.attach, self.order()).map_err(failed(action()))?
            }
            Spot::Pod(ifindex) => inside(namespace, || {
                sys::link_tcx(program, ifindex, self.attach, self.order()).map_err(failed(action()))
            })?,
            Spot::Namespace => sys::link_netns(program, namespace).map_err(failed(action()))?,
        };
        bpffs::unpin(&path)?;
        sys::pin(link.as_fd(), &path).map_err(failed(action()))?;
        drop(former);
        Ok(())
    }
}
