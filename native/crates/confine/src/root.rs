//! A read-only root, as a container's: everything that is mounted, but for what the container mounts to write.

use crate::error::ConfineError;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};

const NOTHING: Option<&str> = None;

/// Gives the calling thread mounts of its own, in which only `writable` (paths that exist, with all that is
/// mounted below them) can be written. What is mounted outside later appears here too (a slave), as with
/// `mountPropagation: HostToContainer`.
///
/// # Errors
/// `Refused` naming the path.
pub(crate) fn make_read_only(writable: &[PathBuf]) -> Result<(), ConfineError> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| ConfineError::refused("unshare the mounts (needs SYS_ADMIN)", error))?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_SLAVE | MsFlags::MS_REC, NOTHING)
        .map_err(|error| ConfineError::refused("make the mounts a slave", error))?;
    let mut kept = Vec::new();
    for path in writable {
        let path = path.canonicalize().map_err(|error| {
            ConfineError::refused(format!("find the writable path {}", path.display()), error)
        })?;
        // A mount of its own keeps it writable when the mount that it lies on is not any more.
        mount(Some(&path), &path, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
            .map_err(|error| ConfineError::refused(format!("bind {}", path.display()), error))?;
        kept.push(path);
    }
    for Mounted { place, flags } in mounts()? {
        if kept.iter().any(|path| place.starts_with(path)) {
            continue;
        }
        let remount = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags;
        match mount(NOTHING, &place, NOTHING, remount, NOTHING) {
            // Hidden under another mount: it cannot be reached, nor written.
            Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
            Err(error) => {
                return Err(ConfineError::refused(format!("make {} read-only", place.display()), error));
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    place: PathBuf,
    /// Those that a remount has to repeat: without them it would lift them, which may be forbidden.
    flags: MsFlags,
}

fn mounts() -> Result<Vec<Mounted>, ConfineError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfineError::File { path: path.to_owned(), source })?;
    Ok(text.lines().filter_map(parse).collect())
}

/// proc_pid_mountinfo(5): the fifth field is the place, the sixth the mount's options. A namespace that is
/// kept by a mount (`nsfs`) has nothing to write.
fn parse(line: &str) -> Option<Mounted> {
    let (mount_fields, source_fields) = line.split_once(" - ")?;
    if source_fields.starts_with("nsfs ") {
        return None;
    }
    let mut fields = mount_fields.split(' ').skip(4);
    let place = unescape(fields.next()?);
    let flags = fields.next()?.split(',').fold(MsFlags::empty(), |flags, option| {
        flags
            | match option {
                "nosuid" => MsFlags::MS_NOSUID,
                "nodev" => MsFlags::MS_NODEV,
                "noexec" => MsFlags::MS_NOEXEC,
                "noatime" => MsFlags::MS_NOATIME,
                "nodiratime" => MsFlags::MS_NODIRATIME,
                "relatime" => MsFlags::MS_RELATIME,
                _ => MsFlags::empty(),
            }
    });
    Some(Mounted { place: PathBuf::from(place), flags })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_keeps_its_restrictions_and_its_odd_name() {
        let line = r"36 35 98:0 / /mnt/a\040b rw,nosuid,nodev,relatime shared:1 - ext4 /dev/root rw";
        assert_eq!(
            parse(line),
            Some(Mounted {
                place: "/mnt/a b".into(),
                flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RELATIME
            })
        );
    }

    #[test]
    fn a_namespace_kept_by_a_mount_is_left_alone() {
        assert_eq!(parse("36 35 0:4 net:[4026532001] /run/netns/a rw shared:1 - nsfs nsfs rw"), None);
    }
}
