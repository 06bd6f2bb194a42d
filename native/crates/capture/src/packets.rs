//! A SOCK_SEQPACKET Unix socket whose packets may carry descriptors: how the agent hands over a pod's
//! network namespace.
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect,
    recvmsg, sendmsg, socket,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Descriptors that one packet may carry; the kernel drops what exceeds the space and says so.
const MAX_DESCRIPTORS: usize = 4;

#[derive(Debug)]
pub struct PacketSocket(AsyncFd<OwnedFd>);

/// One packet.
#[derive(Debug)]
pub struct Packet {
    pub length: usize,
    pub descriptors: Vec<OwnedFd>,
    /// The packet, or its descriptors, did not fit and were cut.
    pub truncated: bool,
}

impl PacketSocket {
    /// Connects to a listening socket. Needs a tokio runtime.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Self::from_fd(fd)
    }

    /// Takes a connected, non-blocking SEQPACKET socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the registration, so it is open for as long as that.
        let registered =
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// The next packet; `None` when the peer has closed. Cancel safe.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        let packet = self.0.async_io(Interest::READABLE, |fd| receive_now(fd, buffer)).await?;
        // A zero-length packet cannot be told from the end; nobody sends one.
        Ok((packet.length > 0).then_some(packet))
    }

    /// Sends one packet, whole or not at all.
    pub async fn send(&self, packet: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let sent = self
            .0
            .async_io(Interest::WRITABLE, |fd| {
                let rights = [ControlMessage::ScmRights(descriptors)];
                let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
                let parts = [IoSlice::new(packet)];
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                Ok(sendmsg::<UnixAddr>(fd.as_raw_fd(), &parts, control, flags, None)?)
            })
            .await?;
        if sent == packet.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

fn receive_now(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let cut = message.flags & (MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    let length = message.bytes;
    let mut descriptors = Vec::new();
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = item {
            descriptors.extend(received.into_iter().map(|raw| {
                // SAFETY: the kernel has just made this descriptor for this process, and nothing
                // else knows its number: this is its one owner.
                unsafe { OwnedFd::from_raw_fd(raw) }
            }));
        }
    }
    Ok(Packet { length, descriptors, truncated: !cut.is_empty() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;
    use std::os::fd::AsFd;

    fn pair() -> (PacketSocket, PacketSocket) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (PacketSocket::from_fd(a).unwrap(), PacketSocket::from_fd(b).unwrap())
    }

    #[tokio::test]
    async fn packets_arrive_whole_with_their_descriptors() {
        let (agent, proxy) = pair();
        let file = std::fs::File::open("/proc/self/ns/net").unwrap();
        agent.send(b"add", &[file.as_fd().as_raw_fd()]).await.unwrap();
        agent.send(b"snapshot", &[]).await.unwrap();
        let mut buffer = [0; 64];
        let first = proxy.receive(&mut buffer).await.unwrap().unwrap();
        assert_eq!((&buffer[..first.length], first.descriptors.len()), (&b"add"[..], 1));
        let second = proxy.receive(&mut buffer).await.unwrap().unwrap();
        assert_eq!((&buffer[..second.length], second.descriptors.len()), (&b"snapshot"[..], 0));
        drop(agent);
        assert!(proxy.receive(&mut buffer).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_packet_that_does_not_fit_says_so() {
        let (agent, proxy) = pair();
        agent.send(&[1; 100], &[]).await.unwrap();
        let mut buffer = [0; 10];
        assert!(proxy.receive(&mut buffer).await.unwrap().unwrap().truncated);
    }
}
