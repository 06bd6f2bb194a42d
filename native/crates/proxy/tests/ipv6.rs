//! IPv6 and dual stack: real processes, real sockets.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use meltemi_types::discovery::ResourceType;
use meltemi_types::workload::{Address, NetworkAddress, address};
use prost::Message;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use support::control::Object;
use support::objects::{PodSpec, deny_account, service, strict};
use support::sandbox::{self, shell};
use support::soon;
use support::world::{Pod, Proxy, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// IPv6's part of what the node agent sets in an enrolled pod.
const CAPTURE: &str = r#"
ip -6 route add local default dev lo table 100
ip -6 rule add fwmark 0x111/0xfff lookup 100
nft -f - <<RULES
table ip6 meltemi6 {
  chain redirect_in {
    type nat hook prerouting priority dstnat; policy accept;
    iif "lo" accept
    tcp dport 15008 accept
    tcp flags & (fin | syn | rst | ack) == syn redirect to :15006
  }
  chain redirect_out {
    type nat hook output priority -100; policy accept;
    oif "lo" accept
    meta mark & 0xfff == 0x539 accept
    tcp flags & (fin | syn | rst | ack) == syn redirect to :15001
  }
}
RULES
"#;

fn spec(name: &'static str, last: u8, node: &'static str) -> PodSpec {
    PodSpec {
        name,
        ip: Ipv4Addr::new(10, 77, 0, last),
        account: name,
        node,
        hbone: true,
        services: Vec::new(),
        policies: Vec::new(),
    }
}

/// The IPv6 address of the pod with an IPv4 address.
fn v6(pod: &PodSpec) -> Ipv6Addr {
    let last = pod.ip.octets()[3];
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into())
}

#[derive(Clone, Copy, PartialEq)]
enum Stack {
    Dual,
    Ipv6Only,
}

/// Gives a pod its IPv6 address, and tells discovery. On the link, and with capture, as the agent does.
fn give_ipv6(world: &World, name: &str, stack: Stack) {
    let pod = world.pod(name);
    let (ip, old) = (v6(&pod.spec), pod.spec.ip);
    shell(&format!(
        "ip -n {name} addr add {ip}/64 dev eth0 nodad
         ip -n {name} -6 route add default via fd77::100"
    ));
    if stack == Stack::Ipv6Only {
        shell(&format!("ip -n {name} addr del {old}/24 dev eth0"));
    }
    if pod.spec.hbone {
        shell(&format!("ip netns exec {name} sh -ec '{CAPTURE}'"));
    }
    let addresses: Vec<IpAddr> = match stack {
        Stack::Dual => vec![old.into(), ip.into()],
        Stack::Ipv6Only => vec![ip.into()],
    };
    world.control.put(with_addresses(pod.spec.object(), &addresses));
}

/// A rule that refuses clients by their address.
fn deny_range(name: &str, network: IpAddr, length: u32) -> Object {
    use meltemi_types::security::{self, Authorization, Clause, Match, Rule};
    let range = security::Address { address: octets(network).into(), length };
    let matched = Match { source_ips: vec![range], ..Match::default() };
    let mut object = deny_account(name, "nobody");
    let mut message = Authorization::decode(object.body.as_slice()).unwrap();
    message.rules = vec![Rule { clauses: vec![Clause { matches: vec![matched] }] }];
    object.body = message.encode_to_vec();
    object
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The object with other addresses.
fn with_addresses(mut object: Object, addresses: &[IpAddr]) -> Object {
    assert_eq!(object.kind, ResourceType::Address);
    let mut message = Address::decode(object.body.as_slice()).unwrap();
    match message.r#type.as_mut().unwrap() {
        address::Type::Workload(workload) => {
            workload.addresses = addresses.iter().map(|ip| octets(*ip).into()).collect();
        }
        address::Type::Service(service) => {
            let address = |ip: &IpAddr| NetworkAddress { address: octets(*ip).into(), ..Default::default() };
            service.addresses = addresses.iter().map(address).collect();
        }
    }
    object.body = message.encode_to_vec();
    object.aliases = addresses.iter().map(|ip| format!("/{ip}")).collect();
    object
}

/// `a` on node n1, `b` on node n2, `w` outside the mesh, each with the stack it is given.
fn world(specs: Vec<PodSpec>, stacks: &[(&str, Stack)]) -> World {
    let world = World::make(specs);
    shell("ip addr add fd77::100/64 dev bridge0 nodad");
    for (name, stack) in stacks {
        give_ipv6(&world, name, *stack);
    }
    world
}

fn three() -> Vec<PodSpec> {
    vec![spec("a", 2, "n1"), spec("b", 3, "n2"), PodSpec { hbone: false, ..spec("w", 4, "n1") }]
}

