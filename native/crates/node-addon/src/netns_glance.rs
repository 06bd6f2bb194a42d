//! The short look into many namespaces, every few seconds: whether each is still what its path leads to, and has the
//! sysctls that it is to have. All on one thread that goes from one to the next and then ends: a thread for each would
//! cost more than the looking.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_path, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::read;

use crate::error::AddonError;
use crate::netns::{on_thread, open, sysctl_path};

#[napi(object)]
#[derive(Debug)]
pub struct NetnsPlace {
    pub path: String,
    pub inode: f64,
    pub expected: u32,
}

#[napi(object)]
#[derive(Debug)]
pub struct SysctlValue {
    pub name: String,
    pub value: String,
}

/// The namespaces that are to be looked at closely; `expected` of a place is an index into `expected`.
#[napi]
pub fn glance_netns(
    env: &Env,
    places: Vec<NetnsPlace>,
    expected: Vec<Vec<SysctlValue>>,
) -> Result<PromiseRaw<'_, Vec<f64>>> {
    env.spawn_future(async move {
        let expected =
            expected.iter().map(|values| grouped(values)).collect::<std::result::Result<Vec<_>, _>>()?;
        let look = move || {
            let differs = |place: &NetnsPlace| {
                let values = expected.get(place.expected as usize).map_or(&[][..], Vec::as_slice);
                !is_as_expected(place, values)
            };
            Ok(places.iter().filter(|place| differs(place)).map(|place| place.inode).collect())
        };
        Ok(on_thread(look).await?)
    })
}

/// Sysctls of one directory. Every namespace has a directory of its own under the same name, and to find the right
/// one the kernel goes through all of them: once for the directory, not for each of its files.
#[derive(Debug)]
struct Group {
    directory: CString,
    files: Vec<(CString, Vec<u8>)>,
}

fn grouped(values: &[SysctlValue]) -> std::result::Result<Vec<Group>, AddonError> {
    let mut groups: Vec<Group> = Vec::new();
    for SysctlValue { name, value } in values {
        let path = sysctl_path(name)?;
        // /proc/sys/net/ipv4, and the rest.
        let end = path.match_indices('/').nth(4).map_or(path.len(), |(at, _)| at);
        let malformed = || AddonError::BadArgument(format!("{name:?}: want net/FAMILY/NAME"));
        let (directory, rest) = path.split_at_checked(end).ok_or_else(malformed)?;
        let [directory, file] = [directory, rest.trim_start_matches('/')].map(CString::new);
        let (directory, file) = (directory.map_err(|_| malformed())?, file.map_err(|_| malformed())?);
        if file.is_empty() {
            return Err(malformed());
        }
        let entry = (file, value.clone().into_bytes());
        match groups.iter_mut().find(|group| group.directory == directory) {
            Some(group) => group.files.push(entry),
            None => groups.push(Group { directory, files: vec![entry] }),
        }
    }
    Ok(groups)
}

/// What cannot be looked at is not as expected: the closer look says why.
fn is_as_expected(place: &NetnsPlace, groups: &[Group]) -> bool {
    let Ok((namespace, found)) = open(&place.path) else { return false };
    if found.ino() != place.inode as u64 {
        return false;
    }
    if groups.is_empty() {
        return true;
    }
    // /proc/sys/net shows the namespace of the thread that looks.
    setns(&namespace, CloneFlags::CLONE_NEWNET).is_ok() && groups.iter().all(has_values)
}

fn has_values(group: &Group) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = match open_path(group.directory.as_c_str(), flags, Mode::empty()) {
        Ok(directory) => directory,
        // A family that this kernel has not.
        Err(error) => return error == Errno::ENOENT,
    };
    group.files.iter().all(|(file, value)| has_value(directory.as_fd(), file, value))
}

/// One that is not there is as good as right: an interface that has gone took its sysctls along.
fn has_value(directory: BorrowedFd<'_>, file: &CString, value: &[u8]) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let opened = match openat(directory, file.as_c_str(), flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(error) => return error == Errno::ENOENT,
    };
    let mut text = [0_u8; 64];
    read(&opened, &mut text).is_ok_and(|length| text[..length].trim_ascii_end() == value)
}
