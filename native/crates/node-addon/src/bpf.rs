//! `NodeBpf`: the guard and the redirection in the kernel. What they do is in the crate meltemi-bpf.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meltemi_bpf::{BpfError, GuardAt, Node, PodSettings, Udp};
use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;

use crate::descriptor::duplicate;
use crate::error::AddonError;
use crate::netns::on_thread;

#[napi(object)]
#[derive(Debug)]
pub struct BpfMissing {
    pub feature: String,
    pub error: String,
}

#[napi(object)]
#[derive(Debug)]
pub struct BpfSupport {
    pub supported: bool,
    pub missing: Vec<BpfMissing>,
}

#[napi(object)]
#[derive(Debug)]
pub struct PodCaptureSettings {
    pub addresses: Vec<String>,
    pub exclude_inbound_ports: Vec<u32>,
    pub exclude_outbound_ports: Vec<u32>,
    pub exclude_outbound_cidrs: Vec<String>,
    pub bypass_inbound: bool,
    pub udp: String,
}

#[napi(object)]
#[derive(Debug)]
pub struct PodInterface {
    pub name: String,
    pub host_name: Option<String>,
}

#[napi(object)]
#[derive(Debug)]
pub struct PodPrograms {
    pub guard: String,
    pub redirect: bool,
    pub interfaces: Vec<PodInterface>,
    pub link_ids: HashMap<String, u32>,
}

/// `None` once disposed of.
type Shared = Arc<Mutex<Option<Node>>>;

#[napi]
#[derive(Debug)]
pub struct NodeBpf {
    node: Shared,
}

#[napi]
impl NodeBpf {
    #[napi]
    pub fn probe() -> BpfSupport {
        let missing: Vec<_> = meltemi_bpf::probe()
            .into_iter()
            .map(|missing| BpfMissing {
                feature: missing.feature.to_owned(),
                error: missing.error.to_string(),
            })
            .collect();
        BpfSupport { supported: missing.is_empty(), missing }
    }

    #[napi(factory)]
    pub fn open(directory: String) -> Result<Self> {
        let node = Node::open(Path::new(&directory)).map_err(thrown)?;
        Ok(Self { node: Arc::new(Mutex::new(Some(node))) })
    }

    /// Attaching waits for the kernel, some milliseconds for each link: not on Node's thread.
    #[napi]
    pub fn attach_guard<'env>(
        &self,
        env: &'env Env,
        netns_fd: i32,
        inode: f64,
        settings: PodCaptureSettings,
    ) -> Result<PromiseRaw<'env, PodPrograms>> {
        let shared = self.node.clone();
        let namespace = duplicate(netns_fd);
        let settings = parse(settings);
        env.spawn_future(async move {
            let (namespace, settings) = (namespace?, settings?);
            let attach =
                move || with(&shared, |node| node.attach_guard(namespace.as_fd(), inode as u64, &settings));
            Ok(shown(on_thread(attach).await?))
        })
    }

    #[napi]
    pub fn attach_redirect<'env>(
        &self,
        env: &'env Env,
        netns_fd: i32,
        inode: f64,
    ) -> Result<PromiseRaw<'env, PodPrograms>> {
        let shared = self.node.clone();
        let namespace = duplicate(netns_fd);
        env.spawn_future(async move {
            let namespace = namespace?;
            let attach = move || with(&shared, |node| node.attach_redirect(namespace.as_fd(), inode as u64));
            Ok(shown(on_thread(attach).await?))
        })
    }

    #[napi]
    pub fn detach_redirect(&self, inode: f64) -> Result<()> {
        Ok(with(&self.node, |node| node.detach_redirect(inode as u64))?)
    }

    #[napi]
    pub fn update(&self, inode: f64, settings: PodCaptureSettings) -> Result<()> {
        let settings = parse(settings)?;
        Ok(with(&self.node, |node| node.update(inode as u64, &settings))?)
    }

    #[napi]
    pub fn mark_for_drain(&self, netns_fd: i32, inode: f64) -> Result<u32> {
        let namespace = duplicate(netns_fd)?;
        let marked = with(&self.node, |node| node.mark_for_drain(namespace.as_fd(), inode as u64))?;
        Ok(u32::try_from(marked).unwrap_or(u32::MAX))
    }

    #[napi]
    pub fn verify(&self, netns_fd: i32, inode: f64) -> Result<Vec<String>> {
        let namespace = duplicate(netns_fd)?;
        let faults = with(&self.node, |node| node.verify(namespace.as_fd(), inode as u64))?;
        Ok(faults.into_iter().map(str::to_owned).collect())
    }

    #[napi]
    pub fn counters(&self, inode: f64) -> Result<HashMap<String, f64>> {
        let counters = with(&self.node, |node| node.counters(inode as u64))?;
        Ok(counters.into_iter().map(|(reason, packets)| (reason.to_owned(), packets as f64)).collect())
    }

    #[napi]
    pub fn detach(&self, inode: f64) -> Result<()> {
        Ok(with(&self.node, |node| node.detach(inode as u64))?)
    }

    #[napi]
    pub fn attached(&self) -> Result<Vec<f64>> {
        let inodes = with(&self.node, |node| node.attached())?;
        Ok(inodes.into_iter().map(|inode| inode as f64).collect())
    }

    #[napi]
    pub fn dispose(&self) -> Result<()> {
        match held(&self.node).take() {
            Some(node) => Ok(node.dispose().map_err(thrown)?),
            None => Ok(()),
        }
    }
}

