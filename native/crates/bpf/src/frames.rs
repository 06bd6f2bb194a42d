//! The guard upon made-up frames, in the kernel (BPF_PROG_TEST_RUN): how it reads them, and what it counts.
//! A frame that is run so has a socket, of no type that could send TCP: what is read well and not exempt is
//! dropped for it on the way out.

#![allow(clippy::unwrap_used)]

use crate::abi::REASONS;
use crate::layout::{COUNTERS, Counters, MAPS, Place, SETTINGS, Settings};
use crate::settings::{PodSettings, Udp};
use crate::sys::{self, Map, Plain};
use crate::template::{self, KernelTypes, Programs, Template};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

const DROP: i32 = 2;
const NEXT: i32 = -1;
const COOKIE: u64 = 1 << 40;
const POD4: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 9, 2, 2);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd09, 1, 0, 0, 0, 0, 0, 2);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 2, 0, 0, 0, 0, 0, 2);
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;

struct Guard {
    programs: Programs,
    maps: HashMap<&'static str, OwnedFd>,
}

impl Guard {
    /// `None` without the privilege to load programs.
    fn load() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: needs root");
            return None;
        }
        let template = Template::new(template::guard(), &KernelTypes::read().unwrap()).unwrap();
        let maps: HashMap<_, _> =
            MAPS.iter().map(|(name, pin)| (*pin, template.create_map(name).unwrap())).collect();
        let home = 1_u64;
        let constants = [("home_cookie", home.bytes())];
        let programs = template.load(None, &template::node_maps(&maps), &constants).unwrap();
        let settings = PodSettings {
            addresses: vec![POD4.into(), POD6.into()],
            exclude_inbound_ports: vec![7],
            exclude_outbound_ports: vec![],
            exclude_outbound_cidrs: vec![(Ipv4Addr::new(10, 8, 0, 0).into(), 16)],
            bypass_inbound: false,
            udp: Udp::Pass,
        };
        let settings = Settings { netns_cookie: COOKIE, netns_id: -1, ..settings.compile().unwrap() };
        // The kernel runs frames as if lo had them.
        let map: Map<Place, Settings> = Map::new(maps[SETTINGS].try_clone().unwrap()).unwrap();
        map.set(&Place::host_end(1), &settings).unwrap();
        let guard = Self { programs, maps };
        guard.reset();
        Some(guard)
    }

    fn reset(&self) {
        let zero = vec![0_u8; size_of::<Counters>() * cpus()];
        sys::map_update(self.maps[COUNTERS].as_fd(), COOKIE.bytes(), &zero, 0).unwrap();
    }

    /// The verdict, and the one reason that was counted, if any.
    fn judge(&self, program: &str, frame: &[u8], gso_size: u32) -> (i32, Option<&'static str>) {
        self.reset();
        let mut context = [0_u8; 192];
        context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
        let program = self.programs.get(program).unwrap();
        let verdict = sys::prog_test_run(program, frame, &context).unwrap();
        let mut values = vec![0_u8; size_of::<Counters>() * cpus()];
        sys::map_lookup(self.maps[COUNTERS].as_fd(), COOKIE.bytes(), &mut values).unwrap().unwrap();
        let counted: Vec<_> = values
            .chunks_exact(8)
            .enumerate()
            .filter(|(_, count)| **count != [0; 8])
            .map(|(index, _)| REASONS[index % REASONS.len()])
            .collect();
        assert!(counted.len() <= 1, "one packet was counted as {counted:?}");
        (verdict, counted.first().copied())
    }

    fn out(&self, frame: &[u8]) -> (i32, Option<&'static str>) {
        self.judge("guard_from_pod", frame, 0)
    }

    fn inward(&self, frame: &[u8]) -> (i32, Option<&'static str>) {
        self.judge("guard_to_pod", frame, 0)
    }
}

fn cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    text.trim().rsplit(['-', ',']).next().unwrap().parse::<usize>().unwrap() + 1
}

fn ethernet(ether_types: &[u16], body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for (index, ether_type) in ether_types.iter().enumerate() {
        if index > 0 {
            frame.extend([0, 1]);
        }
        frame.extend(ether_type.to_be_bytes());
    }
    frame.extend(body);
    frame
}

fn tcp(flags: u8, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports[0].to_be_bytes());
    segment.extend(ports[1].to_be_bytes());
    segment.extend([0; 8]);
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + body.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(body);
    ethernet(&[0x0800], &packet)
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(body);
    ethernet(&[0x86dd], &packet)
}

fn out4(body: &[u8]) -> Vec<u8> {
    ipv4(POD4, PEER4, TCP, body)
}

fn in4(body: &[u8]) -> Vec<u8> {
    ipv4(PEER4, POD4, TCP, body)
}

