//! What can be said of a sandbox's network namespace from outside: that it is one, and which.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::environment::Environment;
use crate::failure::Failure;

/// The inode of the namespace at CNI_NETNS. A path that leads to none is the caller's mistake, and no "unknown
/// container" (code 3): that would tell the runtime that the plugins before us need no DEL.
pub(crate) fn inode(environment: &Environment, path: &Path) -> Result<u64, Failure> {
    let wrong = |problem: String| {
        Failure::environment("CNI_NETNS", format_args!("is \"{}\": {problem}", path.display()))
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let kind = fstatfs(&file).map_err(|error| wrong(error.to_string()))?.filesystem_type();
    if kind != NSFS_MAGIC {
        return Err(wrong("this is no namespace".to_owned()));
    }
    let inode = file.metadata().map_err(|error| wrong(error.to_string()))?.ino();
    if own_inode() == Some(inode) && !environment.netns_override() {
        return Err(wrong("this is the runtime's own namespace, not a pod's".to_owned()));
    }
    Ok(inode)
}

fn own_inode() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/net").ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;

    #[test]
    fn accepts_no_file_and_not_the_runtimes_own_namespace() {
        for (path, part) in [
            ("/nonexistent/netns", "No such file"),
            ("/proc/self/status", "no namespace"),
            ("/proc/self/ns/net", "the runtime's own"),
        ] {
            let failure = inode(&Environment::default(), Path::new(path)).expect_err(path);
            assert_eq!(failure.code, Code::Environment);
            assert!(
                failure.message.contains(part) && failure.message.contains("CNI_NETNS"),
                "{}",
                failure.message
            );
        }
        let forced = Environment::of(&[("CNI_NETNS_OVERRIDE", "true")]);
        assert_eq!(inode(&forced, Path::new("/proc/self/ns/net")).ok(), own_inode());
    }
}
