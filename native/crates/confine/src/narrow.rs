//! What the data plane gives up by itself once it has started, in whatever way it was started.
//!
//! | given up | why it was there |
//! |---|---|
//! | capabilities beyond `daemonset/data-plane.json` | started by root on a machine without a container runtime |
//! | execve, execveat, fork; new code in memory (mappings with PROT_EXEC) | the start itself |
//! | raw and packet sockets | come with NET_RAW, which marks and transparent sockets need |
//! | entering namespaces other than network ones, making any; mounts; ptrace; loading BPF programs, modules, kernels | come with SYS_ADMIN, which entering a pod's network namespace needs |
//!
//! Kept, and why: `daemonset/data-plane.json`. A waypoint has connections of its own only: it keeps no capability,
//! enters no namespace and has no business with bpf(2).

use crate::capabilities::{self, Kept};
use crate::container::Container;
use crate::error::ConfineError;
use crate::seccomp::compile;
use caps::{CapSet, Capability};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, apply_filter,
};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use syscalls::Sysno;

const CONTAINER: &str = include_str!("../../../../daemonset/data-plane.json");

/// What is left after narrowing.
#[derive(Debug)]
pub struct Narrowed {
    /// Names without `CAP_`, sorted.
    pub capabilities: Vec<String>,
}

/// Narrows the calling thread: to be called in `main` before any other thread is started.
///
/// # Errors
/// When the kernel refuses: the data plane must not go on then.
pub fn narrow_data_plane() -> Result<Narrowed, ConfineError> {
    let kept = Container::parse("daemonset/data-plane.json", CONTAINER)?.kept()?;
    let kept = if marks_with(&kept)? { kept } else { kept.with(Capability::CAP_NET_ADMIN) };
    capabilities::limit(&kept)?;
    filter(forbidden())?;
    Ok(Narrowed { capabilities: capabilities::held()? })
}

/// The same for a waypoint.
///
/// # Errors
/// When the kernel refuses: the waypoint must not go on then.
pub fn narrow_waypoint() -> Result<Narrowed, ConfineError> {
    capabilities::limit(&Kept::parse("waypoint", &[])?)?;
    filter(forbidden().map(|mut rules| {
        for call in [Sysno::setns, Sysno::bpf] {
            rules.insert(i64::from(call.id()), Vec::new());
        }
        rules
    }))?;
    Ok(Narrowed { capabilities: capabilities::held()? })
}

fn filter(rules: Result<Rules, BackendError>) -> Result<(), ConfineError> {
    // The flags of clone3 lie in memory, where no filter sees them: without it the C library takes clone.
    let clone3 = Rules::from([(i64::from(Sysno::clone3.id()), Vec::new())]);
    refuse(clone3, libc::ENOSYS)?;
    refuse(rules.map_err(|error| ConfineError::refused("write the seccomp filter", error))?, libc::EPERM)
}

/// From now on these calls fail with `errno`. Sets no-new-privs, too.
fn refuse(rules: Rules, errno: i32) -> Result<(), ConfineError> {
    let filter = compile(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32))
        .map_err(|error| ConfineError::refused("write the seccomp filter", error))?;
    apply_filter(&filter).map_err(|error| ConfineError::refused("install the seccomp filter", error))
}

