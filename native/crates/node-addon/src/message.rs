//! One packet with descriptors: `sendmsg` and `recvmsg` with SCM_RIGHTS (unix(7)).
//!
//! Written on libc because the receiver must be able to close what it was given even when the control
//! data was cut short, which nix reports as an error without the descriptors.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// More descriptors than any protocol of ours sends in a packet; further ones make it an error.
pub(crate) const MAX_DESCRIPTORS: usize = 16;

/// Room for the descriptors and for SCM_CREDENTIALS, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

// SAFETY: CMSG_SPACE is arithmetic on its argument.
const CONTROL_BYTES: usize = unsafe {
    libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<i32>()) as u32)
        + libc::CMSG_SPACE(size_of::<libc::ucred>() as u32)
} as usize;

/// What one `recvmsg` brought.
#[derive(Debug)]
pub(crate) enum Received {
    Packet {
        data: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    },
    /// The packet or its control data did not fit; its descriptors have been closed.
    Truncated {
        what: &'static str,
    },
    Closed,
}

/// Makes the kernel attach credentials to every packet received: an empty packet can then be told from
/// the end of the connection, for both of which `recvmsg` returns 0.
pub(crate) fn pass_credentials(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a live c_int of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends one packet. Copies of the descriptors arrive with it; these stay open.
pub(crate) fn send(socket: &OwnedFd, data: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: an all-zero msghdr is valid: no name, no parts, no control data.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let bytes = descriptors.len().min(MAX_DESCRIPTORS) * size_of::<i32>();
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: `control` has room for MAX_DESCRIPTORS, so the first header and its data lie within.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(bytes as u32) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(bytes as u32) as usize;
            let slots = libc::CMSG_DATA(first).cast::<i32>();
            for (index, descriptor) in descriptors.iter().take(MAX_DESCRIPTORS).enumerate() {
                slots.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: header points at `part` and `control`, both alive for the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives one packet of at most `max_bytes`.
pub(crate) fn receive(socket: &OwnedFd, max_bytes: usize) -> io::Result<Received> {
    let mut data = vec![0_u8; max_bytes];
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    let received = loop {
        // SAFETY: header points at `data` and `control`, both alive and writable for the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if received >= 0 {
            break received as usize;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // The peer closed with packets of ours unread.
            Some(libc::ECONNRESET) => return Ok(Received::Closed),
            _ => return Err(error),
        }
    };
    // Taken first, so that every way out closes what is not handed on.
    let (descriptors, credentials) = take_control(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Ok(Received::Truncated { what: "has more descriptors than are accepted" });
    }
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Ok(Received::Truncated { what: "is longer than asked for" });
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        return Ok(Received::Truncated { what: "has more descriptors than are accepted" });
    }
    if received == 0 && !credentials {
        return Ok(Received::Closed);
    }
    data.truncate(received);
    Ok(Received::Packet { data, descriptors })
}

/// The descriptors that came, and whether credentials did.
fn take_control(header: &libc::msghdr) -> (Vec<OwnedFd>, bool) {
    let mut descriptors = Vec::new();
    let mut credentials = false;
    // SAFETY: recvmsg filled the control buffer and its length; the macros stay inside it. Each number
    // in an SCM_RIGHTS message is a descriptor that the kernel has just made for us.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while !next.is_null() {
            if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*next).cmsg_len).saturating_sub(libc::CMSG_LEN(0) as usize);
                let slots = libc::CMSG_DATA(next).cast::<i32>();
                for index in 0..bytes / size_of::<i32>() {
                    descriptors.push(OwnedFd::from_raw_fd(slots.add(index).read_unaligned()));
                }
            } else if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_CREDENTIALS {
                credentials = true;
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    (descriptors, credentials)
}
