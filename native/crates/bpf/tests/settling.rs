//! A pod's guard is in force at once, at the older hook; its links come later and take its place without a gap.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::sandbox::{self, shell};
use support::{NEVER, Pod, SOON, at, exchange, open, settle, sockets, until};

/// What is at the older hook of a pod's two ends: lines that name a program of ours.
fn filters(pod: &Pod) -> usize {
    let (host, name) = (&pod.host_end, pod.name);
    let shown = shell(&format!(
        "for way in ingress egress; do tc filter show dev {host} $way; tc -n {name} filter show dev eth0 $way; done"
    ));
    shown.matches("meltemi:").count()
}

fn disciplines(pod: &Pod) -> usize {
    let (host, name) = (&pod.host_end, pod.name);
    shell(&format!("tc qdisc show dev {host}; tc -n {name} qdisc show dev eth0")).matches("clsact").count()
}

/// Says that something is done, at the latest when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn faults(node: &meltemi_bpf::Node, pod: &Pod) -> Vec<&'static str> {
    node.verify(pod.namespace.as_fd(), pod.inode).unwrap()
}

#[test]
fn the_guard_is_in_force_before_its_links_are_made() {
    sandbox::run("the_guard_is_in_force_before_its_links_are_made", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let application = b.listen(at(b.v4, 8080));
        application.set_nonblocking(true).unwrap();
        let node = open();
        assert_eq!(node.settling_due(), None);
        let attached = a.guard_at_once(&node);
        assert_eq!(attached.guard, Some(meltemi_bpf::GuardAt::Host));
        assert!(attached.link_ids.is_empty(), "{:?}", attached.link_ids);
        assert_eq!(filters(&a), 3);
        assert_eq!(faults(&node, &a), Vec::<&str>::new());
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());
        assert!(node.settling_due().is_some_and(|wait| wait <= Duration::from_secs(1)));

        // Nothing passes while the links take the place of the filters, and what is registered goes on.
        let proxy = a.proxy_connect(&sockets(), at(b.v4, 8080), SOON).unwrap();
        application.set_nonblocking(false).unwrap();
        let (server, _) = application.accept().unwrap();
        application.set_nonblocking(true).unwrap();
        let done = AtomicBool::new(false);
        let tried = AtomicU32::new(0);
        std::thread::scope(|scope| {
            // Also when this thread fails: the scope waits for the other.
            let _ending = Ending(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(a.connect(at(b.v4, 8080), Duration::from_millis(5)).is_err());
                    tried.fetch_add(1, Ordering::Relaxed);
                }
            });
            until("the first try", || tried.load(Ordering::Relaxed) > 0);
            settle(&node);
            exchange(&proxy, &server).unwrap();
        });
        assert!(application.accept().is_err(), "a connection passed");
        assert_eq!((filters(&a), disciplines(&a)), (0, 0));
        assert_eq!(node.settling_due(), None);
        assert_eq!(a.guard_at_once(&node).link_ids.len(), 3);
        assert_eq!(faults(&node, &a), Vec::<&str>::new());
        assert_eq!(node.glance(&[a.inode]), Vec::<u64>::new(), "the short look knows the links");
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());
        node.dispose().unwrap();
    });
}

#[test]
fn links_are_made_when_nobody_comes_or_goes() {
    sandbox::run("links_are_made_when_nobody_comes_or_goes", || {
        let a = Pod::new("a", 1);
        let node = Arc::new(open());
        a.guard_at_once(&node);
        node.settle_in_background().unwrap();
        until("the links to be made", || filters(&a) == 0 && disciplines(&a) == 0);
        assert_eq!(a.guard_at_once(&node).link_ids.len(), 3);
        // The thread has ended, or another one begins.
        let b = Pod::new("b", 2);
        b.guard_at_once(&node);
        node.settle_in_background().unwrap();
        until("the other's links to be made", || filters(&b) == 0);
        node.dispose().unwrap();
    });
}