fn dual_three() -> World {
    world(three(), &[("a", Stack::Dual), ("b", Stack::Dual), ("w", Stack::Dual)])
}

async fn both(world: &World) -> (Proxy, Proxy) {
    (world.proxy("n1").await, world.proxy("n2").await)
}

fn at(pod: &Pod, port: u16) -> SocketAddr {
    SocketAddr::from((v6(&pod.spec), port))
}

/// Opens a socket as the pod's application does, of the destination's family.
async fn connect(pod: &Pod, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = pod.netns.run(|| if to.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() });
    soon("connect", socket.unwrap().unwrap().connect(to)).await
}

fn listen(pod: &Pod, address: &str) -> TcpListener {
    let socket = pod.netns.run(|| std::net::TcpListener::bind(address)).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpListener::from_std(socket).unwrap()
}

/// Tells each client the address it comes from and the one it came to, then sends back what comes.
fn echo(pod: &Pod, address: &str) {
    let listener = listen(pod, address);
    tokio::spawn(async move {
        while let Ok((mut socket, peer)) = listener.accept().await {
            tokio::spawn(async move {
                let local = socket.local_addr().unwrap();
                let line = format!("{} {}\n", peer.ip().to_canonical(), local.ip().to_canonical());
                let _ = socket.write_all(line.as_bytes()).await;
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
}

async fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        let byte = soon("line", stream.read_u8()).await?;
        if byte == b'\n' {
            return Ok(String::from_utf8(line).unwrap());
        }
        line.push(byte);
    }
}

async fn refused(pod: &Pod, to: SocketAddr) -> ErrorKind {
    let mut stream = match connect(pod, to).await {
        Ok(stream) => stream,
        Err(error) => return error.kind(),
    };
    line(&mut stream).await.expect_err("the connection was carried").kind()
}

#[test]
fn a_connection_over_ipv6_is_carried_with_identity_and_address() {
    sandbox::run("a_connection_over_ipv6_is_carried_with_identity_and_address", || async {
        let world = dual_three();
        let (n1, n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, "[::]:8080");
        let mut stream = connect(a, at(b, 8080)).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "fd77::2 fd77::3");
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        soon("echo", stream.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "hello");

        let out = n1.record("outbound record", |r| r["direction"] == "outbound").await;
        assert_eq!(out["protocol"], "hbone");
        assert_eq!(out["dst_addr"], "[fd77::3]:8080");
        assert_eq!(out["dst_hbone_addr"], "[fd77::3]:8080");
        assert_eq!(out["dst_identity"], "spiffe://cluster.local/ns/default/sa/b");
        assert_eq!(out["reason"], serde_json::Value::Null);
        let inbound = n2.record("inbound record", |r| r["direction"] == "inbound").await;
        assert_eq!(inbound["src_identity"], "spiffe://cluster.local/ns/default/sa/a");
        assert_eq!(inbound["dst_hbone_addr"], "[fd77::3]:8080");
        assert_eq!(inbound["src_workload"], "a");
        assert_eq!(inbound["src_addr"], out["src_addr"], "the records of both ends cannot be matched");
        assert!(out["src_addr"].as_str().unwrap().starts_with("[fd77::2]:"), "{out}");
    });
}

#[test]
fn each_family_of_a_dual_stack_pod_is_carried_as_itself() {
    sandbox::run("each_family_of_a_dual_stack_pod_is_carried_as_itself", || async {
        let world = dual_three();
        let (n1, n2) = both(&world).await;
        let (a, b, w) = (world.pod("a"), world.pod("b"), world.pod("w"));
        // A socket of both families: it has IPv4 clients by their mapped addresses.
        echo(b, "[::]:8080");
        echo(w, "[::]:8080");
        for (to, seen) in [(b.at(8080), "10.77.0.2 10.77.0.3"), (at(b, 8080), "fd77::2 fd77::3")] {
            let mut stream = connect(a, to).await.unwrap();
            assert_eq!(line(&mut stream).await.unwrap(), seen);
        }
        // An application that dials IPv4 through an IPv6 socket.
        let mapped = SocketAddr::from((b.spec.ip.to_ipv6_mapped(), 8080));
        let mut stream = connect(a, mapped).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "10.77.0.2 10.77.0.3");
        drop(stream);
        let count = |r: &serde_json::Value| r["protocol"] == "hbone" && r["dst_addr"] == "10.77.0.3:8080";
        soon("both records", async {
            while n2.records().iter().filter(|r| count(r)).count() < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
        // To a workload outside the mesh and to an address that nobody has.
        let mut stream = connect(a, at(w, 8080)).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "fd77::2 fd77::4");
        let outside = tokio::net::TcpListener::bind("[fd77::100]:9000").await.unwrap();
        let stream = connect(a, "[fd77::100]:9000".parse().unwrap()).await.unwrap();
        let (_, from) = soon("accept", outside.accept()).await.unwrap();
        assert_eq!(from.ip(), IpAddr::from(v6(&a.spec)));
        drop(stream);
        n1.record("passthrough", |r| r["dst_addr"] == "[fd77::100]:9000" && r["protocol"] == "tcp").await;
        let dump = n1.get("/config_dump").await;
        assert!(dump["negative"].as_array().unwrap().contains(&"/fd77::100".into()), "{}", dump["negative"]);
    });
}

#[test]
fn pods_that_have_ipv6_alone_are_served() {
    sandbox::run("pods_that_have_ipv6_alone_are_served", || async {
        let mut specs = three();
        specs[1].policies = vec!["istio_converted_static_strict"];
        let world = world(specs, &[("a", Stack::Ipv6Only), ("b", Stack::Ipv6Only), ("w", Stack::Ipv6Only)]);
        world.control.put(strict());
        let (_n1, n2) = both(&world).await;
        let (a, b, w) = (world.pod("a"), world.pod("b"), world.pod("w"));
        echo(b, "[::]:8080");
        echo(a, "[::]:8080");
        let mut stream = connect(a, at(b, 8080)).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "fd77::2 fd77::3");
        // From outside: into the permissive one with its address, into the strict one not.
        let mut stream = connect(w, at(a, 8080)).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "fd77::4 fd77::2");
        assert_eq!(refused(w, at(b, 8080)).await, ErrorKind::ConnectionReset);
        let record = n2.record("refusal", |r| r["reason"] == "strict_plaintext_refused").await;
        assert_eq!(record["dst_addr"], "[fd77::3]:8080");
        assert!(record["src_addr"].as_str().unwrap().starts_with("[fd77::4]:"), "{record}");
    });
}

