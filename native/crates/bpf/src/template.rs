//! A compiled object, read once and fitted to the running kernel, from which programs are loaded.

use crate::error::BpfError;
use crate::layout::MAPS;
use crate::sys::{self, Attach, Kind, Load, MapShape, MapTypes, Tag};
use aya_obj::btf::{Btf, BtfFeatures, BtfKind};
use aya_obj::{EbpfSectionKind, Object};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Alignment for the ELF reader.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

macro_rules! compiled {
    ($name:literal) => {{
        static OBJECT: &Aligned<[u8]> =
            &Aligned(*include_bytes!(concat!("../../../bpf/objects/", $name, ".bpf.o")));
        Source { name: $name, bytes: &OBJECT.0 }
    }};
}

/// A committed object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    name: &'static str,
    bytes: &'static [u8],
}

pub(crate) fn guard() -> Source {
    compiled!("guard")
}

pub(crate) fn pod() -> Source {
    compiled!("pod")
}

pub(crate) fn sockets() -> Source {
    compiled!("sockets")
}

/// What a program is, by its name in the object.
fn role(program: &str) -> Option<(Kind, Attach)> {
    Some(match program {
        "guard_from_pod" | "guard_to_pod" | "pod_ingress" => (Kind::SchedClassifier, Attach::TcxIngress),
        "redirect" => (Kind::SkLookup, Attach::SkLookup),
        "exempt_present" | "exempt_late" | "mark_carried" => (Kind::Tracing, Attach::Iter),
        _ => return None,
    })
}

/// The running kernel's types.
#[derive(Debug)]
pub(crate) struct KernelTypes {
    btf: Btf,
    iter_tcp: u32,
}

impl KernelTypes {
    /// Reads all of the kernel's types, some megabytes: keep it no longer than needed.
    pub(crate) fn read() -> Result<Self, BpfError> {
        let failed = |error: aya_obj::btf::BtfError| {
            BpfError::system(
                "read the kernel's types (/sys/kernel/btf/vmlinux)",
                std::io::Error::other(error.to_string()),
            )
        };
        let btf = Btf::from_sys_fs().map_err(failed)?;
        let iter_tcp = btf.id_by_type_name_kind("bpf_iter_tcp", BtfKind::Func).map_err(failed)?;
        Ok(Self { btf, iter_tcp })
    }
}

/// An object that programs can be loaded from, again and again, each time with other constants and maps.
#[derive(Debug)]
pub(crate) struct Template {
    name: &'static str,
    object: Object,
    btf: OwnedFd,
    iter_tcp: u32,
}

/// Programs in the kernel, by name.
#[derive(Debug)]
pub(crate) struct Programs {
    by_name: HashMap<String, OwnedFd>,
}

impl Programs {
    pub(crate) fn get(&self, name: &str) -> Result<BorrowedFd<'_>, BpfError> {
        self.by_name
            .get(name)
            .map(AsFd::as_fd)
            .ok_or(BpfError::Object { object: "programs", problem: format!("has no program {name}") })
    }

    pub(crate) fn tags(&self) -> Result<HashMap<String, Tag>, BpfError> {
        self.by_name
            .iter()
            .map(|(name, program)| {
                let tag = sys::prog_tag(program.as_fd())
                    .map_err(|cause| BpfError::system(format!("look at program {name}"), cause))?;
                Ok((name.clone(), tag))
            })
            .collect()
    }
}

impl Template {
    pub(crate) fn new(source: Source, kernel: &KernelTypes) -> Result<Self, BpfError> {
        let Source { name, bytes } = source;
        let wrong =
            |error: &dyn std::fmt::Display| BpfError::Object { object: name, problem: error.to_string() };
        let mut object = Object::parse(bytes).map_err(|error| wrong(&error))?;
        // The kernels that have TCX links (6.6) have all of these.
        let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
        let btf = object
            .fixup_and_sanitize_btf(&features)
            .map_err(|error| wrong(&error))?
            .ok_or_else(|| wrong(&"has no BTF"))?
            .to_bytes();
        let btf = sys::btf_load(&btf)
            .map_err(|cause| BpfError::system(format!("load the types of object {name}"), cause))?;
        object.relocate_btf(&kernel.btf).map_err(|error| wrong(&error))?;
        Ok(Self { name, object, btf, iter_tcp: kernel.iter_tcp })
    }

    fn wrong(&self, error: &dyn std::fmt::Display) -> BpfError {
        BpfError::Object { object: self.name, problem: error.to_string() }
    }

