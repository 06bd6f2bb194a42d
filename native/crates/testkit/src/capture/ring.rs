//! A packet socket with a ring of blocks shared with the kernel (TPACKET_V3, packet(7)).
//!
//! A ring, because its size is not bounded by net.core.rmem_max: an ordinary user in a user namespace
//! cannot raise that, and a capture that drops packets proves nothing.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::packet::Captured;

const BLOCK_BYTES: usize = 1 << 20;
const ARPHRD_LOOPBACK: u16 = 772;

/// Since the socket was opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statistics {
    pub(super) packets: u32,
    pub(super) drops: u32,
}

#[derive(Debug)]
pub(super) struct Ring {
    socket: OwnedFd,
    memory: NonNull<u8>,
    blocks: usize,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and may be read from any thread.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn open(interface: &str, buffer_mib: u32, retire_ms: u32) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        // Protocol 0: nothing arrives before the ring is there.
        // SAFETY: socket takes three integers; the result is checked and new.
        let socket = unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(socket)
        };
        let version: libc::c_int = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(&socket, libc::PACKET_VERSION, &version)?;
        let blocks = (buffer_mib.clamp(1, 1024) as usize * (1 << 20)) / BLOCK_BYTES;
        let frame_bytes = 2048;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: frame_bytes as u32,
            tp_frame_nr: (blocks * BLOCK_BYTES / frame_bytes) as u32,
            tp_retire_blk_tov: retire_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new shared mapping of the ring just asked for, at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                blocks * BLOCK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory =
            NonNull::new(memory.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let ring = Self { socket, memory, blocks, next: 0 };
        // SAFETY: an all-zero sockaddr_ll is valid, and lives through the call.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as i32;
            libc::bind(
                ring.socket.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ring)
    }

    /// Hands over the packets of the next block; `false` when none was ready within `wait`.
    pub(super) fn next_block(
        &mut self,
        wait: Duration,
        mut take: impl FnMut(Captured<'_>) -> io::Result<()>,
    ) -> io::Result<bool> {
        // SAFETY: `next` is below `blocks`, so the descriptor lies within the mapping, aligned to a page.
        let block = unsafe { self.memory.as_ptr().add(self.next * BLOCK_BYTES) };
        let head = block.cast::<libc::tpacket_block_desc>();
        // SAFETY: block_status is a u32 that the kernel and we write in turn; only atomics touch it.
        let status = unsafe { AtomicU32::from_ptr(&raw mut (*head).hdr.bh1.block_status) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            self.poll(wait)?;
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return Ok(false);
            }
        }
        // SAFETY: the block is ours until its status is given back; the kernel has written every header
        // and every offset in it, and all of them stay within the block.
        let outcome = unsafe {
            let count = (*head).hdr.bh1.num_pkts;
            let mut offset = (*head).hdr.bh1.offset_to_first_pkt as usize;
            let mut outcome = Ok(());
            for _ in 0..count {
                let header = block.add(offset).cast::<libc::tpacket3_hdr>();
                // The address follows the header, 16-byte aligned (TPACKET_ALIGN).
                let address = block
                    .add(offset + size_of::<libc::tpacket3_hdr>().next_multiple_of(16))
                    .cast::<libc::sockaddr_ll>();
                // Loopback shows each packet as it leaves and as it arrives.
                let doubled = (*address).sll_hatype == ARPHRD_LOOPBACK
                    && (*address).sll_pkttype == libc::PACKET_OUTGOING;
                if !doubled && outcome.is_ok() {
                    let start = block.add(offset + usize::from((*header).tp_mac));
                    outcome = take(Captured {
                        seconds: (*header).tp_sec,
                        nanoseconds: (*header).tp_nsec,
                        wire_bytes: (*header).tp_len,
                        data: std::slice::from_raw_parts(start, (*header).tp_snaplen as usize),
                    });
                }
                offset += (*header).tp_next_offset as usize;
            }
            outcome
        };
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.blocks;
        outcome.map(|()| true)
    }

    pub(super) fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: an all-zero tpacket_stats_v3 is valid; the kernel writes at most its size.
        unsafe {
            let mut found: libc::tpacket_stats_v3 = zeroed();
            let mut size = size_of_val(&found) as libc::socklen_t;
            let result = libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut found).cast(),
                &raw mut size,
            );
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Statistics { packets: found.tp_packets, drops: found.tp_drops })
        }
    }

    fn poll(&self, wait: Duration) -> io::Result<()> {
        let mut waited = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, alive through the call.
        let result = unsafe { libc::poll(&raw mut waited, 1, wait.as_millis() as libc::c_int) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if waited.revents & libc::POLLERR != 0 {
            return Err(io::Error::other("the interface has gone down"));
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, and no reference into it outlives a call.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.blocks * BLOCK_BYTES) };
    }
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is alive and of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
