//! The redirection: a pod's new connections, both ways and in both families, arrive at the proxy with the
//! destinations that were meant, without a rule or an entry of netfilter.
#![allow(clippy::unwrap_used)]

mod support;

use meltemi_bpf::{ListenerRole, Sockets};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::AsFd;
use support::sandbox::{self, shell};
use support::{NEVER, Pod, SOON, at, exchange, open, sockets};

/// Routing as the agent sets it up in mode `bpf`.
fn route(pod: &Pod) {
    for (family, own) in [("-4", pod.v4), ("-6", pod.v6)] {
        let pod_name = pod.name;
        shell(&format!(
            "ip='ip -n {pod_name} {family}'
             $ip route add local {own} dev lo table 101
             $ip route add local default dev lo table 100 src {own} || $ip route add local default dev lo table 100
             $ip rule add pref 50 iif lo to {own} lookup 101
             $ip rule add pref 60 lookup local; $ip rule del pref 0
             $ip rule add pref 99 fwmark 0x53a/0xfff lookup main
             $ip rule add pref 100 fwmark 0x539/0xfff lookup main
             $ip rule add pref 101 ipproto tcp lookup 100"
        ));
    }
    let pod_name = pod.name;
    shell(&format!(
        "ip netns exec {pod_name} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 \
         net.ipv4.conf.eth0.accept_local=1 net.ipv4.tcp_fwmark_accept=1"
    ));
}

struct Proxy {
    outbound: Vec<TcpListener>,
    plaintext: Vec<TcpListener>,
    hbone: Vec<TcpListener>,
}

/// Opens the proxy's listeners in both families and publishes them.
fn serve(pod: &Pod, sockets: &Sockets) -> Proxy {
    let slots = sockets.listeners(pod.inode).unwrap().expect("the redirection has a map");
    let open = |role, port| {
        [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
            .map(|ip| {
                let listener = pod.proxy_listen(sockets, at(ip, port));
                slots.set(role, ip.is_ipv6(), &listener).unwrap();
                listener
            })
            .into()
    };
    Proxy {
        outbound: open(ListenerRole::Outbound, 15001),
        plaintext: open(ListenerRole::Plaintext, 15006),
        hbone: open(ListenerRole::Hbone, 15008),
    }
}

#[test]
fn both_directions_and_families_reach_the_proxy() {
    sandbox::run("both_directions_and_families_reach_the_proxy", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        a.guard(&node);
        let attached = node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        assert!(attached.redirect);
        route(&a);
        let sockets = sockets();
        let proxy = serve(&a, &sockets);
        for (family, (own, other)) in [(a.v4, b.v4), (a.v6, b.v6)].into_iter().enumerate() {
            // Out: the application dials b, which does not even listen.
            let application = a.connect(at(other, 8080), SOON).unwrap();
            let (carried, peer) = proxy.outbound[family].accept().unwrap();
            assert_eq!(carried.local_addr().unwrap(), at(other, 8080), "the destination that was dialled");
            assert_eq!(peer.ip(), own);
            exchange(&application, &carried).unwrap();

            // In: plaintext to any port, and tunnels to theirs.
            for (port, listeners) in [(8080, &proxy.plaintext), (15008, &proxy.hbone)] {
                let client = b.connect(at(own, port), SOON).unwrap();
                let (accepted, peer) = listeners[family].accept().unwrap();
                assert_eq!(accepted.local_addr().unwrap(), at(own, port));
                assert_eq!(peer.ip(), other);
                exchange(&client, &accepted).unwrap();
            }

            // Within the pod nothing is captured.
            let local = a.listen(at(own, 9090));
            let client = a.connect(at(own, 9090), SOON).unwrap();
            exchange(&client, &local.accept().unwrap().0).unwrap();

            // A process of the host reaches the application, and is answered.
            let probe = std::net::TcpStream::connect_timeout(&at(own, 9090), SOON).unwrap();
            let (answering, _) = local.accept().unwrap();
            exchange(&probe, &answering).unwrap();
            let mark = socket2::SockRef::from(&answering).mark().unwrap();
            assert_eq!(mark, meltemi_bpf::MARK_DIRECT, "its answers leave by the main table");
        }
        assert!(shell("ip netns exec a nft list ruleset").is_empty());
        assert_eq!(node.verify(a.namespace.as_fd(), a.inode).unwrap(), Vec::<&str>::new());
        node.dispose().unwrap();
    });
}

#[test]
fn without_its_listener_a_captured_connection_goes_nowhere() {
    sandbox::run("without_its_listener_a_captured_connection_goes_nowhere", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        a.guard(&node);
        node.attach_redirect(a.namespace.as_fd(), a.inode).unwrap();
        route(&a);
        let sockets = sockets();
        // The application listens on the very port: neither what it dials nor what comes may end there.
        let mine = a.listen(at(Ipv4Addr::UNSPECIFIED.into(), 8080));
        mine.set_nonblocking(true).unwrap();
        let refused = |pod: &Pod, to: IpAddr| {
            assert!(pod.connect(at(to, 8080), NEVER).is_err());
            assert_eq!(mine.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{to} ended in the pod");
        };
        refused(&a, b.v4);
        refused(&b, a.v4);
        let proxy = serve(&a, &sockets);
        let client = a.connect(at(b.v4, 8080), SOON).unwrap();
        exchange(&client, &proxy.outbound[0].accept().unwrap().0).unwrap();
        // The data plane ends: its sockets leave the map with it.
        drop(proxy);
        refused(&a, b.v4);
        refused(&b, a.v4);

        // The redirection is flushed: the guard holds.
        node.detach_redirect(a.inode).unwrap();
        let theirs = b.listen(at(b.v4, 8080));
        shell("ip -n a -4 rule del pref 101");
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err(), "without the redirection the pod leaked");
        drop(theirs);
        node.dispose().unwrap();
    });
}