fn held(shared: &Shared) -> MutexGuard<'_, Option<Node>> {
    // What is true is in the kernel; every call looks there first.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<T>(
    shared: &Shared,
    work: impl FnOnce(&mut Node) -> std::result::Result<T, BpfError>,
) -> std::result::Result<T, AddonError> {
    match held(shared).as_mut() {
        Some(node) => work(node).map_err(thrown),
        None => Err(AddonError::BadArgument("NodeBpf was disposed of".to_owned())),
    }
}

fn thrown(error: BpfError) -> AddonError {
    AddonError::Protocol(error.to_string())
}

fn shown(programs: meltemi_bpf::PodPrograms) -> PodPrograms {
    let guard = match programs.guard {
        Some(GuardAt::Host) => "host",
        Some(GuardAt::Pod) => "pod",
        None => "none",
    };
    let interface = |interface: meltemi_bpf::Interface| PodInterface {
        name: interface.name,
        host_name: interface.host.map(|end| end.name),
    };
    PodPrograms {
        guard: guard.to_owned(),
        redirect: programs.redirect,
        interfaces: programs.interfaces.into_iter().map(interface).collect(),
        link_ids: programs.link_ids.into_iter().collect(),
    }
}

fn parse(settings: PodCaptureSettings) -> std::result::Result<PodSettings, AddonError> {
    Ok(PodSettings {
        addresses: each("addresses", settings.addresses, |text| text.parse().ok())?,
        exclude_inbound_ports: each("excludeInboundPorts", settings.exclude_inbound_ports, |port| {
            u16::try_from(*port).ok()
        })?,
        exclude_outbound_ports: each("excludeOutboundPorts", settings.exclude_outbound_ports, |port| {
            u16::try_from(*port).ok()
        })?,
        exclude_outbound_cidrs: each("excludeOutboundCidrs", settings.exclude_outbound_cidrs, |text| {
            let (address, bits) = text.split_once('/')?;
            Some((address.parse::<IpAddr>().ok()?, bits.parse().ok()?))
        })?,
        bypass_inbound: settings.bypass_inbound,
        udp: match settings.udp.as_str() {
            "pass" => Udp::Pass,
            "refuse" => Udp::Refuse,
            other => return Err(bad("udp", other, "\"pass\" or \"refuse\"")),
        },
    })
}

fn each<F: std::fmt::Debug, T>(
    field: &'static str,
    values: Vec<F>,
    parse: impl Fn(&F) -> Option<T>,
) -> std::result::Result<Vec<T>, AddonError> {
    let wanted = match field {
        "addresses" => "an IP address",
        "excludeOutboundCidrs" => "ADDRESS/BITS",
        _ => "a port, 0 to 65535",
    };
    values.iter().map(|value| parse(value).ok_or_else(|| bad(field, value, wanted))).collect()
}

fn bad(field: &str, value: impl std::fmt::Debug, wanted: &str) -> AddonError {
    AddonError::BadArgument(format!("pod settings: {field}: {value:?}: want {wanted}"))
}
