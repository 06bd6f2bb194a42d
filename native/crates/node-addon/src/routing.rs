//! Policy rules and local routes of a network namespace, read and changed over rtnetlink: a program for each look
//! would cost more than everything else that is done for a pod.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use meltemi_bpf::netlink::{ACK, DUMP, attribute, attributes, converse};
use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;

use crate::descriptor::duplicate;
use crate::error::AddonError;
use crate::netns::inside;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// `struct fib_rule_hdr` and `struct rtmsg` are as long.
const HEADER_BYTES: usize = 12;
const LOOPBACK: u32 = 1;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RTM_F_CLONED: u32 = 0x200;

const FRA_DST: u16 = 1;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_DPORT_RANGE: u16 = 24;
const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
const SCOPE_NOWHERE: u8 = 255;

/// A policy rule, as far as capture has such: `src/node/capture/policy-routing.ts#Rule`.
#[napi(object)]
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    pub priority: u32,
    pub to: Option<String>,
    pub mark: Option<String>,
    pub local: Option<bool>,
    pub tcp: Option<bool>,
    pub port: Option<u32>,
    pub kernel: Option<bool>,
    pub table: Option<String>,
    pub goto: Option<u32>,
}

#[napi(object)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsRoute {
    pub local: bool,
    pub destination: String,
    pub table: String,
    pub device: String,
    pub source: Option<String>,
}

/// `local DESTINATION dev lo table TABLE src SOURCE`.
#[napi(object)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRoute {
    pub destination: String,
    pub table: String,
    pub source: Option<String>,
}

/// What a namespace has of one family. Routes: those to addresses and networks, and local ones.
#[napi(object)]
#[derive(Debug)]
pub struct NetnsRouting {
    pub rules: Vec<PolicyRule>,
    pub routes: Vec<NetnsRoute>,
}

#[napi(object)]
#[derive(Debug)]
pub struct RoutingChange {
    pub add_routes: Vec<LocalRoute>,
    pub add_rules: Vec<PolicyRule>,
    pub remove_rules: Vec<PolicyRule>,
    pub remove_routes: Vec<LocalRoute>,
}

#[napi]
pub fn read_netns_routing(env: &Env, fd: i32, ipv6: bool) -> Result<PromiseRaw<'_, NetnsRouting>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move { Ok(inside(namespace?, move || Family(ipv6).read()).await?) })
}

/// In this order: routes before the rules that point at them, rules added before others are taken away, routes
/// removed last. What is to be removed may be gone.
#[napi]
pub fn change_netns_routing(
    env: &Env,
    fd: i32,
    ipv6: bool,
    change: RoutingChange,
) -> Result<PromiseRaw<'_, ()>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move { Ok(inside(namespace?, move || Family(ipv6).change(&change)).await?) })
}

/// IPv6, or IPv4.
#[derive(Debug, Clone, Copy)]
struct Family(bool);

type Changed = std::result::Result<(), AddonError>;

impl Family {
    fn number(self) -> u8 {
        (if self.0 { libc::AF_INET6 } else { libc::AF_INET }) as u8
    }

    fn header(self) -> Vec<u8> {
        let mut body = vec![0_u8; HEADER_BYTES];
        body[0] = self.number();
        body
    }

    fn read(self) -> std::result::Result<NetnsRouting, AddonError> {
        let rules = self.dump(RTM_GETRULE, "list policy rules")?;
        let routes = self.dump(RTM_GETROUTE, "list routes")?;
        Ok(NetnsRouting {
            rules: rules.iter().filter_map(|message| self.parse_rule(message)).collect(),
            routes: routes.iter().filter_map(|message| self.parse_route(message)).collect(),
        })
    }

