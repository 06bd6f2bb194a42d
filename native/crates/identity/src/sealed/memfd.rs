//! Memory that becomes unchangeable, as a descriptor.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use zeroize::Zeroizing;

use super::SealedError;

/// What a reader insists on: nobody who holds the descriptor can change what it will read.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);
/// Thousands of identities fit.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// Puts bytes into a new memfd and seals it.
pub(crate) fn seal(bytes: &[u8]) -> Result<OwnedFd, SealedError> {
    let descriptor = memfd_create("meltemi-keys", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)
        .map_err(SealedError::system("memfd_create"))?;
    let mut file = File::from(descriptor);
    file.write_all(bytes).map_err(|source| SealedError::System { step: "write", source })?;
    let descriptor = OwnedFd::from(file);
    fcntl_add_seals(&descriptor, SEALS).map_err(SealedError::system("F_ADD_SEALS"))?;
    Ok(descriptor)
}

/// Reads a descriptor that came from another process, if it is sealed.
pub(crate) fn open(descriptor: OwnedFd) -> Result<Zeroizing<Vec<u8>>, SealedError> {
    let seals = fcntl_get_seals(descriptor.as_fd())
        .map_err(|errno| SealedError::NotSealed(format!("it is no memfd: {errno}")))?;
    if !seals.contains(SEALS) {
        return Err(SealedError::NotSealed(format!("it lacks seals: it has {seals:?}")));
    }
    let file = File::from(descriptor);
    let length = file.metadata().map_err(|source| SealedError::System { step: "fstat", source })?.len();
    let length = usize::try_from(length)
        .ok()
        .filter(|_| length > 0 && length <= MOST_BYTES)
        .ok_or_else(|| SealedError::NotSealed(format!("it is {length} bytes long")))?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut bytes, 0).map_err(|source| SealedError::System { step: "read", source })?;
    Ok(bytes)
}
