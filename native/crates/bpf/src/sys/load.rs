//! Loading types and programs.

use super::descriptor;
use super::maps::short_name;
use aya_obj::generated::bpf_insn;
use std::io;
use std::os::fd::OwnedFd;

const PROG_LOAD: libc::c_int = 5;
const BTF_LOAD: libc::c_int = 18;

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

/// Of the verifier's words; its last lines are the ones that matter.
const LOG_BYTES: usize = 1 << 20;

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
