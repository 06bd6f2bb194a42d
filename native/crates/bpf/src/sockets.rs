//! The data plane's part: vouching for its sockets.
//!
//! The guard passes TCP of registered sockets only. What a registered listener accepts is registered by the
//! kernel. The registration goes with the socket.

use crate::abi::{LISTENERS_PER_FAMILY, ListenerRole, ROLE_PROXY, SOCKETS, SocketTag};
use crate::error::{BpfError, failed};
use crate::pins;
use crate::sys::{self, Map};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The node's registered sockets, as pinned by the agent. Who can write here can pass the guard.
#[derive(Debug)]
pub struct Sockets {
    directory: PathBuf,
    map: Map<u32, SocketTag>,
}

impl Sockets {
    /// Opens what the agent has pinned below `directory` (its `--bpf-dir`).
    ///
    /// # Errors
    /// When the agent has not made it yet, or the process may not open it.
    pub fn open(directory: &Path) -> Result<Self, BpfError> {
        let path = directory.join(SOCKETS);
        let map =
            Map::open(&path).map_err(failed(format!("open the registered sockets {}", path.display())))?;
        Ok(Self { directory: directory.to_owned(), map })
    }

    /// Registers a TCP socket. Before listen() or connect(): what is sent earlier is dropped.
    pub fn register(&self, socket: &impl AsFd) -> Result<(), BpfError> {
        let key = socket.as_fd().as_raw_fd() as u32;
        self.map
            .set(&key, &SocketTag { role: ROLE_PROXY })
            .map_err(failed("register a socket with the guard"))
    }

    /// Where a pod's redirection looks for its listeners; `None` if it has no redirection by BPF.
    pub fn listeners(&self, netns_inode: u64) -> Result<Option<PodListeners>, BpfError> {
        let path = pins::pod_directory(&self.directory, netns_inode).join(pins::LISTENERS);
        match sys::open_pinned(&path) {
            Ok(map) => Ok(Some(PodListeners { map })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => {
                Err(BpfError::system(format!("open the pod's listeners {}", path.display()), error))
            }
        }
    }
}

/// A pod's redirection.
#[derive(Debug)]
pub struct PodListeners {
    map: OwnedFd,
}

impl PodListeners {
    /// Has new connections brought to a listening socket. Its slot is emptied by the kernel when it is closed.
    pub fn set(&self, role: ListenerRole, ipv6: bool, listener: &impl AsFd) -> Result<(), BpfError> {
        let slot = role as u32 + if ipv6 { LISTENERS_PER_FAMILY } else { 0 };
        let socket = listener.as_fd().as_raw_fd() as u64;
        sys::map_update(self.map.as_fd(), &slot.to_ne_bytes(), &socket.to_ne_bytes(), 0)
            .map_err(failed(format!("give the pod's redirection its listener {role:?} (IPv6: {ipv6})")))
    }
}
