//! The agent's side of `keys.sock`, as the data plane sees it: one connection and one exchange per call.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use meltemi_types::meltemi::key_request::Payload;
use meltemi_types::meltemi::{Deposit, KeyRequest, KeyResponse, Withdraw};
use prost::Message as _;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with, sockopt, sockopt::Timeout,
};
use rustix::process::geteuid;

use super::SealedError;

/// For connecting, for sending and for the answer, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
const MOST_ANSWER_BYTES: usize = 4_096;

type Answer = (KeyResponse, Option<OwnedFd>);

/// The node agent, keeping a descriptor that it does not read.
#[derive(Clone, Debug)]
pub struct KeyKeeper {
    path: PathBuf,
}

impl KeyKeeper {
    /// `path`: the agent's `keys.sock`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Hands a descriptor over; it replaces the one kept before.
    ///
    /// # Errors
    /// `WrongPeer`, `Agent`, `System`.
    pub async fn deposit(&self, descriptor: OwnedFd) -> Result<(), SealedError> {
        self.exchange(Payload::Deposit(Deposit {}), Some(descriptor)).await.map(|_| ())
    }

    /// The descriptor deposited last, if the agent has one.
    ///
    /// # Errors
    /// `WrongPeer`, `Agent`, `System`.
    pub async fn withdraw(&self) -> Result<Option<OwnedFd>, SealedError> {
        match self.exchange(Payload::Withdraw(Withdraw {}), None).await? {
            (KeyResponse { found: true, .. }, None) => {
                Err(self.agent("it says that it has a descriptor, and sends none"))
            }
            (KeyResponse { found, .. }, descriptor) => Ok(descriptor.filter(|_| found)),
        }
    }

    fn agent(&self, problem: impl ToString) -> SealedError {
        SealedError::Agent { path: self.path.display().to_string(), problem: problem.to_string() }
    }

    /// Rare and short: on a blocking thread, with the kernel's timeouts.
    async fn exchange(&self, payload: Payload, descriptor: Option<OwnedFd>) -> Result<Answer, SealedError> {
        let keeper = self.clone();
        let talk = move || keeper.talk(payload, descriptor.as_ref());
        match tokio::task::spawn_blocking(talk).await {
            Ok(answer) => answer,
            Err(error) => Err(self.agent(error)),
        }
    }

    fn talk(&self, payload: Payload, descriptor: Option<&OwnedFd>) -> Result<Answer, SealedError> {
        let socket = self.connect()?;
        let request = KeyRequest { payload: Some(payload) }.encode_to_vec();
        send(&socket, &request, descriptor.map(OwnedFd::as_fd)).map_err(|errno| self.agent(errno))?;
        let (bytes, received) = receive(&socket).map_err(|error| self.agent(error))?;
        // The agent sends no empty packet: an answer with nothing in it names its empty error.
        if bytes.is_empty() {
            return Err(self.agent("closed without an answer"));
        }
        let answer = KeyResponse::decode(bytes.as_slice()).map_err(|error| self.agent(error))?;
        if answer.error.is_empty() { Ok((answer, received)) } else { Err(self.agent(&answer.error)) }
    }

    fn connect(&self) -> Result<OwnedFd, SealedError> {
        let address = SocketAddrUnix::new(&self.path).map_err(SealedError::system("socket path"))?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(SealedError::system("socket"))?;
        for direction in [Timeout::Send, Timeout::Recv] {
            sockopt::set_socket_timeout(&socket, direction, Some(STEP_TIMEOUT))
                .map_err(SealedError::system("SO_SNDTIMEO, SO_RCVTIMEO"))?;
        }
        connect(&socket, &address).map_err(|errno| self.agent(errno))?;
        let peer = sockopt::socket_peercred(&socket).map_err(SealedError::system("SO_PEERCRED"))?;
        if peer.uid != geteuid() && !peer.uid.is_root() {
            return Err(SealedError::WrongPeer {
                path: self.path.display().to_string(),
                uid: peer.uid.as_raw(),
            });
        }
        Ok(socket)
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(|_| ())
}

fn receive(socket: &OwnedFd) -> std::io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; MOST_ANSWER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            // At most one has room; what would follow is closed by being dropped.
            for owned in received {
                descriptor.get_or_insert(owned);
            }
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "the answer is longer than a key response, or carries several descriptors",
        ));
    }
    bytes.truncate(message.bytes);
    Ok((bytes, descriptor))
}