#[test]
fn what_others_have_at_the_interface_stays_and_has_nothing_to_say_before_the_guard() {
    sandbox::run("what_others_have_at_the_interface_stays_and_has_nothing_to_say_before_the_guard", || {
        const PROG_GET_FD_BY_ID: libc::c_int = 13;
        const LINK_CREATE: libc::c_int = 28;
        let (a, b, c) = (Pod::new("a", 1), Pod::new("b", 2), Pod::new("c", 3));
        let node = open();
        // Their discipline, with a filter that accepts everything.
        shell(
            "tc qdisc add dev ha clsact; tc filter add dev ha ingress prio 9 u32 match u32 0 0 classid 1:1",
        );
        let attached = a.guard_at_once(&node);
        assert!(attached.link_ids.keys().any(|pin| pin.starts_with("guard_out")), "{:?}", attached.link_ids);
        let theirs = c.listen(at(c.v4, 8080));
        assert!(a.connect(at(c.v4, 8080), NEVER).is_err());
        settle(&node);
        assert!(shell("tc filter show dev ha ingress").contains("u32"));
        node.detach(a.inode).unwrap();
        assert!(shell("tc filter show dev ha ingress").contains("u32"));

        // A TCX program of theirs that is there already; it would have the last word over the older hook.
        let id = {
            let made = c.guard(&node);
            let link = made.link_ids.iter().find(|(pin, _)| pin.starts_with("ingress")).unwrap().1;
            let shown = shell(&format!("bpftool link show id {link}"));
            shown.split_once("prog ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
        };
        let program = bpf(PROG_GET_FD_BY_ID, [id, 0, 0, 0]) as u32;
        let ifindex = shell("ip -o link show hb | cut -d: -f1").trim().parse().unwrap();
        bpf(LINK_CREATE, [program, ifindex, 46, 0]);
        let attached = b.guard_at_once(&node);
        assert!(attached.link_ids.keys().any(|pin| pin.starts_with("guard_out")), "{:?}", attached.link_ids);
        assert_eq!(faults(&node, &b), Vec::<&str>::new());
        drop(theirs);
        node.dispose().unwrap();
    });
}

#[test]
fn what_stands_in_for_links_outlives_its_agent_and_is_replaced_by_the_next() {
    sandbox::run("what_stands_in_for_links_outlives_its_agent_and_is_replaced_by_the_next", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let _application = b.listen(at(b.v4, 8080));
        let killed = open();
        a.guard_at_once(&killed);
        drop(killed);
        assert_eq!(filters(&a), 3);
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err(), "the guard went with its agent");
        let node = open();
        assert_eq!(node.attached().unwrap(), [a.inode]);
        assert_eq!(a.guard_at_once(&node).link_ids.len(), 3);
        assert_eq!((filters(&a), disciplines(&a)), (0, 0));
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());
        node.dispose().unwrap();

        // One that ended when all links were made, before it took away what stood in for them.
        let killed = open();
        b.guard_at_once(&killed);
        for _ in 0..3 {
            assert!(killed.settle_one().unwrap());
        }
        drop(killed);
        assert_eq!((filters(&b), disciplines(&b)), (3, 2));
        let node = open();
        assert_eq!(b.guard_at_once(&node).link_ids.len(), 3);
        assert_eq!((filters(&b), disciplines(&b)), (0, 0));
        node.dispose().unwrap();

        // One that does not want the pod any more.
        let killed = open();
        b.guard_at_once(&killed);
        drop(killed);
        let node = open();
        node.detach(b.inode).unwrap();
        assert_eq!(shell("tc qdisc show dev hb").matches("clsact").count(), 0);
        b.listen(at(b.v4, 8081));
        node.dispose().unwrap();
    });
}

#[test]
fn what_is_taken_away_meanwhile_is_noticed_and_repaired() {
    sandbox::run("what_is_taken_away_meanwhile_is_noticed_and_repaired", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let _application = b.listen(at(b.v4, 8080));
        let node = open();
        a.guard_at_once(&node);
        shell("tc qdisc del dev ha clsact");
        assert_eq!(faults(&node, &a), ["guard link gone"]);
        assert!(a.guard_at_once(&node).link_ids.keys().any(|pin| pin.starts_with("guard_out")));
        assert_eq!(faults(&node, &a), Vec::<&str>::new());
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());

        // The pod goes before its links are made.
        b.guard_at_once(&node);
        node.detach(b.inode).unwrap();
        assert_eq!((filters(&b), disciplines(&b)), (0, 0));
        assert_eq!(node.settling_due(), None);
        let c = Pod::new("c", 3);
        c.guard_at_once(&node);
        shell("ip netns del c; ip link del hc");
        // Its link cannot be made, which concerns nobody else.
        assert!(node.settle_one().is_err());
        assert!(!node.settle_one().unwrap());
        let inode = c.inode;
        drop(c);
        node.detach(inode).unwrap();
        node.dispose().unwrap();
    });
}

#[test]
fn a_pod_whose_links_cannot_be_made_is_named_by_the_next_short_look() {
    sandbox::run("a_pod_whose_links_cannot_be_made_is_named_by_the_next_short_look", || {
        let a = Pod::new("a", 1);
        let node = open();
        a.guard_at_once(&node);
        assert_eq!(faults(&node, &a), Vec::<&str>::new());
        assert_eq!(node.glance(&[a.inode]), Vec::<u64>::new(), "its links are still to come");
        // In the way of a link's pin.
        let ifindex = shell("ip -n a -o link show eth0 | cut -d: -f1").trim().to_owned();
        let obstacle = format!("/run/bpf/pods/{}/guard_out-{ifindex}", a.inode);
        std::fs::create_dir(&obstacle).unwrap();
        assert!(node.settle_one().is_err());
        assert_eq!(node.settling_due(), None);
        assert_eq!(node.glance(&[a.inode]), [a.inode]);

        std::fs::remove_dir(&obstacle).unwrap();
        assert!(faults(&node, &a).contains(&"guard link gone"));
        assert_eq!(a.guard_at_once(&node).link_ids.len(), 3);
        assert_eq!(faults(&node, &a), Vec::<&str>::new());
        assert_eq!(node.glance(&[a.inode]), Vec::<u64>::new());
        assert_eq!((filters(&a), disciplines(&a)), (0, 0));
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
