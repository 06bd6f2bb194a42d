//! Directories on a BPF file system: where what is pinned outlives the process.

use crate::error::{BpfError, failed};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, statfs};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// BPF_FS_MAGIC of linux/magic.h.
const BPFFS: FsType = FsType(0xcafe_4a11);

pub(crate) fn is_bpffs(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| found.filesystem_type() == BPFFS)
}

/// Makes `directory`, below a BPF file system where there is one, else with one mounted upon it.
pub(crate) fn prepare(directory: &Path) -> Result<(), BpfError> {
    if !directory.is_absolute() {
        return Err(BpfError::NotBpffs(directory.to_owned()));
    }
    make_directories(directory)?;
    if is_bpffs(directory) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), directory, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| {
        BpfError::system(format!("mount a BPF file system at {}", directory.display()), errno)
    })
}

/// The opposite of [`prepare`]: the empty directory goes, or the file system that was mounted upon it.
pub(crate) fn dispose(directory: &Path) -> Result<(), BpfError> {
    let action = || format!("remove {}", directory.display());
    if !is_mount_point(directory).map_err(failed(action()))? {
        return remove_if_there(fs::remove_dir(directory)).map_err(failed(action()));
    }
    // At once where nobody looks, else when the last one has looked away.
    umount2(directory, MntFlags::MNT_DETACH).map_err(|errno| BpfError::system(action(), errno))
}

fn is_mount_point(directory: &Path) -> io::Result<bool> {
    let Some(parent) = directory.parent() else { return Ok(true) };
    Ok(fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev())
}

pub(crate) fn make_directories(directory: &Path) -> Result<(), BpfError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed(format!("make the directory {}", directory.display())))
}

/// Removes a pin; that it is not there is what was wanted.
pub(crate) fn unpin(path: &Path) -> Result<(), BpfError> {
    remove_if_there(fs::remove_file(path)).map_err(failed(format!("remove {}", path.display())))
}

pub(crate) fn remove_directory(path: &Path) -> Result<(), BpfError> {
    remove_if_there(fs::remove_dir(path)).map_err(failed(format!("remove {}", path.display())))
}

fn remove_if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names in a directory; none where it is not there.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, BpfError> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    let collect = |entries: fs::ReadDir| -> io::Result<Vec<String>> {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    listed.and_then(collect).map_err(failed(format!("list {}", directory.display())))
}
