//! The guard with real sockets: who passes, and who does not.
#![allow(clippy::unwrap_used)]

mod support;

use meltemi_bpf::{GuardAt, PodSettings, Udp};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use support::sandbox::{self, shell};
use support::{NEVER, Pod, SOON, arrives, at, counted, exchange, open, sockets};

#[test]
fn registered_sockets_pass_and_no_others() {
    sandbox::run("registered_sockets_pass_and_no_others", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        let attached = a.guard(&node);
        assert_eq!(attached.guard, Some(GuardAt::Host));
        assert_eq!(attached.interfaces[0].host.as_ref().unwrap().name, a.host_end);
        b.guard(&node);
        let sockets = sockets();
        for ip in [b.v4, b.v6] {
            let application = b.listen(at(ip, 8080));
            let proxy = b.proxy_listen(&sockets, at(ip, 15008));
            let before = counted(&node, &a, "unregistered_socket");
            assert!(a.connect(at(ip, 15008), NEVER).is_err(), "an application left the pod by itself");
            assert!(counted(&node, &a, "unregistered_socket") > before);

            let before = counted(&node, &b, "unregistered_listener");
            assert!(a.proxy_connect(&sockets, at(ip, 8080), NEVER).is_err(), "an application was reached");
            assert!(counted(&node, &b, "unregistered_listener") > before);

            let client = a.proxy_connect(&sockets, at(ip, 15008), SOON).unwrap();
            let (server, _) = proxy.accept().unwrap();
            exchange(&client, &server).unwrap();
            drop(application);
        }
        assert_eq!(counted(&node, &b, "plaintext_in"), 0);
        assert_eq!(node.verify(a.namespace.as_fd(), a.inode).unwrap(), Vec::<&str>::new());
        node.detach(a.inode).unwrap();
        node.detach(b.inode).unwrap();
        let application = b.listen(at(b.v4, 9090));
        let client = a.connect(at(b.v4, 9090), SOON).expect("without the guard everybody passes");
        exchange(&client, &application.accept().unwrap().0).unwrap();
        node.dispose().unwrap();
    });
}

#[test]
fn connections_from_before_go_on_and_new_ones_do_not() {
    sandbox::run("connections_from_before_go_on_and_new_ones_do_not", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        let mut pairs = Vec::new();
        for ip in [b.v4, b.v6] {
            let application = b.listen(at(ip, 8080));
            let client = a.connect(at(ip, 8080), SOON).unwrap();
            let server = application.accept().unwrap().0;
            // Connected, not accepted yet.
            let waiting = a.connect(at(ip, 8080), SOON).unwrap();
            pairs.push((application, client, server, waiting));
        }
        a.guard(&node);
        b.guard(&node);
        for (application, client, server, waiting) in &pairs {
            exchange(client, server).unwrap();
            exchange(waiting, &application.accept().unwrap().0).unwrap();
            assert!(a.connect(application.local_addr().unwrap(), NEVER).is_err(), "a new one passed");
        }
        assert!(counted(&node, &a, "before") > 0);
        // Adopted by another agent: what is there by then is not exempt for that.
        drop(node);
        let node = open();
        a.guard(&node);
        for (application, client, server, _) in &pairs {
            exchange(client, server).unwrap();
            assert!(a.connect(application.local_addr().unwrap(), NEVER).is_err(), "a new one passed");
        }
        node.dispose().unwrap();
    });
}

#[test]
fn a_process_of_the_host_reaches_applications_and_nobody_in_its_name() {
    sandbox::run("a_process_of_the_host_reaches_applications_and_nobody_in_its_name", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        b.guard(&node);
        for ip in [b.v4, b.v6] {
            let application = b.listen(at(ip, 8080));
            let probe = TcpStream::connect_timeout(&at(ip, 8080), SOON).unwrap();
            exchange(&probe, &application.accept().unwrap().0).unwrap();
        }
        assert!(counted(&node, &b, "host") > 0);
        // A client whose address becomes the host's on the way is not the host.
        shell(
            "nft add table ip nat && nft add chain ip nat post '{ type nat hook postrouting priority 100; }' \
               && nft add rule ip nat post oifname hb masquerade",
        );
        let _application = b.listen(at(b.v4, 8081));
        let (masqueraded, before) = (a.connect(at(b.v4, 8081), NEVER), counted(&node, &b, "host"));
        assert!(masqueraded.is_err(), "a masqueraded client passed for the host");
        assert!(counted(&node, &b, "unregistered_listener") > 0);
        assert_eq!(counted(&node, &b, "host"), before);
        node.dispose().unwrap();
    });
}

