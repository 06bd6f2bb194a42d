//! Binding a Unix socket at a path: with its mode from the first moment, and in the place of a stale
//! file but never of a served one.
//!
//! The socket is bound inside a fresh 0700 directory beside its final place, gets its mode there, and
//! is renamed into place once it listens: nobody can connect before the mode is right, and a client
//! never sees a moment without a socket. Two starters are kept apart by a lock on the parent directory.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::error::AddonError;

const BACKLOG: i32 = 128;
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// A listening socket and the file that stands for it. `remove` takes the file away unless another
/// process has put its own there meanwhile.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl BoundPath {
    pub(crate) fn remove(&self) {
        let Ok(found) = fs::symlink_metadata(&self.path) else { return };
        if found.dev() == self.device && found.ino() == self.inode {
            // Nothing can be done about a failure, and a stale file is replaced at the next bind.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds and listens. `mode` is the permission bits of the socket file.
pub(crate) fn listen_at(path: &str, mode: u32, kind: SockType) -> Result<(OwnedFd, BoundPath), AddonError> {
    let place = checked(path)?;
    if mode & !0o777 != 0 {
        return Err(AddonError::BadArgument(format!(
            "bind {path}: mode {mode:o} has more than permission bits"
        )));
    }
    let action = || format!("bind {path}");
    let parent = match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let _lock = lock(&parent, path)?;
    make_room(&place, path, kind)?;

    let staging = Staging::new(&parent).map_err(|error| AddonError::system(action(), error))?;
    let staged = staging.0.join("s");
    let bound = unix_socket(kind).map_err(|error| AddonError::system(action(), error))?;
    // Reached through the directory's descriptor, so that the staged path may be longer than sun_path.
    let directory = fs::File::open(&staging.0).map_err(|error| AddonError::system(action(), error))?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/s", directory.as_raw_fd()).as_str())
        .map_err(|error| AddonError::system(action(), error))?;
    bind(bound.as_raw_fd(), &address).map_err(|error| AddonError::system(action(), error))?;
    fs::set_permissions(&staged, fs::Permissions::from_mode(mode))
        .map_err(|error| AddonError::system(action(), error))?;
    let backlog = Backlog::new(BACKLOG).map_err(|error| AddonError::system(action(), error))?;
    listen(&bound, backlog).map_err(|error| AddonError::system(action(), error))?;
    let identity = fs::symlink_metadata(&staged).map_err(|error| AddonError::system(action(), error))?;
    fs::rename(&staged, &place).map_err(|error| AddonError::system(action(), error))?;
    Ok((bound, BoundPath { path: place, device: identity.dev(), inode: identity.ino() }))
}

/// A path that fits `sockaddr_un` for those who will connect to it.
pub(crate) fn checked(path: &str) -> Result<PathBuf, AddonError> {
    if path.is_empty() || path.contains('\0') {
        return Err(AddonError::BadArgument(format!("{path:?} is no path of a socket")));
    }
    if path.len() > 107 {
        return Err(AddonError::PathTooLong { path: path.to_owned() });
    }
    Ok(PathBuf::from(path))
}

/// A non-blocking, close-on-exec Unix socket.
pub(crate) fn unix_socket(kind: SockType) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// Fails when the place is taken by something alive; leaves a stale socket for the rename to replace.
fn make_room(place: &Path, path: &str, kind: SockType) -> Result<(), AddonError> {
    let found = match fs::symlink_metadata(place) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(AddonError::system(format!("bind {path}"), error)),
    };
    if !found.file_type().is_socket() {
        return Err(AddonError::NotASocket { path: path.to_owned() });
    }
    let probe = unix_socket(kind).map_err(|error| AddonError::system(format!("bind {path}"), error))?;
    let address = UnixAddr::new(place).map_err(|error| AddonError::system(format!("bind {path}"), error))?;
    match connect(probe.as_raw_fd(), &address) {
        // Only a refusal proves that nobody listens; a full backlog (EAGAIN) or another socket type
        // (EPROTOTYPE) proves the contrary.
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(AddonError::Served { path: path.to_owned() }),
        Err(error) => Err(AddonError::system(format!("bind {path}: ask whether it is served"), error)),
    }
}

/// Holds the parent directory's lock while a socket is put into place.
fn lock(parent: &Path, path: &str) -> Result<Flock<fs::File>, AddonError> {
    let mut directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(parent)
        .map_err(|error| AddonError::system(format!("bind {path}"), error))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((returned, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < deadline => {
                directory = returned;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((_, error)) => {
                return Err(AddonError::system(format!("bind {path}: lock {}", parent.display()), error));
            }
        }
    }
}

/// A directory of our own for the time of a bind; removed whatever happens.
struct Staging(PathBuf);

impl Staging {
    fn new(parent: &Path) -> std::io::Result<Self> {
        // SAFETY: getpid has no preconditions.
        let pid = unsafe { libc::getpid() };
        for attempt in 0..1000_u32 {
            let place = parent.join(format!(".bind-{pid}-{attempt}"));
            match fs::DirBuilder::new().mode(0o700).create(&place) {
                Ok(()) => return Ok(Self(place)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
        }
        Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

/// `path` as a C string; a NUL inside is the caller's mistake.
pub(crate) fn c_path(path: &str) -> Result<CString, AddonError> {
    CString::new(Path::new(path).as_os_str().as_bytes())
        .map_err(|_| AddonError::BadArgument(format!("{path:?} has a NUL byte")))
}

/// The raw number of anything that has a descriptor, for calls that nix has no safe form of.
pub(crate) fn raw(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}