/// Whether NET_RAW suffices for SO_MARK: before Linux 5.17 it takes NET_ADMIN. Tried on a thread that ends.
/// Where not even the capabilities at hand suffice, there is nothing to keep.
fn marks_with(kept: &Kept) -> Result<bool, ConfineError> {
    let held = caps::read(None, CapSet::Permitted)
        .map_err(|error| ConfineError::refused("read the capabilities", error))?;
    if !held.contains(&Capability::CAP_NET_ADMIN) {
        return Ok(true);
    }
    let trial = kept.clone();
    std::thread::spawn(move || {
        let only: caps::CapsHashSet = trial.0.intersection(&held).copied().collect();
        caps::set(None, CapSet::Effective, &only)
            .map_err(|error| ConfineError::refused("try fewer capabilities", error))?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)
            .map_err(|error| ConfineError::refused("open a socket", error))?;
        Ok(socket.set_mark(0x539).is_ok())
    })
    .join()
    .map_err(|_| ConfineError::refused("try fewer capabilities", "the thread ended"))?
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that the data plane never makes once it runs.
fn forbidden() -> Result<Rules, BackendError> {
    let whatever = [
        Sysno::execve,
        Sysno::execveat,
        Sysno::unshare,
        Sysno::ptrace,
        Sysno::process_vm_readv,
        Sysno::process_vm_writev,
        Sysno::pidfd_getfd,
        Sysno::mount,
        Sysno::umount2,
        Sysno::pivot_root,
        Sysno::chroot,
        Sysno::open_tree,
        Sysno::move_mount,
        Sysno::fsopen,
        Sysno::fsmount,
        Sysno::fsconfig,
        Sysno::fspick,
        Sysno::mount_setattr,
        Sysno::open_by_handle_at,
        Sysno::init_module,
        Sysno::finit_module,
        Sysno::delete_module,
        Sysno::kexec_load,
        Sysno::perf_event_open,
        Sysno::keyctl,
        Sysno::add_key,
        Sysno::request_key,
        Sysno::reboot,
        Sysno::swapon,
        Sysno::swapoff,
        Sysno::sethostname,
        Sysno::setdomainname,
        Sysno::settimeofday,
        Sysno::clock_settime,
        Sysno::quotactl,
        Sysno::acct,
        Sysno::userfaultfd,
        Sysno::io_uring_setup,
    ];
    let mut rules: Rules = whatever.into_iter().map(|call| (i64::from(call.id()), Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    for call in [Sysno::fork, Sysno::vfork, Sysno::iopl, Sysno::ioperm, Sysno::modify_ldt] {
        rules.insert(i64::from(call.id()), Vec::new());
    }
    let mut when = |call: Sysno, conditions: Vec<SeccompCondition>| -> Result<(), BackendError> {
        rules.entry(i64::from(call.id())).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    };
    // Namespaces other than the network's.
    when(Sysno::setns, vec![argument(1, SeccompCmpOp::Ne, libc::CLONE_NEWNET as u64)?])?;
    // New processes: what shares no threads' group.
    when(Sysno::clone, vec![masked(0, libc::CLONE_THREAD as u64, 0)?])?;
    // New code.
    for call in [Sysno::mmap, Sysno::mprotect, Sysno::pkey_mprotect] {
        when(call, vec![masked(2, libc::PROT_EXEC as u64, libc::PROT_EXEC as u64)?])?;
    }
    // What NET_RAW would open, and families that no connection of a pod has.
    for kind in [libc::SOCK_RAW, SOCK_PACKET] {
        when(Sysno::socket, vec![masked(1, 0xf, kind as u64)?])?;
    }
    for family in [libc::AF_PACKET, libc::AF_XDP, libc::AF_ALG, libc::AF_VSOCK] {
        when(Sysno::socket, vec![argument(0, SeccompCmpOp::Eq, family as u64)?])?;
    }
    // Of bpf(2), looking up and changing the elements of maps that are pinned for it.
    for command in [BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_LINK_CREATE, BPF_LINK_UPDATE, BPF_LINK_DETACH] {
        when(Sysno::bpf, vec![argument(0, SeccompCmpOp::Eq, command)?])?;
    }
    Ok(rules)
}

/// The old way to a packet socket, with any family.
const SOCK_PACKET: i32 = 10;

/// Of `enum bpf_cmd` (linux/bpf.h).
const BPF_PROG_LOAD: u64 = 5;
const BPF_PROG_ATTACH: u64 = 8;
const BPF_LINK_CREATE: u64 = 28;
const BPF_LINK_UPDATE: u64 = 29;
const BPF_LINK_DETACH: u64 = 34;

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

fn masked(index: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}
