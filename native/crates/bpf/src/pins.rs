//! Names below the node's directory: `sockets-1` and the other maps, and `pods/INODE/` with what is
//! attached to one pod.

use std::path::{Path, PathBuf};

/// The map in which the data plane leaves a pod's listeners.
pub(crate) const LISTENERS: &str = "listeners";

pub(crate) fn pods_directory(directory: &Path) -> PathBuf {
    directory.join("pods")
}

pub(crate) fn pod_directory(directory: &Path, netns_inode: u64) -> PathBuf {
    pods_directory(directory).join(netns_inode.to_string())
}