    /// A family that the kernel does not have has nothing.
    fn dump(self, kind: u16, action: &str) -> std::result::Result<Vec<Vec<u8>>, AddonError> {
        match converse(kind, DUMP, &self.header()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                Ok(Vec::new())
            }
            other => other.map_err(|error| AddonError::system(action, error)),
        }
    }

    fn change(self, change: &RoutingChange) -> Changed {
        for route in &change.add_routes {
            let flags = ACK | NLM_F_CREATE | NLM_F_REPLACE;
            self.send(RTM_NEWROUTE, flags, &self.route(route, false)?, || told("add", route))?;
        }
        for rule in &change.add_rules {
            let flags = ACK | NLM_F_CREATE | NLM_F_EXCL;
            self.send(RTM_NEWRULE, flags, &self.rule(rule, false)?, || told("add", rule))?;
        }
        for rule in &change.remove_rules {
            let sent = self.send(RTM_DELRULE, ACK, &self.rule(rule, true)?, || told("remove", rule));
            unless_gone(sent)?;
        }
        for route in &change.remove_routes {
            let sent = self.send(RTM_DELROUTE, ACK, &self.route(route, true)?, || told("remove", route));
            unless_gone(sent)?;
        }
        Ok(())
    }

    fn send(self, kind: u16, flags: u16, body: &[u8], action: impl FnOnce() -> String) -> Changed {
        converse(kind, flags, body).map(drop).map_err(|error| AddonError::system(action(), error))
    }

    fn rule(self, rule: &PolicyRule, removed: bool) -> std::result::Result<Vec<u8>, AddonError> {
        let mut body = self.header();
        body[7] = if rule.goto.is_some() { GOTO } else { TO_TABLE };
        let mut attributes = Vec::new();
        let mut add = |kind: u16, value: &[u8]| attribute(&mut attributes, kind, value);
        add(FRA_PRIORITY, &rule.priority.to_ne_bytes());
        if let Some(to) = &rule.to {
            let (address, bits) = self.network(to)?;
            body[1] = bits;
            add(FRA_DST, &octets(address));
        }
        if let Some(mark) = &rule.mark {
            let (value, mask) = marks(mark).ok_or_else(|| bad("mark", mark, "VALUE/MASK"))?;
            add(FRA_FWMARK, &value.to_ne_bytes());
            add(FRA_FWMASK, &mask.to_ne_bytes());
        }
        if rule.local == Some(true) {
            add(FRA_IIFNAME, b"lo\0");
        }
        if rule.tcp == Some(true) {
            add(FRA_IP_PROTO, &[libc::IPPROTO_TCP as u8]);
        }
        if let Some(port) = rule.port {
            let port = u16::try_from(port).map_err(|_| bad("port", port, "at most 65535"))?;
            add(FRA_DPORT_RANGE, &[port.to_ne_bytes(), port.to_ne_bytes()].concat());
        }
        if let Some(table) = &rule.table {
            add(FRA_TABLE, &table_number(table)?.to_ne_bytes());
        }
        if let Some(goto) = rule.goto {
            add(FRA_GOTO, &goto.to_ne_bytes());
        }
        // As the kernel's own is, where it stands for that.
        if rule.kernel == Some(true) && !removed {
            add(FRA_PROTOCOL, &[RTPROT_KERNEL]);
        }
        body.extend(attributes);
        Ok(body)
    }

    fn route(self, route: &LocalRoute, removed: bool) -> std::result::Result<Vec<u8>, AddonError> {
        let mut body = self.header();
        body[5] = if removed { 0 } else { RTPROT_BOOT };
        body[6] = match (self.0, removed) {
            (true, _) => 0,
            (false, false) => SCOPE_HOST,
            (false, true) => SCOPE_NOWHERE,
        };
        body[7] = LOCAL;
        let mut attributes = Vec::new();
        let mut add = |kind: u16, value: &[u8]| attribute(&mut attributes, kind, value);
        if route.destination != "default" {
            let (address, bits) = self.network(&route.destination)?;
            body[1] = bits;
            add(RTA_DST, &octets(address));
        }
        add(RTA_TABLE, &table_number(&route.table)?.to_ne_bytes());
        add(RTA_OIF, &LOOPBACK.to_ne_bytes());
        if let Some(source) = &route.source {
            add(RTA_PREFSRC, &octets(self.network(source)?.0));
        }
        body.extend(attributes);
        Ok(body)
    }

    /// An address, or ADDRESS/BITS.
    fn network(self, text: &str) -> std::result::Result<(IpAddr, u8), AddonError> {
        let most = self.bits();
        let parsed = match text.split_once('/') {
            None => text.parse().ok().map(|address: IpAddr| (address, most)),
            Some((address, bits)) => address.parse().ok().zip(bits.parse().ok()),
        };
        parsed
            .filter(|(address, bits)| address.is_ipv6() == self.0 && *bits <= most)
            .ok_or_else(|| bad("network", text, if self.0 { "one of IPv6" } else { "one of IPv4" }))
    }

    fn bits(self) -> u8 {
        if self.0 { 128 } else { 32 }
    }

    fn address(self, value: &[u8]) -> Option<IpAddr> {
        Some(if self.0 {
            Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()
        } else {
            Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()
        })
    }

    /// A network of one address without its length, as `ip` writes it.
    fn text(self, value: &[u8], bits: u8) -> Option<String> {
        let address = self.address(value)?;
        Some(if bits == self.bits() { address.to_string() } else { format!("{address}/{bits}") })
    }

    fn parse_rule(self, message: &[u8]) -> Option<PolicyRule> {
        let (bits, action) = (*message.get(1)?, *message.get(7)?);
        let mut rule = PolicyRule::default();
        let mut table = u32::from(*message.get(4)?);
        let (mut mark, mut mask) = (None, u32::MAX);
        for (kind, value) in attributes(message.get(HEADER_BYTES..)?) {
            match kind {
                FRA_PRIORITY => rule.priority = number(value)?,
                FRA_DST => rule.to = self.text(value, bits),
                FRA_FWMARK => mark = number(value),
                FRA_FWMASK => mask = number(value)?,
                FRA_IIFNAME => rule.local = (value == b"lo\0").then_some(true),
                FRA_IP_PROTO => rule.tcp = (*value == [libc::IPPROTO_TCP as u8]).then_some(true),
                FRA_DPORT_RANGE => rule.port = one_port(value),
                FRA_TABLE => table = number(value)?,
                FRA_GOTO => rule.goto = number(value),
                _ => {}
            }
        }
        rule.mark = mark.map(|mark| format!("{mark:#x}/{mask:#x}"));
        rule.table = (action == TO_TABLE).then(|| table_name(table));
        Some(rule)
    }

    fn parse_route(self, message: &[u8]) -> Option<NetnsRoute> {
        let (bits, kind) = (*message.get(1)?, *message.get(7)?);
        if (kind != UNICAST && kind != LOCAL) || number(message.get(8..)?)? & RTM_F_CLONED != 0 {
            return None;
        }
        let mut table = u32::from(*message.get(4)?);
        let mut route = NetnsRoute {
            local: kind == LOCAL,
            destination: "default".to_owned(),
            table: String::new(),
            device: String::new(),
            source: None,
        };
        for (kind, value) in attributes(message.get(HEADER_BYTES..)?) {
            match kind {
                RTA_DST => route.destination = self.text(value, bits)?,
                RTA_TABLE => table = number(value)?,
                RTA_OIF => route.device = device(number(value)?).unwrap_or_default(),
                RTA_PREFSRC => route.source = self.address(value).map(|address| address.to_string()),
                _ => {}
            }
        }
        route.table = table_name(table);
        Some(route)
    }
}