#[test]
fn what_is_excluded_passes_both_ways() {
    sandbox::run("what_is_excluded_passes_both_ways", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        let outward = PodSettings {
            exclude_outbound_ports: vec![8080],
            exclude_outbound_cidrs: vec![("fd09:2::".parse().unwrap(), 64)],
            ..a.settings()
        };
        node.attach_guard(a.namespace.as_fd(), a.inode, &outward).unwrap();
        let inward = PodSettings { exclude_inbound_ports: vec![8080, 8082], ..b.settings() };
        node.attach_guard(b.namespace.as_fd(), b.inode, &inward).unwrap();
        let reach = |to: SocketAddr, application: &TcpListener| {
            let client = a.connect(to, SOON).unwrap();
            exchange(&client, &application.accept().unwrap().0).unwrap();
        };
        let port = b.listen(at(b.v4, 8080));
        reach(at(b.v4, 8080), &port);
        let range = b.listen(at(b.v6, 8082));
        reach(at(b.v6, 8082), &range);
        assert!(counted(&node, &a, "excluded") > 0 && counted(&node, &b, "excluded") > 0);

        let other = b.listen(at(b.v4, 8081));
        assert!(a.connect(at(b.v4, 8081), NEVER).is_err(), "another port of the same pod is not excluded");
        // From the excluded port as its source nothing is exempt.
        let sly = a.inside(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&at(a.v4, 8080).into()).unwrap();
            socket.connect_timeout(&at(b.v4, 8081).into(), NEVER)
        });
        assert!(sly.is_err(), "a source port was taken for an exemption");

        // All of them from now on.
        node.update(b.inode, &PodSettings { bypass_inbound: true, ..b.settings() }).unwrap();
        node.detach(a.inode).unwrap();
        reach(at(b.v4, 8081), &other);
        assert!(
            b.connect(at(a.v4, 1), NEVER).is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
        );
        node.dispose().unwrap();
    });
}

#[test]
fn udp_passes_is_counted_and_can_be_refused() {
    sandbox::run("udp_passes_is_counted_and_can_be_refused", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        a.guard(&node);
        let bind = |pod: &Pod, port| {
            let socket = pod.inside(|| UdpSocket::bind(at(pod.v4, port)).unwrap());
            socket.set_read_timeout(Some(NEVER)).unwrap();
            socket
        };
        let (client, server, dns) = (bind(&a, 4000), bind(&b, 5000), bind(&b, 53));
        client.send_to(b"one", at(b.v4, 5000)).unwrap();
        assert_eq!(server.recv(&mut [0; 8]).unwrap(), 3);
        assert_eq!(counted(&node, &a, "udp"), 1);
        let refusing = PodSettings { udp: Udp::Refuse, exclude_outbound_ports: vec![53], ..a.settings() };
        node.update(a.inode, &refusing).unwrap();
        client.send_to(b"two", at(b.v4, 5000)).unwrap();
        client.send_to(b"name?", at(b.v4, 53)).unwrap();
        assert_eq!(dns.recv(&mut [0; 8]).unwrap(), 5);
        dns.send_to(b"name", at(a.v4, 4000)).unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
        server.send_to(b"in", at(a.v4, 4000)).unwrap();
        assert!(server.recv(&mut [0; 8]).is_err(), "UDP left though it is refused");
        assert!(client.recv(&mut [0; 8]).is_err(), "UDP came though it is refused");
        assert_eq!(counted(&node, &a, "udp_refused"), 2);
        node.dispose().unwrap();
    });
}

#[test]
fn while_a_pod_leaves_everything_passes() {
    sandbox::run("while_a_pod_leaves_everything_passes", || {
        let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
        let node = open();
        a.guard(&node);
        // The application and the proxy, within the pod.
        let proxy = a.proxy_listen(&sockets(), at("127.0.0.1".parse().unwrap(), 15001));
        let carried = a.connect(proxy.local_addr().unwrap(), SOON).unwrap();
        let _accepted = proxy.accept().unwrap();
        let application = b.listen(at(b.v4, 8080));
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());
        assert_eq!(node.mark_for_drain(a.namespace.as_fd(), a.inode).unwrap(), 1);
        assert_eq!(socket2::SockRef::from(&carried).mark().unwrap(), meltemi_bpf::MARK_CARRIED);
        let direct = a.connect(at(b.v4, 8080), SOON).expect("new connections go directly");
        let server = application.accept().unwrap().0;
        exchange(&direct, &server).unwrap();
        // It stays, after all.
        a.guard(&node);
        assert!(a.connect(at(b.v4, 8080), NEVER).is_err());
        assert!(!arrives(&direct, &server), "what began while the pod was leaving is not the proxy's");
        node.dispose().unwrap();
    });
}
