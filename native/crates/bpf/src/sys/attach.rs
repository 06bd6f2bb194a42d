//! Links, pins, and what they say of themselves.

use super::load::Attach;
use super::{Object, c_path, command, descriptor, info};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

const OBJ_PIN: libc::c_int = 6;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const ITER_CREATE: libc::c_int = 33;
const LINK_DETACH: libc::c_int = 34;

/// Where among the programs that are attached to an interface at the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Order {
    /// BPF_F_BEFORE
    First = 1 << 3,
    /// BPF_F_AFTER
    Last = 1 << 4,
}

const LINK_TYPE_NETNS: u32 = 5;
const LINK_TYPE_TCX: u32 = 11;

pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let fd = object.as_raw_fd() as u32;
    command(OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    relative: u32,
    zero: u32,
    revision: u64,
}

fn link(program: BorrowedFd<'_>, target: u32, attach: Attach, flags: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    let attach = attach as u32;
    let mut attributes = LinkCreate { program, target, attach, flags, relative: 0, zero: 0, revision: 0 };
    descriptor(LINK_CREATE, &mut attributes)
}

/// Attaches to an interface of the calling thread's network namespace.
pub(crate) fn link_tcx(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach: Attach,
    order: Order,
) -> io::Result<OwnedFd> {
    link(program, ifindex, attach, order as u32)
}

pub(crate) fn link_netns(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link(program, namespace.as_raw_fd() as u32, Attach::SkLookup, 0)
}

pub(crate) fn link_iter(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link(program, 0, Attach::Iter, 0)
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts another program in a link's place: every packet meets the old one or the new one.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let [link, program] = [link, program].map(|fd| fd.as_raw_fd() as u32);
    command(LINK_UPDATE, &mut LinkUpdate { link, program, flags: 0, old_program: 0 }).map(drop)
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}

/// Takes a link from where it is attached, at once; it stays as an object until nobody holds it. What it was
/// attached to may be gone already.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    command(LINK_DETACH, &mut LinkDetach { link: link.as_raw_fd() as u32 }).map(drop)
}

#[repr(C)]
struct IterCreate {
    link: u32,
    flags: u32,
}

/// A descriptor to read the iterator's output from, over the calling thread's network namespace.
pub(crate) fn iter_create(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    descriptor(ITER_CREATE, &mut IterCreate { link: link.as_raw_fd() as u32, flags: 0 })
}

/// The beginning of `struct bpf_link_info`, with room for the rest.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    zero: u32,
    target: u32,
    attach: u32,
    rest: [u64; 16],
}

/// What a link says of itself. `target`: an interface's index, a namespace's inode; 0 where it is gone or
/// the link was detached from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) id: u32,
    pub(crate) program: u32,
    pub(crate) target: u32,
}

pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut raw = RawLinkInfo::default();
    info(link, &mut raw)?;
    match raw.link_type {
        LINK_TYPE_NETNS | LINK_TYPE_TCX => {
            Ok(LinkInfo { id: raw.id, program: raw.program, target: raw.target })
        }
        other => Err(io::Error::other(format!("a link of another type ({other})"))),
    }
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct RawProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
}

/// What tells one version of a program from another: the kernel's digest of its instructions.
pub(crate) type Tag = [u8; 8];

pub(crate) fn prog_tag(program: BorrowedFd<'_>) -> io::Result<Tag> {
    let mut raw = RawProgInfo::default();
    info(program, &mut raw)?;
    Ok(raw.tag)
}

#[repr(C)]
struct GetById {
    id: u32,
    next: u32,
    flags: u32,
}

pub(crate) fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    descriptor(PROG_GET_FD_BY_ID, &mut GetById { id, next: 0, flags: 0 })
}

/// Opens a link by the kernel's number of it.
pub(crate) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    descriptor(LINK_GET_FD_BY_ID, &mut GetById { id, next: 0, flags: 0 })
}

#[repr(C)]
struct Query {
    target: u32,
    attach: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    zero: u32,
    attach_flags_of: u64,
    links: u64,
    link_attach_flags_of: u64,
    revision: u64,
}

/// The program that sees a packet first at an interface of the calling thread's network namespace.
pub(crate) fn first_program(ifindex: u32, attach: Attach) -> io::Result<Option<u32>> {
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: ifindex,
        attach: attach as u32,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        zero: 0,
        attach_flags_of: 0,
        links: 0,
        link_attach_flags_of: 0,
        revision: 0,
    };
    match command(PROG_QUERY, &mut query) {
        Ok(_) => Ok((query.count > 0).then_some(ids[0])),
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// SO_NETNS_COOKIE: a number that the socket's namespace has to itself for as long as the kernel runs.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`, to where that is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