    /// Makes one of the object's maps, of its own.
    pub(crate) fn create_map(&self, name: &str) -> Result<OwnedFd, BpfError> {
        let map = self.object.maps.get(name).ok_or_else(|| self.wrong(&format!("has no map {name}")))?;
        let sizes = [map.key_size(), map.value_size()];
        let shape = MapShape::new(map.map_type(), sizes, map.max_entries(), map.map_flags());
        let types = match map {
            aya_obj::Map::Btf(typed) if map.map_type() != SOCKMAP => Some(MapTypes {
                btf: self.btf.as_fd(),
                key: typed.def.btf_key_type_id,
                value: typed.def.btf_value_type_id,
            }),
            _ => None,
        };
        sys::map_create(name, shape, types)
            .map_err(|cause| BpfError::system(format!("make map {name}"), cause))
    }

    /// Opens a map that is pinned, or makes and pins it. One of another shape is an error: its version in
    /// abi.rs was forgotten.
    pub(crate) fn pinned_map(&self, name: &str, path: &Path) -> Result<OwnedFd, BpfError> {
        let failed = |what: &str, cause| BpfError::system(format!("{what} map {}", path.display()), cause);
        match sys::open_pinned(path) {
            Ok(map) => {
                let definition = &self.object.maps[name];
                let shape = sys::map_shape(map.as_fd()).map_err(|cause| failed("look at", cause))?;
                let sizes = [definition.key_size(), definition.value_size()];
                if [shape.key_size, shape.value_size] != sizes || shape.map_type != definition.map_type() {
                    return Err(self.wrong(&format!("map {} has another shape", path.display())));
                }
                Ok(map)
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let map = self.create_map(name)?;
                sys::pin(map.as_fd(), path).map_err(|cause| failed("pin", cause))?;
                Ok(map)
            }
            Err(error) => Err(failed("open", error)),
        }
    }

    /// Loads the object's programs, or those named. `maps`: by the object's names; `constants`: little-endian.
    pub(crate) fn load(
        &self,
        only: Option<&[&str]>,
        maps: &HashMap<&str, BorrowedFd<'_>>,
        constants: &[(&str, &[u8])],
    ) -> Result<Programs, BpfError> {
        let mut object = self.object.clone();
        let globals = constants.iter().map(|(name, value)| (*name, (*value, true))).collect();
        object.patch_map_data(globals).map_err(|error| self.wrong(&error))?;
        let mut own = Vec::new();
        let mut used = Vec::new();
        for (name, map) in &object.maps {
            let fd = match map.section_kind() {
                EbpfSectionKind::Rodata => {
                    let made = constant_map(map)?;
                    let fd = made.as_raw_fd();
                    own.push(made);
                    fd
                }
                _ => maps
                    .get(name.as_str())
                    .map(AsRawFd::as_raw_fd)
                    .ok_or_else(|| self.wrong(&format!("needs map {name}")))?,
            };
            used.push((name.clone(), fd, map.clone()));
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = used.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
        object.relocate_maps(maps, &text).map_err(|error| self.wrong(&error))?;
        object.relocate_calls(&text).map_err(|error| self.wrong(&error))?;
        let mut by_name = HashMap::new();
        for (name, program) in &object.programs {
            if only.is_some_and(|only| !only.contains(&name.as_str())) {
                continue;
            }
            let (kind, attach) =
                role(name).ok_or_else(|| self.wrong(&format!("program {name} is unknown")))?;
            let load = Load {
                name,
                kind,
                attach,
                attach_btf_id: if attach == Attach::Iter { self.iter_tcp } else { 0 },
                instructions: &object.functions[&program.function_key()].instructions,
            };
            let loaded = sys::prog_load(&load).map_err(|(cause, log)| BpfError::Verifier {
                program: name.clone(),
                cause,
                log,
            })?;
            by_name.insert(name.clone(), loaded);
        }
        Ok(Programs { by_name })
    }
}

const ARRAY: u32 = 2;
const SOCKMAP: u32 = 15;
const BPF_F_RDONLY_PROG: u32 = 1 << 7;

/// The object's constants: the verifier takes them for numbers, and leaves out what they make unreachable.
fn constant_map(map: &aya_obj::Map) -> Result<OwnedFd, BpfError> {
    let failed = |cause| BpfError::system("make the map of constants", cause);
    let data = map.data();
    let shape = MapShape::new(ARRAY, [4, data.len() as u32], 1, BPF_F_RDONLY_PROG);
    let fd = sys::map_create(".rodata", shape, None).map_err(failed)?;
    sys::map_update(fd.as_fd(), &0_u32.to_ne_bytes(), data, 0).map_err(failed)?;
    sys::map_freeze(fd.as_fd()).map_err(failed)?;
    Ok(fd)
}

/// The programs' names of the node's maps, with what is pinned under their versioned names.
pub(crate) fn node_maps<'a>(
    open: &'a HashMap<&'static str, OwnedFd>,
) -> HashMap<&'static str, BorrowedFd<'a>> {
    MAPS.iter().filter_map(|(name, pinned)| Some((*name, open.get(pinned)?.as_fd()))).collect()
}
