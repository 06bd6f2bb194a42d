//! bpf(2), and what else has no safe form: the crate's only unsafe code.
//!
//! Each command has a structure of its own that begins like the kernel's `union bpf_attr`; the kernel takes
//! a shorter one as if the rest were zero.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP_ELEM: libc::c_int = 1;
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

/// Reads one element; `None` where there is none.
pub(crate) fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<Option<()>> {
    let mut element = Element::new(map, key, value.as_mut_ptr(), 0);
    match command(MAP_LOOKUP_ELEM, &mut element) {
        Ok(_) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
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

impl MapShape {
    pub(crate) fn new(map_type: u32, sizes: [u32; 2], max_entries: u32, flags: u32) -> Self {
        Self { map_type, id: 0, key_size: sizes[0], value_size: sizes[1], max_entries, flags }
    }
}

#[cfg(feature = "programs")]
pub(crate) use programs::*;

#[cfg(feature = "programs")]
mod programs {
    use super::*;
    use aya_obj::generated::bpf_insn;

    const MAP_CREATE: libc::c_int = 0;
    const MAP_DELETE_ELEM: libc::c_int = 3;
    const MAP_GET_NEXT_KEY: libc::c_int = 4;
    const PROG_LOAD: libc::c_int = 5;
    const OBJ_PIN: libc::c_int = 6;
    const PROG_TEST_RUN: libc::c_int = 10;
    const PROG_GET_FD_BY_ID: libc::c_int = 13;
    const PROG_QUERY: libc::c_int = 16;
    const BTF_LOAD: libc::c_int = 18;
    const MAP_FREEZE: libc::c_int = 22;
    const LINK_CREATE: libc::c_int = 28;
    const LINK_UPDATE: libc::c_int = 29;
    const ITER_CREATE: libc::c_int = 33;

    /// `enum bpf_attach_type`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u32)]
    pub(crate) enum Attach {
        Iter = 28,
        SkLookup = 36,
        TcxIngress = 46,
        TcxEgress = 47,
    }

    /// `enum bpf_prog_type`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u32)]
    pub(crate) enum Kind {
        SchedClassifier = 3,
        Tracing = 26,
        SkLookup = 30,
    }

    /// Where among the programs that are attached to an interface at the time.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u32)]
    pub(crate) enum Order {
        /// BPF_F_BEFORE
        First = 1 << 3,
        /// BPF_F_AFTER
        Last = 1 << 4,
    }

    const LINK_TYPE_NETNS: u32 = 5;
    const LINK_TYPE_TCX: u32 = 11;
    /// Of the verifier's words; its last lines are the ones that matter.
    const LOG_BYTES: usize = 1 << 20;

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

    pub(crate) fn map_create(
        name: &str,
        shape: MapShape,
        types: Option<MapTypes<'_>>,
    ) -> io::Result<OwnedFd> {
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
    fn short_name(name: &str) -> [u8; 16] {
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

    #[repr(C)]
    struct BtfLoad {
        btf: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        zero: u32,
    }

    pub(crate) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
        let size = btf.len() as u32;
        let btf = btf.as_ptr() as u64;
        descriptor(BTF_LOAD, &mut BtfLoad { btf, log: 0, size, log_size: 0, log_level: 0, zero: 0 })
    }

    #[repr(C)]
    struct ProgLoad {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected_attach: u32,
        btf: u32,
        func_info_size: u32,
        func_info: u64,
        func_info_count: u32,
        line_info_size: u32,
        line_info: u64,
        line_info_count: u32,
        attach_btf_id: u32,
    }

    /// A program to load. `attach_btf_id`: of an iterator's function in the kernel's BTF, else 0.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Load<'a> {
        pub(crate) name: &'a str,
        pub(crate) kind: Kind,
        pub(crate) attach: Attach,
        pub(crate) attach_btf_id: u32,
        pub(crate) instructions: &'a [bpf_insn],
    }

    /// Loads a program; where the verifier refuses it, its last words are in the error.
    pub(crate) fn prog_load(load: &Load<'_>) -> Result<OwnedFd, (io::Error, String)> {
        let license = c"GPL";
        let expected = match load.attach {
            // One program serves both directions of tc; the kernel takes no expectation there.
            Attach::TcxIngress | Attach::TcxEgress => 0,
            other => other as u32,
        };
        let mut attributes = ProgLoad {
            kind: load.kind as u32,
            instruction_count: load.instructions.len() as u32,
            instructions: load.instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: short_name(load.name),
            ifindex: 0,
            expected_attach: expected,
            btf: 0,
            func_info_size: 0,
            func_info: 0,
            func_info_count: 0,
            line_info_size: 0,
            line_info: 0,
            line_info_count: 0,
            attach_btf_id: load.attach_btf_id,
        };
        let error = match descriptor(PROG_LOAD, &mut attributes) {
            Ok(program) => return Ok(program),
            Err(error) => error,
        };
        let mut log = vec![0_u8; LOG_BYTES];
        attributes.log_level = 1;
        attributes.log_size = LOG_BYTES as u32;
        attributes.log = log.as_mut_ptr() as u64;
        match descriptor(PROG_LOAD, &mut attributes) {
            // Memory was short a moment ago, for example.
            Ok(program) => Ok(program),
            Err(_) => Err((error, last_words(&log))),
        }
    }

    fn last_words(log: &[u8]) -> String {
        let length = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        let text = String::from_utf8_lossy(&log[..length]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("processed ")).collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }

    pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        let fd = object.as_raw_fd() as u32;
        command(OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
    }

    #[repr(C)]
    struct LinkCreate {
        program: u32,
        target: u32,
        attach: u32,
        flags: u32,
        relative: u32,
        zero: u32,
        revision: u64,
    }

    fn link(program: BorrowedFd<'_>, target: u32, attach: Attach, flags: u32) -> io::Result<OwnedFd> {
        let program = program.as_raw_fd() as u32;
        let attach = attach as u32;
        let mut attributes = LinkCreate { program, target, attach, flags, relative: 0, zero: 0, revision: 0 };
        descriptor(LINK_CREATE, &mut attributes)
    }

    /// Attaches to an interface of the calling thread's network namespace.
    pub(crate) fn link_tcx(
        program: BorrowedFd<'_>,
        ifindex: u32,
        attach: Attach,
        order: Order,
    ) -> io::Result<OwnedFd> {
        link(program, ifindex, attach, order as u32)
    }

    pub(crate) fn link_netns(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        link(program, namespace.as_raw_fd() as u32, Attach::SkLookup, 0)
    }

    pub(crate) fn link_iter(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        link(program, 0, Attach::Iter, 0)
    }

    #[repr(C)]
    struct LinkUpdate {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }

    /// Puts another program in a link's place: every packet meets the old one or the new one.
    pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
        let [link, program] = [link, program].map(|fd| fd.as_raw_fd() as u32);
        command(LINK_UPDATE, &mut LinkUpdate { link, program, flags: 0, old_program: 0 }).map(drop)
    }

    #[repr(C)]
    struct IterCreate {
        link: u32,
        flags: u32,
    }

    /// A descriptor to read the iterator's output from, over the calling thread's network namespace.
    pub(crate) fn iter_create(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        descriptor(ITER_CREATE, &mut IterCreate { link: link.as_raw_fd() as u32, flags: 0 })
    }

    /// The beginning of `struct bpf_link_info`, with room for the rest.
    #[repr(C)]
    #[derive(Default)]
    struct RawLinkInfo {
        link_type: u32,
        id: u32,
        program: u32,
        zero: u32,
        target: u32,
        attach: u32,
        rest: [u64; 16],
    }

    /// What a link says of itself. `target`: an interface's index, a namespace's inode; 0 where it is gone or
    /// the link was detached from it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct LinkInfo {
        pub(crate) id: u32,
        pub(crate) program: u32,
        pub(crate) target: u32,
    }

    pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
        let mut raw = RawLinkInfo::default();
        info(link, &mut raw)?;
        match raw.link_type {
            LINK_TYPE_NETNS | LINK_TYPE_TCX => {
                Ok(LinkInfo { id: raw.id, program: raw.program, target: raw.target })
            }
            other => Err(io::Error::other(format!("a link of another type ({other})"))),
        }
    }

    /// The beginning of `struct bpf_prog_info`.
    #[repr(C)]
    #[derive(Default)]
    struct RawProgInfo {
        kind: u32,
        id: u32,
        tag: [u8; 8],
    }

    /// What tells one version of a program from another: the kernel's digest of its instructions.
    pub(crate) type Tag = [u8; 8];

    pub(crate) fn prog_tag(program: BorrowedFd<'_>) -> io::Result<Tag> {
        let mut raw = RawProgInfo::default();
        info(program, &mut raw)?;
        Ok(raw.tag)
    }

    #[repr(C)]
    struct GetById {
        id: u32,
        next: u32,
        flags: u32,
    }

    pub(crate) fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
        descriptor(PROG_GET_FD_BY_ID, &mut GetById { id, next: 0, flags: 0 })
    }

    #[repr(C)]
    struct Query {
        target: u32,
        attach: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        zero: u32,
        attach_flags_of: u64,
        links: u64,
        link_attach_flags_of: u64,
        revision: u64,
    }

    /// The program that sees a packet first at an interface of the calling thread's network namespace.
    pub(crate) fn first_program(ifindex: u32, attach: Attach) -> io::Result<Option<u32>> {
        let mut ids = [0_u32; 64];
        let mut query = Query {
            target: ifindex,
            attach: attach as u32,
            flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: ids.len() as u32,
            zero: 0,
            attach_flags_of: 0,
            links: 0,
            link_attach_flags_of: 0,
            revision: 0,
        };
        match command(PROG_QUERY, &mut query) {
            Ok(_) => Ok((query.count > 0).then_some(ids[0])),
            // Nothing was ever attached there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[repr(C)]
    struct TestRun {
        program: u32,
        result: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        zero: u32,
    }

    /// Runs a program upon a frame, `context` being a `struct __sk_buff`: its verdict.
    pub(crate) fn prog_test_run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> io::Result<i32> {
        let mut run = TestRun {
            program: program.as_raw_fd() as u32,
            result: 0,
            size_in: frame.len() as u32,
            size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
            ctx_size_in: context.len() as u32,
            ctx_size_out: 0,
            ctx_in: context.as_ptr() as u64,
            ctx_out: 0,
            flags: 0,
            cpu: 0,
            batch_size: 0,
            zero: 0,
        };
        command(PROG_TEST_RUN, &mut run)?;
        Ok(run.result as i32)
    }

    /// SO_NETNS_COOKIE: a number that the socket's namespace has to itself for as long as the kernel runs.
    pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
        let mut cookie = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`, to where that is.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                std::ptr::from_mut(&mut cookie).cast(),
                &mut length,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
    }
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

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = vec![0_u8; size_of::<V>()];
        Ok(map_lookup(self.fd.as_fd(), key.bytes(), &mut value)?.map(|()| {
            // SAFETY: the buffer has the size of V, of which every pattern of bits is a value; the read does
            // not ask for alignment.
            unsafe { std::ptr::read_unaligned(value.as_ptr().cast()) }
        }))
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
