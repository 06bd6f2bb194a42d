//! Three commands of bpf(2).
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

const PROG_QUERY: libc::c_int = 16;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_DETACH: libc::c_int = 34;

/// More than anybody attaches to one interface.
const MOST_LINKS: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    Ingress = 46,
    Egress = 47,
}

/// The `query` part of `union bpf_attr`.
#[repr(C)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The links on an interface of this namespace, by number, in the order in which their programs run.
pub(super) fn links(interface: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MOST_LINKS];
    let mut links = [0_u32; MOST_LINKS];
    let mut query = Query {
        target_ifindex: interface,
        attach_type: direction as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: programs.as_mut_ptr() as u64,
        count: MOST_LINKS as u32,
        padding: 0,
        prog_attach_flags: 0,
        link_ids: links.as_mut_ptr() as u64,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: both arrays live through the call and hold `count` numbers.
    match unsafe { bpf(PROG_QUERY, &mut query) } {
        Ok(_) => Ok(links[..(query.count as usize).min(MOST_LINKS)].to_vec()),
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn detach(link: u32) -> io::Result<()> {
    let mut by_id = [link, 0, 0];
    // SAFETY: the attribute holds the link's number; what comes back is a new descriptor.
    let link = unsafe {
        let descriptor = bpf(LINK_GET_FD_BY_ID, &mut by_id)?;
        OwnedFd::from_raw_fd(descriptor)
    };
    let mut descriptor = [link.as_raw_fd()];
    // SAFETY: the attribute holds one descriptor, which is open.
    unsafe { bpf(LINK_DETACH, &mut descriptor) }.map(drop)
}

/// # Safety
/// `attribute` must be the beginning of `union bpf_attr` that this command reads, with valid pointers.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_int> {
    let size = size_of_val(attribute);
    // SAFETY: as the caller promises; the kernel reads and writes at most `size` bytes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attribute), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
