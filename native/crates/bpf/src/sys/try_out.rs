//! Running a program upon a made-up frame.

use super::command;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const PROG_TEST_RUN: libc::c_int = 10;

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
