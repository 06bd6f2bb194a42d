//! What a narrowed data plane can still do, and what not. Privileges are a thread's: each test narrows one
//! that ends, and the others stay as they are.

#![allow(clippy::unwrap_used)]

use meltemi_confine::{Narrowed, narrow_data_plane, narrow_waypoint};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::process::Command;

fn narrowed<T: Send + 'static>(work: impl FnOnce(Narrowed) -> T + Send + 'static) -> T {
    std::thread::spawn(|| work(narrow_data_plane().unwrap())).join().unwrap()
}

#[test]
fn programs_cannot_be_started() {
    assert!(Command::new("true").status().is_ok_and(|status| status.success()));
    let error = narrowed(|_| Command::new("true").status().unwrap_err());
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn threads_and_the_sockets_of_a_pod_can_be_made() {
    narrowed(|_| {
        for kind in [Type::STREAM, Type::DGRAM] {
            for domain in [Domain::IPV4, Domain::IPV6, Domain::UNIX] {
                Socket::new(domain, kind, None).unwrap();
            }
        }
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    });
}

#[test]
fn raw_sockets_cannot() {
    narrowed(|_| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap_err();
        assert_eq!(raw.raw_os_error(), Some(libc::EPERM));
        let packet = Socket::new(Domain::PACKET, Type::DGRAM, None).unwrap_err();
        assert_eq!(packet.raw_os_error(), Some(libc::EPERM));
    });
}

#[test]
fn only_network_namespaces_can_be_entered_and_none_made() {
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, setns, unshare};
    narrowed(|narrowed| {
        let own = |kind: &str| std::fs::File::open(format!("/proc/thread-self/ns/{kind}")).unwrap();
        assert_eq!(setns(own("uts"), CloneFlags::CLONE_NEWUTS), Err(Errno::EPERM));
        assert_eq!(setns(own("uts"), CloneFlags::empty()), Err(Errno::EPERM));
        // With the privilege the own namespace may be entered; without, the kernel refuses as it always does.
        let privileged = narrowed.capabilities.iter().any(|name| name == "SYS_ADMIN");
        assert_eq!(setns(own("net"), CloneFlags::CLONE_NEWNET).is_ok(), privileged);
        assert_eq!(unshare(CloneFlags::CLONE_FS), Err(Errno::EPERM));
    });
}

#[test]
fn nothing_is_held_beyond_the_list() {
    let before = meltemi_confine::held().unwrap();
    let after = narrowed(|narrowed| narrowed.capabilities);
    let listed = ["NET_RAW", "SYS_ADMIN"];
    let expected: Vec<_> = before.iter().filter(|name| listed.contains(&name.as_str())).cloned().collect();
    assert_eq!(after, expected);
    assert_eq!(meltemi_confine::held().unwrap(), before);
}

#[test]
fn a_waypoint_keeps_nothing() {
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, setns};
    let kept = std::thread::spawn(|| {
        let narrowed = narrow_waypoint().unwrap();
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        assert_eq!(setns(own, CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
        Socket::new(Domain::PACKET, Type::DGRAM, None).unwrap_err();
        for domain in [Domain::IPV4, Domain::IPV6, Domain::UNIX] {
            Socket::new(domain, Type::STREAM, None).unwrap();
        }
        narrowed.capabilities
    });
    assert_eq!(kept.join().unwrap(), Vec::<String>::new());
}
