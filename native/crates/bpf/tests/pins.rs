//! What is pinned outlives the process, is adopted by the next one, and is gone when it is taken away.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use support::sandbox::{self, shell};
use support::{NEVER, Pod, SOON, at, exchange, open, sockets, until};

/// In the environment of the process that is killed: an inode.
const AGENT: &str = "MELTEMI_TEST_AGENT";

/// Attaches to pod a, says so, and waits for its end. Run by the test below only.
#[test]
fn agent_that_is_killed() {
    let Some(inode) = std::env::var_os(AGENT) else { return };
    let a = Pod::existing("a", 1);
    assert_eq!(inode.to_str(), Some(a.inode.to_string().as_str()));
    let node = open();
    a.guard(&node);
    node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
    println!("attached");
    std::io::stdin().lines().next();
}

#[test]
fn the_guard_outlives_its_agent() {
    sandbox::run("the_guard_outlives_its_agent", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let application = b.listen(at(b.v4, 8080));
        let client = a.connect(at(b.v4, 8080), SOON).unwrap();
        let server = application.accept().unwrap().0;
        let mut agent = Command::new(std::env::current_exe().unwrap())
            .args(["agent_that_is_killed", "--exact", "--nocapture"])
            .env(AGENT, a.inode.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(agent.stdout.take().unwrap());
        assert!(output.lines().any(|line| line.unwrap().ends_with("attached")), "the agent did not attach");
        let ids = link_ids();
        agent.kill().unwrap();
        agent.wait().unwrap();

        assert!(a.connect(at(b.v4, 8080), NEVER).is_err(), "the guard went with its agent");
        exchange(&client, &server).unwrap();
        let node = open();
        assert_eq!(node.attached().unwrap(), [a.inode]);
        assert_eq!(node.verify(a.namespace.as_fd(), a.inode).unwrap(), Vec::<&str>::new());
        assert!(node.counters(a.inode).unwrap()["unregistered_socket"] > 0);
        a.guard(&node);
        node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        assert_eq!(link_ids(), ids, "what was intact was replaced");
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());
        let proxy = a.proxy_connect(&sockets(), at(b.v4, 8080), SOON).unwrap();
        exchange(&proxy, &application.accept().unwrap().0).unwrap();
        node.dispose().unwrap();
    });
}

/// Numbers of the links that are pinned.
fn link_ids() -> Vec<String> {
    let shown = shell(
        "for pin in $(find /run/bpf/pods -type f | grep -v listeners); do bpftool link show pinned $pin; done",
    );
    let mut ids: Vec<String> = shown
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(id, _)| id.parse::<u32>().is_ok())
        .map(|(id, _)| id.to_owned())
        .collect();
    ids.sort();
    assert!(!ids.is_empty());
    ids
}

#[test]
fn what_is_detached_by_force_is_noticed_and_repaired() {
    sandbox::run("what_is_detached_by_force_is_noticed_and_repaired", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let application = b.listen(at(b.v4, 8080));
        let node = open();
        a.guard(&node);
        node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        let pin = |name: &str| format!("/run/bpf/pods/{}/{name}", a.inode);
        let faults = |node: &meltemi_bpf::Node| node.verify(a.namespace.as_fd(), a.inode).unwrap();
        let guard_out = shell(&format!("ls {}", pin("guard_out-*"))).trim().to_owned();

        shell(&format!("bpftool link detach pinned {guard_out}"));
        assert_eq!(faults(&node), ["guard not attached"]);
        let leak = a.connect(at(b.v4, 8080), SOON).expect("without its link there is no guard");
        a.guard(&node);
        let server = application.accept().unwrap().0;
        assert!(!support::arrives(&leak, &server), "what passed in the gap was exempt");

        shell(&format!("rm {guard_out}"));
        assert_eq!(faults(&node), ["guard link gone"]);
        a.guard(&node);
        shell(&format!("bpftool link detach pinned {}", pin("redirect")));
        assert_eq!(faults(&node), ["redirect not attached"]);
        node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        shell(&format!("rm {}", pin("redirect")));
        assert_eq!(faults(&node), ["redirect link gone"]);
        node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        assert_eq!(faults(&node), Vec::<&str>::new());
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());

        // An interface that comes later has no guard until it is attached again.
        shell("ip link add hextra type veth peer name extra netns a && ip -n a link set extra up");
        assert!(faults(&node).contains(&"guard link gone"));
        assert_eq!(a.guard(&node).interfaces.len(), 2);
        assert_eq!(faults(&node), Vec::<&str>::new());
        shell("ip link del hextra");
        assert_eq!(a.guard(&node).interfaces.len(), 1);
        assert_eq!(faults(&node), Vec::<&str>::new());
        node.dispose().unwrap();
    });
}

/// bpf(2) with numbers only; a descriptor, or 0.
fn bpf(command: libc::c_int, attributes: [u32; 4]) -> i32 {
    // SAFETY: the attributes are as long as is told, and borrowed for the whole call; none is a pointer.
    let made = unsafe { libc::syscall(libc::SYS_bpf, command, &attributes, size_of_val(&attributes)) };
    assert!(made >= 0, "{}", std::io::Error::last_os_error());
    made as i32
}

