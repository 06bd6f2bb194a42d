//! The older hook for programs at an interface: a `clsact` queueing discipline with filters. Attaching there costs
//! microseconds, where a TCX link waits some milliseconds for all processors with the kernel's network lock held
//! (docs/adr/0031). What is attached here belongs to nobody, and runs after all TCX programs: a pod's programs
//! are here only until their links are made.
//!
//! Everything here is about the calling thread's network namespace.

use crate::netlink::{self, ACK, DUMP, attribute, attributes};
use crate::sys::Attach;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's answer is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// `struct tcmsg`.
const MESSAGE_BYTES: usize = 20;
const QDISC_HANDLE: u32 = 0xffff_0000;
const QDISC_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// The first of all, for every protocol (ETH_P_ALL, in network order).
const FIRST_OF_ALL: u32 = 1 << 16 | 0x0300;
const HANDLE: u32 = 1;
/// Of our filters' names.
const OURS: &str = "meltemi:";

/// A program to attach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    pub(crate) name: &'a str,
    pub(crate) attach: Attach,
    pub(crate) program: BorrowedFd<'a>,
}

/// A filter that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    /// The kernel's number; `None` for one that is no program.
    pub(crate) program: Option<u32>,
    pub(crate) ours: bool,
}

/// Attaches to an interface that has no such discipline; `false` where it has: that is somebody else's. All
/// of the filters are in force when this returns, or none is there.
pub(crate) fn attach(ifindex: u32, filters: &[Filter<'_>]) -> io::Result<bool> {
    let flags = ACK | NLM_F_CREATE | NLM_F_EXCL;
    match netlink::converse(RTM_NEWQDISC, flags, &discipline(ifindex)) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(false),
        Err(error) => return Err(error),
    }
    let added = filters.iter().try_for_each(|filter| add(ifindex, filter));
    if added.is_err() {
        // The first error is the one to tell of.
        let _ = netlink::converse(RTM_DELQDISC, ACK, &discipline(ifindex));
    }
    added.map(|()| true)
}

/// The filters at one of the interface's hooks, in the order in which they run.
pub(crate) fn filters(ifindex: u32, attach: Attach) -> io::Result<Vec<Present>> {
    let body = message(ifindex, 0, parent(attach), 0);
    let found = netlink::converse(RTM_GETTFILTER, DUMP, &body)?;
    Ok(found.iter().filter_map(|message| parse(message)).collect())
}

/// Removes our filters, and the discipline with them where nobody else has put filters there.
pub(crate) fn detach(ifindex: u32) -> io::Result<()> {
    let hooks = [Attach::TcxIngress, Attach::TcxEgress];
    let [inward, outward] = hooks.map(|attach| filters(ifindex, attach));
    let present = [inward?, outward?];
    let mut all = present.iter().flatten();
    if !all.clone().any(|filter| filter.ours) {
        return Ok(());
    }
    if all.all(|filter| filter.ours) {
        return gone(netlink::converse(RTM_DELQDISC, ACK, &discipline(ifindex)));
    }
    for (attach, present) in hooks.into_iter().zip(&present) {
        if present.iter().any(|filter| filter.ours) {
            let body = named(message(ifindex, HANDLE, parent(attach), FIRST_OF_ALL), b"bpf\0");
            gone(netlink::converse(RTM_DELTFILTER, ACK, &body))?;
        }
    }
    Ok(())
}

fn gone(result: io::Result<Vec<Vec<u8>>>) -> io::Result<()> {
    match result {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn add(ifindex: u32, filter: &Filter<'_>) -> io::Result<()> {
    let mut options = Vec::new();
    attribute(&mut options, TCA_BPF_FD, &(filter.program.as_raw_fd() as u32).to_ne_bytes());
    attribute(&mut options, TCA_BPF_NAME, format!("{OURS}{}\0", filter.name).as_bytes());
    attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    let mut body = named(message(ifindex, HANDLE, parent(filter.attach), FIRST_OF_ALL), b"bpf\0");
    attribute(&mut body, TCA_OPTIONS, &options);
    netlink::converse(RTM_NEWTFILTER, ACK | NLM_F_CREATE | NLM_F_EXCL, &body).map(drop)
}

/// `attach` as of a TCX program at the same place.
fn parent(attach: Attach) -> u32 {
    if attach == Attach::TcxEgress { EGRESS } else { INGRESS }
}

fn message(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0_u8; MESSAGE_BYTES];
    for (place, value) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        body[place..place + 4].copy_from_slice(&value.to_ne_bytes());
    }
    body
}

fn named(mut body: Vec<u8>, kind: &[u8]) -> Vec<u8> {
    attribute(&mut body, TCA_KIND, kind);
    body
}

fn discipline(ifindex: u32) -> Vec<u8> {
    named(message(ifindex, QDISC_HANDLE, QDISC_PARENT, 0), b"clsact\0")
}

/// `None` for the head of a list, which has no handle.
fn parse(message: &[u8]) -> Option<Present> {
    let number = |value: &[u8]| Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?));
    if number(message.get(8..)?)? == 0 {
        return None;
    }
    let mut present = Present { program: None, ours: false };
    for (kind, value) in attributes(message.get(MESSAGE_BYTES..)?) {
        if kind != TCA_OPTIONS {
            continue;
        }
        for (kind, value) in attributes(value) {
            match kind {
                TCA_BPF_ID => present.program = number(value),
                TCA_BPF_NAME => present.ours = value.starts_with(OURS.as_bytes()),
                _ => {}
            }
        }
    }
    Some(present)
}
