//! Maps: making, reading, emptying.

use super::{Element, Map, MapShape, Plain, command, descriptor};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const MAP_FREEZE: libc::c_int = 22;

impl MapShape {
    pub(crate) fn new(map_type: u32, sizes: [u32; 2], max_entries: u32, flags: u32) -> Self {
        Self { map_type, id: 0, key_size: sizes[0], value_size: sizes[1], max_entries, flags }
    }
}

/// Reads one element; `None` where there is none.
pub(crate) fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<Option<()>> {
    let mut element = Element::new(map, key, value.as_mut_ptr(), 0);
    match command(MAP_LOOKUP_ELEM, &mut element) {
        Ok(_) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    match command(MAP_DELETE_ELEM, &mut Element::new(map, key, std::ptr::null(), 0)) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// All keys of a map.
pub(crate) fn map_keys<K: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<K>> {
    let mut keys: Vec<K> = Vec::new();
    loop {
        let mut next = K::zeroed();
        let mut element = Element::new(map, &[], std::ptr::from_mut(&mut next).cast(), 0);
        element.key = keys.last().map_or(0, |key| key.bytes().as_ptr() as u64);
        match command(MAP_GET_NEXT_KEY, &mut element) {
            Ok(_) => keys.push(next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    btf: u32,
    btf_key_type: u32,
    btf_value_type: u32,
}

/// The types of key and value in the object's BTF.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MapTypes<'a> {
    pub(crate) btf: BorrowedFd<'a>,
    pub(crate) key: u32,
    pub(crate) value: u32,
}

pub(crate) fn map_create(name: &str, shape: MapShape, types: Option<MapTypes<'_>>) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        map_type: shape.map_type,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries: shape.max_entries,
        flags: shape.flags,
        inner_map: 0,
        numa_node: 0,
        name: short_name(name),
        ifindex: 0,
        btf: types.map_or(0, |types| types.btf.as_raw_fd() as u32),
        btf_key_type: types.map_or(0, |types| types.key),
        btf_value_type: types.map_or(0, |types| types.value),
    };
    descriptor(MAP_CREATE, &mut attributes)
}

/// The kernel keeps 15 bytes, of letters, digits, '_' and '.'.
pub(super) fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    short
}

#[repr(C)]
struct One {
    value: u32,
}

/// From now on the map is constant to user space: what is constant to the program is so in truth.
pub(crate) fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    command(MAP_FREEZE, &mut One { value: map.as_raw_fd() as u32 }).map(drop)
}

impl<K: Plain, V: Plain> Map<K, V> {
    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = vec![0_u8; size_of::<V>()];
        Ok(map_lookup(self.fd.as_fd(), key.bytes(), &mut value)?.map(|()| {
            // SAFETY: the buffer has the size of V, of which every pattern of bits is a value; the read does
            // not ask for alignment.
            unsafe { std::ptr::read_unaligned(value.as_ptr().cast()) }
        }))
    }
}
