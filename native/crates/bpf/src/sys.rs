//! bpf(2), and what else has no safe form: the crate's only unsafe code, but for the statement that a layout has no padding.
//!
//! Each command has a structure of its own that begins like the kernel's `union bpf_attr`; the kernel takes
//! a shorter one as if the rest were zero.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[cfg(feature = "programs")]
mod attach;
#[cfg(feature = "programs")]
mod load;
#[cfg(feature = "programs")]
mod maps;
#[cfg(all(test, feature = "programs"))]
mod try_out;

#[cfg(feature = "programs")]
pub(crate) use attach::*;
#[cfg(feature = "programs")]
pub(crate) use load::*;
#[cfg(feature = "programs")]
pub(crate) use maps::*;
#[cfg(all(test, feature = "programs"))]
pub(crate) use try_out::*;

const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_GET: libc::c_int = 7;

/// Runs a command that takes `attributes` and returns a number.
fn command<T>(number: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a C structure without padding, of the size that is told, borrowed for the
    // whole call; every pointer in it was made from a reference that the caller holds until then.
    let result = unsafe { libc::syscall(libc::SYS_bpf, number, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Runs a command that makes a descriptor. All of bpf(2)'s are close-on-exec.
fn descriptor<T>(number: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let made = command(number, attributes)?;
    // SAFETY: the kernel has just made this descriptor for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A plain C structure or number: no padding, every pattern of bits is a value.
///
/// # Safety
/// Exactly that.
pub(crate) unsafe trait Plain: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the implementer has no padding, so all its bytes are initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    #[cfg(feature = "programs")]
    fn zeroed() -> Self {
        // SAFETY: every pattern of bits is a value of the implementer.
        unsafe { std::mem::zeroed() }
    }
}

// SAFETY: numbers have no padding.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: BorrowedFd<'_>, key: &[u8], value: *const u8, flags: u64) -> Self {
        let [key, value] = [key.as_ptr(), value].map(|pointer| pointer as u64);
        Self { map: map.as_raw_fd() as u32, zero: 0, key, value, flags }
    }
}

/// Sets one element. The slices have the map's sizes: the callers are typed.
pub(crate) fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    command(MAP_UPDATE_ELEM, &mut Element::new(map, key, value.as_ptr(), flags)).map(drop)
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    descriptor(OBJ_GET, &mut Object { path: path.as_ptr() as u64, fd: 0, flags: 0 })
}

/// The kind of object behind a descriptor, as /proc names it ("bpf-map", "bpf-prog").
pub(crate) fn kind_of(fd: BorrowedFd<'_>) -> io::Result<String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(target.to_string_lossy().trim_start_matches("anon_inode:").to_owned())
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

fn info<T>(fd: BorrowedFd<'_>, into: &mut T) -> io::Result<()> {
    let length = size_of::<T>() as u32;
    let info = std::ptr::from_mut(into) as u64;
    command(OBJ_GET_INFO_BY_FD, &mut Info { fd: fd.as_raw_fd() as u32, length, info }).map(drop)
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub(crate) map_type: u32,
    id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// A map's type and sizes.
pub(crate) fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut shape = MapShape::default();
    info(map, &mut shape)?;
    Ok(MapShape { id: 0, ..shape })
}

/// A map whose keys and values have types. Their sizes are compared with the map's when it is opened.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    types: std::marker::PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// # Errors
    /// When the descriptor is not of a map with keys and values of these sizes.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let kind = kind_of(fd.as_fd())?;
        if kind != "bpf-map" {
            return Err(io::Error::other(format!("is a {kind}, want a map")));
        }
        let shape = map_shape(fd.as_fd())?;
        let sizes = [size_of::<K>(), size_of::<V>()].map(|size| size as u32);
        if [shape.key_size, shape.value_size] != sizes {
            return Err(io::Error::other(format!(
                "has keys and values of {} and {} bytes, want {} and {}",
                shape.key_size, shape.value_size, sizes[0], sizes[1]
            )));
        }
        Ok(Self { fd, types: std::marker::PhantomData })
    }

    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::new(open_pinned(path)?)
    }

    pub(crate) fn set(&self, key: &K, value: &V) -> io::Result<()> {
        map_update(self.fd.as_fd(), key.bytes(), value.bytes(), 0)
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
