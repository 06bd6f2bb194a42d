//! A listening Unix socket that only its owner (and root) can use.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("{}: {step}: {source}", .path.display())]
    System { path: PathBuf, step: &'static str, source: io::Error },
    #[error("{}: others may write in its directory (mode {mode:o}); make it 0700", .path.display())]
    OpenDirectory { path: PathBuf, mode: u32 },
    #[error("{}: is no socket; remove it, or choose another path", .path.display())]
    NoSocket { path: PathBuf },
    #[error("{}: another process serves it; stop that first", .path.display())]
    InUse { path: PathBuf },
}

/// The listener, and the file that goes when it does.
#[derive(Debug)]
pub(super) struct OwnSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl OwnSocket {
    /// Makes the directory (0700) where it is missing, removes what a process that is gone left at the path, and
    /// listens with mode 0600. To be called inside of a runtime.
    ///
    /// # Errors
    /// [`SocketError`].
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed =
            |step: &'static str| move |source| SocketError::System { path: path.to_owned(), step, source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(failed("make its directory"))?;
            let mode = fs::metadata(directory).map_err(failed("look at its directory"))?.mode() & 0o7777;
            if mode & 0o022 != 0 {
                return Err(SocketError::OpenDirectory { path: path.to_owned(), mode });
            }
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed("bind"))?;
        // Until here the directory's mode and the peer check keep others out.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("set mode 0600"))?;
        let inode = fs::symlink_metadata(path).map_err(failed("look at it"))?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        // A successor may have put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::System { path: path.to_owned(), step: "look at it", source });
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| SocketError::System {
                path: path.to_owned(),
                step: "remove the old one",
                source,
            })
        }
        Err(source) => Err(SocketError::System { path: path.to_owned(), step: "ask the old one", source }),
    }
}
