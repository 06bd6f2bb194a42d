//! Whether this kernel, and this process's privileges, can do what is needed. Tried, not told by version.

use crate::abi;
use crate::error::{BpfError, failed};
use crate::inside::on_thread;
use crate::interfaces::LOOPBACK;
use crate::layout::MAPS;
use crate::sys::{self, Attach, Order, Plain};
use crate::template::{self, KernelTypes, Programs, Template};
use crate::walk::Walk;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Something that is needed and cannot be had.
#[derive(Debug)]
pub struct Missing {
    pub feature: &'static str,
    pub error: BpfError,
}

/// Loads and attaches everything once, in a network namespace that lives for this call. Empty: all is there.
pub fn probe() -> Vec<Missing> {
    let tried = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| BpfError::system("make a network namespace to try in", errno))?;
        Ok(Attempt::default().run())
    });
    tried.unwrap_or_else(|error| vec![Missing { feature: "network namespace", error }])
}

#[derive(Default)]
struct Attempt {
    missing: Vec<Missing>,
}

impl Attempt {
    fn step<T>(&mut self, feature: &'static str, result: Result<T, BpfError>) -> Option<T> {
        result.map_err(|error| self.missing.push(Missing { feature, error })).ok()
    }

    fn run(mut self) -> Vec<Missing> {
        self.everything();
        self.missing
    }

    /// Ends at the first feature without which the others cannot be tried.
    fn everything(&mut self) -> Option<()> {
        let kernel = self.step("kernel types (BTF)", KernelTypes::read())?;
        let guard = self.step("guard program", Template::new(template::guard(), &kernel))?;
        let pod = self.step("redirection program", Template::new(template::pod(), &kernel))?;
        let walk = self.step("socket iterator", Template::new(template::sockets(), &kernel))?;
        let maps = self.step("socket storage", make_maps(&guard))?;
        self.step("socket storage", register(&maps));
        let shared = template::node_maps(&maps);
        if let Some(programs) =
            self.step("guard program", guard.load(None, &shared, &[("home_cookie", 1_u64.bytes())]))
        {
            self.step("TCX link", attach_tcx(&programs));
        }
        let walking = walk.load(None, &shared, &[]).and_then(|programs| Walk::new(&programs));
        if let Some(walk) = self.step("socket iterator", walking) {
            self.step("socket iterator", own_namespace().and_then(|own| walk.exempt_late(own.as_fd())));
        }
        let listeners = self.step("socket map", pod.create_map("listeners"))?;
        let mut all = shared;
        all.insert("listeners", listeners.as_fd());
        let programs = self.step("redirection program", pod.load(None, &all, &[]))?;
        self.step("socket lookup", attach_lookup(&programs))
    }
}

fn make_maps(guard: &Template) -> Result<HashMap<&'static str, OwnedFd>, BpfError> {
    MAPS.iter().map(|(name, pin)| Ok((*pin, guard.create_map(name)?))).collect()
}

fn register(maps: &HashMap<&'static str, OwnedFd>) -> Result<(), BpfError> {
    use std::os::fd::AsRawFd;
    let tcp = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| BpfError::system("open a socket", errno))?;
    let key = (tcp.as_raw_fd() as u32).to_ne_bytes();
    let role = abi::ROLE_PROXY.to_ne_bytes();
    sys::map_update(maps[abi::SOCKETS].as_fd(), &key, &role, 0).map_err(failed("register a socket"))
}

fn attach_tcx(programs: &Programs) -> Result<(), BpfError> {
    for (program, attach) in [("guard_from_pod", Attach::TcxIngress), ("guard_to_pod", Attach::TcxEgress)] {
        sys::link_tcx(programs.get(program)?, LOOPBACK, attach, Order::First)
            .map_err(failed(format!("attach {program}")))?;
    }
    Ok(())
}

fn own_namespace() -> Result<File, BpfError> {
    File::open(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()))
        .map_err(failed("open the thread's network namespace"))
}

fn attach_lookup(programs: &Programs) -> Result<(), BpfError> {
    let own = own_namespace()?;
    sys::link_netns(programs.get("redirect")?, own.as_fd()).map(drop).map_err(failed("attach redirect"))
}