/// With bytes put in at an offset.
fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

const IP: usize = 14;
const TCP4: usize = IP + 20;

#[test]
fn frames_from_the_pod_are_read_to_the_end_or_dropped() {
    let Some(guard) = Guard::load() else { return };
    let syn = tcp(SYN, [40_000, 80], &[]);
    let read = (DROP, Some("raw_socket"));
    let malformed = (DROP, Some("malformed"));
    let options = with(out4(&[&[1; 40][..], &syn].concat()), IP, &[0x4f]);
    let tagged = |tags: &[u16]| ethernet(&[tags, &[0x0800]].concat(), &out4(&syn)[IP..]);
    for (what, frame, expected) in [
        ("a SYN", out4(&syn), read),
        ("ARP", ethernet(&[0x0806], &[0; 28]), (NEXT, None)),
        ("one VLAN tag", tagged(&[0x8100]), read),
        ("two VLAN tags", tagged(&[0x88a8, 0x8100]), read),
        ("three VLAN tags", tagged(&[0x88a8, 0x8100, 0x8100]), malformed),
        ("a VLAN tag and no more", ethernet(&[0x8100], &[0, 1]), malformed),
        ("IP options", options, read),
        ("another version", with(out4(&syn), IP, &[0x65]), malformed),
        ("a header too short", with(out4(&syn), IP, &[0x44]), malformed),
        ("longer than the frame", with(out4(&syn), IP + 2, &[0, 41]), malformed),
        ("shorter than its header", with(out4(&syn), IP + 2, &[0, 19]), malformed),
        ("no length", with(out4(&syn), IP + 2, &[0, 0]), malformed),
        ("a first fragment", with(out4(&syn), IP + 6, &[0x20, 0]), read),
        ("another fragment", with(out4(&[0; 8]), IP + 6, &[0, 1]), read),
        ("a TCP header too short", with(out4(&syn), TCP4 + 12, &[4 << 4]), malformed),
        ("a TCP header beyond the end", with(out4(&syn), TCP4 + 12, &[6 << 4]), malformed),
        ("UDP", ipv4(POD4, PEER4, UDP, &[0; 8]), (NEXT, Some("udp"))),
        ("UDP cut short", ipv4(POD4, PEER4, UDP, &[0; 7]), malformed),
        ("ICMP", ipv4(POD4, PEER4, 1, &[]), (NEXT, None)),
        ("to an excluded range", ipv4(POD4, Ipv4Addr::new(10, 8, 3, 4), TCP, &syn), (NEXT, Some("excluded"))),
    ] {
        assert_eq!(guard.out(&frame), expected, "{what}");
    }
    // BIG TCP: only a segment that the kernel made has no length.
    let big = with(out4(&tcp(ACK, [40_000, 80], &[1; 64])), IP + 2, &[0, 0]);
    assert_eq!(guard.judge("guard_from_pod", &big, 16), read);
    // Behind a tag, because the kernel itself refuses to run an IP header cut short.
    let whole = tagged(&[0x8100]);
    for length in IP + 1..whole.len() {
        assert_eq!(guard.out(&whole[..length]), malformed, "cut to {length} bytes");
    }
}