#[test]
fn a_pod_without_ipv6_is_served() {
    sandbox::run("a_pod_without_ipv6_is_served", || async {
        let world = World::make(three());
        for name in ["a", "b"] {
            shell(&format!(
                "ip netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1"
            ));
        }
        let (_n1, _n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, "0.0.0.0:8080");
        let mut stream = connect(a, b.at(8080)).await.unwrap();
        assert_eq!(line(&mut stream).await.unwrap(), "10.77.0.2 10.77.0.3");
    });
}

#[test]
fn the_data_plane_itself_cannot_be_dialled_over_ipv6() {
    sandbox::run("the_data_plane_itself_cannot_be_dialled_over_ipv6", || async {
        let world = dual_three();
        let (n1, n2) = both(&world).await;
        let (a, b, w) = (world.pod("a"), world.pod("b"), world.pod("w"));
        for port in [15001, 15006] {
            for to in [at(a, port), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
                assert_eq!(refused(a, to).await, ErrorKind::ConnectionReset, "{to}");
            }
            assert_eq!(refused(w, at(b, port)).await, ErrorKind::ConnectionReset, "{port}");
            // Through a tunnel it is the peer that refuses.
            assert_eq!(refused(a, at(b, port)).await, ErrorKind::ConnectionReset, "{port}");
        }
        n1.record("loop", |r| r["reason"] == "loop" && r["dst_addr"] == "[fd77::2]:15001").await;
        n1.record("loop", |r| r["reason"] == "loop" && r["dst_addr"] == "[::1]:15006").await;
        n1.record("bad request", |r| r["reason"] == "peer_bad_request").await;
        n2.record("loop", |r| r["reason"] == "loop" && r["dst_addr"] == "[fd77::3]:15006").await;
    });
}

