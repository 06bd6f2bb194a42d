//! Pods made of namespaces, and TCP inside them.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod sandbox;

use meltemi_bpf::{Node, PodSettings, Sockets, Udp};
use nix::sched::{CloneFlags, setns};
use sandbox::shell;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const BPF: &str = "/run/bpf";
/// For what is to come: generous.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// For what must not come: a SYN that is not answered is sent a second time after a second.
pub(crate) const NEVER: Duration = Duration::from_millis(1500);

pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) namespace: File,
    pub(crate) inode: u64,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    pub(crate) host_end: String,
}

impl Pod {
    /// A namespace with a veth to the host, which routes between pods. `number` makes its addresses.
    pub(crate) fn new(name: &'static str, number: u8) -> Self {
        let (n, p) = (number, name);
        shell(&format!(
            "ip netns add {p} && ip link add h{p} type veth peer name eth0 netns {p}
             ip addr add 10.9.{n}.1/24 dev h{p}; ip addr add fd09:{n}::1/64 dev h{p} nodad; ip link set h{p} up
             ip -n {p} link set lo up; ip -n {p} addr add 10.9.{n}.2/24 dev eth0
             ip -n {p} addr add fd09:{n}::2/64 dev eth0 nodad; ip -n {p} link set eth0 up
             ip -n {p} route add default via 10.9.{n}.1; ip -n {p} route add default via fd09:{n}::1"
        ));
        Self::existing(name, number)
    }

    /// One that was made, by another process or in another way.
    pub(crate) fn existing(name: &'static str, n: u8) -> Self {
        let namespace = File::open(format!("/run/netns/{name}")).unwrap();
        let inode = namespace.metadata().unwrap().ino();
        let [v4, v6] = [format!("10.9.{n}.2"), format!("fd09:{n}::2")].map(|text| text.parse().unwrap());
        Self { name, namespace, inode, v4, v6, host_end: format!("h{name}") }
    }

    pub(crate) fn settings(&self) -> PodSettings {
        PodSettings {
            addresses: vec![self.v4, self.v6],
            exclude_inbound_ports: vec![],
            exclude_outbound_ports: vec![],
            exclude_outbound_cidrs: vec![],
            bypass_inbound: false,
            udp: Udp::Pass,
        }
    }

    /// The guard in force, and all its links made.
    pub(crate) fn guard(&self, node: &Node) -> meltemi_bpf::PodPrograms {
        self.guard_at_once(node);
        settle(node);
        self.guard_at_once(node)
    }

    /// The guard in force.
    pub(crate) fn guard_at_once(&self, node: &Node) -> meltemi_bpf::PodPrograms {
        node.attach_guard(self.namespace.as_fd(), self.inode, &self.settings()).unwrap()
    }

    /// Runs `work` on a thread inside the pod.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// What an application does.
    pub(crate) fn listen(&self, address: SocketAddr) -> TcpListener {
        self.inside(|| TcpListener::bind(address).unwrap())
    }

    pub(crate) fn connect(&self, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
        self.inside(|| TcpStream::connect_timeout(&to, within))
    }

    /// What the data plane does: a socket that is registered before it is of use.
    pub(crate) fn registered(&self, sockets: &Sockets, family: IpAddr) -> Socket {
        let domain = if family.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = self.inside(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap());
        sockets.register(&socket).unwrap();
        socket
    }

    pub(crate) fn proxy_listen(&self, sockets: &Sockets, address: SocketAddr) -> TcpListener {
        let socket = self.registered(sockets, address.ip());
        socket.set_reuse_address(true).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(true).unwrap();
            socket.set_ip_transparent_v6(true).unwrap();
        } else {
            socket.set_ip_transparent_v4(true).unwrap();
        }
        socket.set_mark(0x539).unwrap();
        socket.bind(&SockAddr::from(address)).unwrap();
        socket.listen(64).unwrap();
        socket.into()
    }

    pub(crate) fn proxy_connect(
        &self,
        sockets: &Sockets,
        to: SocketAddr,
        within: Duration,
    ) -> io::Result<TcpStream> {
        let socket = self.registered(sockets, to.ip());
        socket.set_mark(0x539)?;
        socket.connect_timeout(&SockAddr::from(to), within)?;
        Ok(socket.into())
    }
}

pub(crate) fn open() -> Node {
    Node::open(Path::new(BPF)).unwrap()
}

/// Makes all links that pods lack.
pub(crate) fn settle(node: &Node) {
    while node.settle_one().unwrap() {}
}

pub(crate) fn sockets() -> Sockets {
    Sockets::open(Path::new(BPF)).unwrap()
}

/// Sends both ways, more than a window, and compares.
pub(crate) fn exchange(a: &TcpStream, b: &TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(a, b), (b, a)] {
        from.set_write_timeout(Some(SOON))?;
        to.set_read_timeout(Some(SOON))?;
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        std::thread::scope(|scope| -> io::Result<()> {
            let writer = scope.spawn(|| from.write_all(&sent));
            let mut received = vec![0; sent.len()];
            to.read_exact(&mut received)?;
            writer.join().unwrap()?;
            assert!(received == sent, "what arrived is not what was sent");
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether a byte of `from` arrives at `to` for as long as something that passes takes many times over.
pub(crate) fn arrives(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    to.set_read_timeout(Some(NEVER)).unwrap();
    from.write_all(b"x").unwrap();
    to.read(&mut [0; 1]).is_ok_and(|count| count == 1)
}

/// Waits until `what` holds.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::yield_now();
    }
}

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A counter of a pod.
pub(crate) fn counted(node: &Node, pod: &Pod, reason: &str) -> u64 {
    node.counters(pod.inode).unwrap()[reason]
}