#[test]
fn extension_headers_are_walked_through() {
    let Some(guard) = Guard::load() else { return };
    let syn = tcp(SYN, [40_000, 80], &[]);
    let read = (DROP, Some("raw_socket"));
    let malformed = (DROP, Some("malformed"));
    let out = |next: u8, body: &[u8]| ipv6(POD6, PEER6, next, body);
    let chain = |headers: &[&[u8]]| [&headers.concat()[..], &syn].concat();
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let (hop, routing, fragment, authentication, destination) = (0, 43, 44, 51, 60);
    let ah = |next: u8| [&[next, 1, 0, 0][..], &[0; 8]].concat();
    let mapped: Ipv6Addr = "::ffff:10.9.1.2".parse().unwrap();
    let many = |count: usize| {
        let mut body: Vec<u8> = (1..count).flat_map(|_| options(destination)).collect();
        body.extend(options(TCP));
        [&body[..], &syn].concat()
    };
    for (what, frame, expected) in [
        ("a SYN", out(TCP, &syn), read),
        ("hop by hop", out(hop, &chain(&[&options(TCP)])), read),
        ("routing, then destination", out(routing, &chain(&[&options(destination), &options(TCP)])), read),
        ("authentication", out(authentication, &chain(&[&ah(TCP)])), read),
        ("eight headers", out(destination, &many(8)), read),
        ("nine headers", out(destination, &many(9)), malformed),
        ("an unfragmented fragment", out(fragment, &chain(&[&[TCP, 0, 0, 0, 0, 0, 0, 9]])), read),
        ("a first fragment", out(fragment, &chain(&[&[TCP, 0, 0, 1, 0, 0, 0, 9]])), read),
        ("another fragment", out(fragment, &[TCP, 0, 0, 8, 0, 0, 0, 9, 0]), read),
        ("a header beyond the end", out(hop, &chain(&[&[TCP, 9, 1, 4, 0, 0, 0, 0]])), malformed),
        ("a header cut short", out(hop, &[TCP, 0, 1, 4]), malformed),
        ("a mapped source", ipv6(mapped, PEER6, TCP, &syn), malformed),
        ("a mapped destination", ipv6(POD6, mapped, TCP, &syn), malformed),
        ("another version", with(out(TCP, &syn), IP, &[0x40]), malformed),
        ("longer than the frame", with(out(TCP, &syn), IP + 4, &[0, 21]), malformed),
        ("encrypted", out(50, &[0; 16]), (NEXT, None)),
        ("nothing inside", out(59, &[]), (NEXT, None)),
        ("a jumbogram", with(out(hop, &chain(&[&options(TCP)])), IP + 4, &[0, 0]), read),
    ] {
        assert_eq!(guard.out(&frame), expected, "{what}");
    }
    let whole = ethernet(&[0x8100, 0x86dd], &out(hop, &chain(&[&options(TCP)]))[IP..]);
    for length in IP + 1..whole.len() {
        assert_eq!(guard.out(&whole[..length]), malformed, "cut to {length} bytes");
    }
}

#[test]
fn frames_to_the_pod_are_judged_by_address_port_and_payload() {
    let Some(guard) = Guard::load() else { return };
    let (syn, data) = (tcp(SYN, [40_000, 80], &[]), tcp(ACK, [40_000, 80], b"plain"));
    let to = |port: u16| tcp(SYN, [40_000, port], &[]);
    let plaintext = (DROP, Some("plaintext_in"));
    let localhost = Ipv4Addr::LOCALHOST;
    for (what, frame, expected) in [
        ("a SYN", in4(&syn), (NEXT, None)),
        ("a padded SYN", [in4(&syn), vec![1; 6]].concat(), (NEXT, None)),
        ("a SYN over IPv6", ipv6(PEER6, POD6, TCP, &syn), (NEXT, None)),
        ("payload", in4(&data), plaintext),
        ("payload over IPv6", ipv6(PEER6, POD6, TCP, &data), plaintext),
        ("payload in a SYN", in4(&tcp(SYN, [40_000, 80], b"x")), plaintext),
        ("a jumbogram", with(ipv6(PEER6, POD6, TCP, &data), IP + 4, &[0, 0]), plaintext),
        ("a fragment", with(in4(&data), IP + 6, &[0x20, 0]), (DROP, Some("malformed"))),
        ("from the pod itself", ipv4(POD4, POD4, TCP, &syn), (DROP, Some("spoofed"))),
        ("from the pod itself, ICMP", ipv4(POD4, POD4, 1, &[]), (DROP, Some("spoofed"))),
        ("from the pod itself over IPv6", ipv6(POD6, POD6, TCP, &syn), (DROP, Some("spoofed"))),
        ("from localhost", ipv4(localhost, POD4, TCP, &syn), (DROP, Some("spoofed"))),
        ("from localhost over IPv6", ipv6(Ipv6Addr::LOCALHOST, POD6, TCP, &syn), (DROP, Some("spoofed"))),
        ("to localhost", ipv4(PEER4, localhost, TCP, &syn), (DROP, Some("not_for_pod"))),
        ("to localhost, UDP", ipv4(PEER4, localhost, UDP, &[0; 8]), (DROP, Some("not_for_pod"))),
        ("to another", ipv4(PEER4, PEER4, TCP, &syn), (DROP, Some("not_for_pod"))),
        ("to the outbound port", in4(&to(15001)), (DROP, Some("proxy_port"))),
        ("to the plaintext port", in4(&to(15006)), (DROP, Some("proxy_port"))),
        ("to the tunnels' port", in4(&to(15008)), (NEXT, None)),
        ("to an excluded port", in4(&to(7)), (NEXT, Some("excluded"))),
        ("payload, after that", in4(&tcp(ACK, [40_000, 7], b"x")), (NEXT, Some("excluded"))),
        ("from another port", in4(&tcp(ACK, [40_001, 7], b"x")), plaintext),
    ] {
        assert_eq!(guard.inward(&frame), expected, "{what}");
    }
    let big = with(in4(&data), IP + 2, &[0, 0]);
    assert_eq!(guard.judge("guard_to_pod", &big, 16), plaintext, "a segment too big for its length");
}