#[test]
fn a_service_of_both_families_answers_in_the_clients() {
    sandbox::run("a_service_of_both_families_answers_in_the_clients", || async {
        let host = "web.default.svc.cluster.local";
        let mut specs = three();
        specs.push(spec("c", 5, "n2"));
        for name in ["b", "c"] {
            specs.iter_mut().find(|s| s.name == name).unwrap().services = vec![(host, 80, 8080)];
        }
        // c has IPv4 alone.
        let world = world(specs, &[("a", Stack::Dual), ("b", Stack::Dual)]);
        let vips: [IpAddr; 2] = ["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()];
        world.control.put(with_addresses(service(host, Ipv4Addr::new(10, 96, 0, 1), 80, 8080), &vips));
        let (n1, _n2) = both(&world).await;
        for name in ["b", "c"] {
            echo(world.pod(name), "[::]:8080");
        }
        let mut seen = std::collections::BTreeSet::new();
        for vip in vips {
            for _ in 0..8 {
                let mut stream = connect(world.pod("a"), SocketAddr::new(vip, 80)).await.unwrap();
                seen.insert((vip.is_ipv6(), line(&mut stream).await.unwrap()));
            }
        }
        let wanted = [
            (false, "10.77.0.2 10.77.0.3".to_owned()),
            (false, "10.77.0.2 10.77.0.5".to_owned()),
            (true, "fd77::2 fd77::3".to_owned()),
        ];
        assert_eq!(seen, wanted.into());
        let record =
            n1.record("record", |r| r["dst_service"] == host && r["dst_addr"] == "[fd96::1]:80").await;
        assert_eq!(record["dst_hbone_addr"], "[fd77::3]:8080");
    });
}

#[test]
fn an_endpoint_that_is_not_reached_over_one_family_is_tried_over_the_other() {
    sandbox::run("an_endpoint_that_is_not_reached_over_one_family_is_tried_over_the_other", || async {
        let host = "web.default.svc.cluster.local";
        let mut specs = three();
        specs[1].services = vec![(host, 80, 8080)];
        let world = world(specs, &[("a", Stack::Dual), ("b", Stack::Dual)]);
        let vips: [IpAddr; 2] = ["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()];
        world.control.put(with_addresses(service(host, Ipv4Addr::new(10, 96, 0, 1), 80, 8080), &vips));
        // Nothing takes tunnels at the IPv6 address that discovery tells of.
        let b = world.pod("b");
        let dead: [IpAddr; 2] = [b.spec.ip.into(), "fd77::100".parse().unwrap()];
        world.control.put(with_addresses(b.spec.object(), &dead));
        let (n1, _n2) = both(&world).await;
        echo(b, "[::]:8080");
        let mut stream = connect(world.pod("a"), SocketAddr::new(vips[1], 80)).await.unwrap();
        // From the address that the client has in the other family.
        assert_eq!(line(&mut stream).await.unwrap(), "10.77.0.2 10.77.0.3");
        drop(stream);
        let record = n1.record("record", |r| r["dst_service"] == host).await;
        assert_eq!(record["dst_hbone_addr"], "10.77.0.3:8080");
        assert_eq!(record["dst_addr"], "[fd96::1]:80");
    });
}

#[test]
fn a_tunnel_is_for_the_one_address_that_it_was_made_to() {
    sandbox::run("a_tunnel_is_for_the_one_address_that_it_was_made_to", || async {
        let world = dual_three();
        let (n1, n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, "[::]:8080");
        // One tunnel to each address; both families of one pod are never mixed in one.
        for to in [b.at(8080), at(b, 8080), b.at(8080), at(b, 8080)] {
            let mut stream = connect(a, to).await.unwrap();
            line(&mut stream).await.unwrap();
        }
        // An address that the pod has, and that discovery does not know it by.
        shell("ip -n b addr add fd77::3:3/64 dev eth0 nodad");
        let stray = SocketAddr::from((Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 3, 3), 8080));
        assert_eq!(refused(a, stray).await, ErrorKind::ConnectionReset);
        let record = n2.record("refusal", |r| r["reason"] == "unknown_destination").await;
        assert_eq!(record["dst_addr"], "[fd77::3:3]:8080");
        n1.record("passed on", |r| r["dst_addr"] == "[fd77::3:3]:8080" && r["protocol"] == "tcp").await;
    });
}

#[test]
fn policies_judge_ipv6_addresses() {
    sandbox::run("policies_judge_ipv6_addresses", || async {
        let mut specs = three();
        specs[1].policies = vec!["deny-net"];
        specs.push(spec("c", 5, "n1"));
        let world = world(specs, &[("a", Stack::Dual), ("b", Stack::Dual), ("c", Stack::Dual)]);
        // The range holds a (fd77::2) and not c (fd77::5), and no IPv4 address at all.
        world.control.put(deny_range("deny-net", "fd77::".parse().unwrap(), 126));
        let (n1, n2) = both(&world).await;
        let (a, b, c) = (world.pod("a"), world.pod("b"), world.pod("c"));
        echo(b, "[::]:8080");
        assert_eq!(refused(a, at(b, 8080)).await, ErrorKind::ConnectionReset);
        let record = n2.record("refusal", |r| r["reason"] == "policy_denied").await;
        assert_eq!(record["policy"], "default/deny-net");
        assert!(record["src_addr"].as_str().unwrap().starts_with("[fd77::2]:"), "{record}");
        n1.record("told", |r| r["peer_policy"] == "default/deny-net").await;
        for (pod, to) in [(c, at(b, 8080)), (a, b.at(8080))] {
            let mut stream = connect(pod, to).await.unwrap();
            line(&mut stream).await.unwrap();
        }
    });
}
