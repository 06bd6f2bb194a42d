//! What the profiles let through, each tried on a thread of its own: a filter is a thread's.

#![allow(clippy::unwrap_used)]

use meltemi_confine::Profile;
use socket2::{Domain, Protocol, Socket, Type};
use std::path::Path;
use std::process::Command;

fn under<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../daemonset/seccomp/meltemi")
        .join(format!("{name}.json"));
    let profile = Profile::read(&file).unwrap();
    std::thread::spawn(move || {
        profile.install().unwrap();
        work()
    })
    .join()
    .unwrap()
}

#[test]
fn neither_opens_raw_or_packet_sockets() {
    for name in ["agent", "data-plane"] {
        under(name, || {
            for domain in [Domain::IPV4, Domain::IPV6] {
                Socket::new(domain, Type::STREAM, None).unwrap();
                Socket::new(domain, Type::DGRAM, None).unwrap();
                let raw = Socket::new(domain, Type::RAW, Some(Protocol::TCP)).unwrap_err();
                assert_eq!(raw.raw_os_error(), Some(libc::EPERM));
            }
            let packet = Socket::new(Domain::PACKET, Type::RAW, None).unwrap_err();
            assert_eq!(packet.raw_os_error(), Some(libc::EPERM));
        });
    }
}

#[test]
fn the_agent_starts_programs_and_the_data_plane_does_not() {
    let start = || Command::new("true").status().map(|status| status.success());
    assert!(under("agent", start).unwrap());
    assert_eq!(under("data-plane", start).unwrap_err().raw_os_error(), Some(libc::EPERM));
}

#[test]
fn both_have_threads() {
    for name in ["agent", "data-plane"] {
        assert_eq!(under(name, || std::thread::spawn(|| 7).join().unwrap()), 7);
    }
}

#[test]
fn no_other_kind_of_namespace_is_entered() {
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, setns};
    for name in ["agent", "data-plane"] {
        under(name, || {
            let own = std::fs::File::open("/proc/thread-self/ns/uts").unwrap();
            assert_eq!(setns(own, CloneFlags::CLONE_NEWUTS), Err(Errno::EPERM));
        });
    }
}