#[test]
fn programs_are_exchanged_without_a_gap() {
    const LINK_UPDATE: libc::c_int = 29;
    const LINK_GET_FD_BY_ID: libc::c_int = 30;
    const PROG_GET_FD_BY_ID: libc::c_int = 13;
    sandbox::run("programs_are_exchanged_without_a_gap", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let application = b.listen(at(b.v4, 8080));
        application.set_nonblocking(true).unwrap();
        let node = open();
        let attached = a.guard(&node);
        let id = |pin: &str| *attached.link_ids.iter().find(|(name, _)| name.starts_with(pin)).unwrap().1;
        // Stands for the program of another build, and drops as well: to it the pod's frames are spoofed.
        let shown = shell(&format!("bpftool link show id {}", id("guard_in")));
        let other = shown.split_once("prog ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
        let other = bpf(PROG_GET_FD_BY_ID, [other, 0, 0, 0]) as u32;
        let link = bpf(LINK_GET_FD_BY_ID, [id("guard_out"), 0, 0, 0]) as u32;
        let done = AtomicBool::new(false);
        let tried = AtomicU32::new(0);
        let attempts = || tried.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            let trying = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(a.connect(at(b.v4, 8080), std::time::Duration::from_millis(5)).is_err());
                    tried.fetch_add(1, Ordering::Relaxed);
                }
            });
            // As long as it takes for many of both.
            let mut exchanges = 0;
            while exchanges < 100 || (attempts() < 20 && !trying.is_finished()) {
                exchanges += 1;
                bpf(LINK_UPDATE, [link, other, 0, 0]);
                let faults = node.verify(a.namespace.as_fd(), a.inode).unwrap();
                assert_eq!(faults, ["guard program replaced"]);
                assert_eq!(a.guard(&node).link_ids, attached.link_ids, "the link was made anew");
                assert_eq!(node.verify(a.namespace.as_fd(), a.inode).unwrap(), Vec::<&str>::new());
            }
            done.store(true, Ordering::Relaxed);
            trying.join().unwrap();
        });
        let attempts = attempts();
        assert!(application.accept().is_err(), "one of {attempts} connections passed");
        node.dispose().unwrap();
    });
}

#[test]
fn nothing_remains_of_a_pod_that_left() {
    sandbox::run("nothing_remains_of_a_pod_that_left", || {
        let a = Pod::new("a", 1);
        let node = open();
        a.guard(&node);
        node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        let ids = link_ids();
        node.detach(a.inode).unwrap();
        assert_eq!(node.attached().unwrap(), Vec::<u64>::new());
        gone(&ids);
        node.detach(a.inode).unwrap();

        // Its namespace goes first.
        a.guard(&node);
        let (ids, inode) = (link_ids(), a.inode);
        shell("ip netns del a");
        drop(a);
        node.detach(inode).unwrap();
        gone(&ids);
        node.dispose().unwrap();
        assert!(!std::path::Path::new("/run/bpf/pods").exists());
        assert!(!shell("mount").contains("/run/bpf"));
    });
}

/// The kernel frees links a moment after the last one has let go of them.
fn gone(ids: &[String]) {
    until("the links to be gone", || {
        ids.iter().all(|id| {
            !Command::new("bpftool").args(["link", "show", "id", id]).output().unwrap().status.success()
        })
    });
}

#[test]
fn a_pod_without_an_end_on_the_host_is_guarded_inside() {
    sandbox::run("a_pod_without_an_end_on_the_host_is_guarded_inside", || {
        // A router between two pods that are not the host's.
        shell("ip netns add r");
        let b = Pod::new("b", 2);
        shell(
            "ip netns add a; ip -n r link add ha type veth peer name eth0 netns a
             ip -n r addr add 10.9.1.1/24 dev ha; ip -n r link set ha up; ip -n a link set lo up
             ip -n a addr add 10.9.1.2/24 dev eth0; ip -n a link set eth0 up",
        );
        let (a, r) = (Pod::existing("a", 1), Pod::existing("r", 3));
        let node = open();
        let attached = a.guard(&node);
        assert_eq!(attached.guard, Some(meltemi_bpf::GuardAt::Pod));
        assert_eq!(attached.interfaces[0].host, None);
        let router: std::net::IpAddr = "10.9.1.1".parse().unwrap();
        let application = r.listen(at(router, 8080));
        assert!(a.connect(at(router, 8080), NEVER).is_err());
        let sockets = sockets();
        let client = a.proxy_connect(&sockets, at(router, 8080), SOON).unwrap();
        exchange(&client, &application.accept().unwrap().0).unwrap();
        // In: to the proxy, and not to the application.
        let proxy = a.proxy_listen(&sockets, at(a.v4, 15008));
        let client = r.connect(at(a.v4, 15008), SOON).unwrap();
        exchange(&client, &proxy.accept().unwrap().0).unwrap();
        let _mine = a.listen(at(a.v4, 8081));
        assert!(r.connect(at(a.v4, 8081), NEVER).is_err());
        assert_eq!(node.verify(a.namespace.as_fd(), a.inode).unwrap(), Vec::<&str>::new());
        drop(b);
        node.dispose().unwrap();
    });
}