fn told(what: &str, object: &impl std::fmt::Debug) -> String {
    format!("{what} {object:?}")
}

fn unless_gone(result: Changed) -> Changed {
    match result {
        Err(AddonError::System { cause, .. })
            if matches!(cause.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn bad(what: &str, value: impl std::fmt::Display, wanted: &str) -> AddonError {
    AddonError::BadArgument(format!("policy routing: {what} {value}: want {wanted}"))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// Where a range is one port.
fn one_port(range: &[u8]) -> Option<u32> {
    let [first, last] = [range.get(..2)?, range.get(2..4)?];
    (first == last).then(|| Some(u32::from(u16::from_ne_bytes(first.try_into().ok()?))))?
}

fn marks(text: &str) -> Option<(u32, u32)> {
    let hexadecimal = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (value, mask) = text.split_once('/')?;
    Some((hexadecimal(value)?, hexadecimal(mask)?))
}

const TABLES: [(&str, u32); 3] = [("default", 253), ("main", 254), ("local", 255)];

fn table_name(number: u32) -> String {
    match TABLES.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => number.to_string(),
    }
}

fn table_number(name: &str) -> std::result::Result<u32, AddonError> {
    let known = TABLES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known
        .or_else(|| name.parse().ok())
        .ok_or_else(|| bad("table", name, "a name of the kernel's or a number"))
}

/// In the calling thread's namespace.
fn device(index: u32) -> io::Result<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the kernel writes a C string of at most IF_NAMESIZE bytes into `name`.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    let bytes: Vec<u8> = name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
