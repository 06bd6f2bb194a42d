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

use tokio::sync::Semaphore;

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

/// Calls that wait for the kernel, at a time: it does the waiting for one after the other, but the next one
/// can prepare meanwhile.
const WAITING_CALLS: usize = 2;

#[napi]
#[derive(Debug)]
pub struct NodeBpf {
    /// `None` once disposed of.
    node: Mutex<Option<Arc<Node>>>,
    queue: Arc<Semaphore>,
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
        let queue = Arc::new(Semaphore::new(WAITING_CALLS));
        Ok(Self { node: Mutex::new(Some(Arc::new(node))), queue })
    }

    #[napi]
    pub fn attach_guard<'env>(
        &self,
        env: &'env Env,
        netns_fd: i32,
        inode: f64,
        settings: PodCaptureSettings,
    ) -> Result<PromiseRaw<'env, PodPrograms>> {
        let prepared = duplicate(netns_fd).and_then(|namespace| Ok((namespace, parse(settings)?)));
        self.waiting(env, move |node| {
            let (namespace, settings) = prepared?;
            let attached = node.attach_guard(namespace.as_fd(), inode as u64, &settings).map_err(thrown)?;
            node.settle_in_background().map_err(thrown)?;
            Ok(shown(attached))
        })
    }

    #[napi]
    pub fn attach_redirect<'env>(
        &self,
        env: &'env Env,
        netns_fd: i32,
        inode: f64,
    ) -> Result<PromiseRaw<'env, PodPrograms>> {
        let namespace = duplicate(netns_fd);
        self.waiting(env, move |node| {
            Ok(shown(node.attach_redirect(namespace?.as_fd(), inode as u64).map_err(thrown)?))
        })
    }

    #[napi]
    pub fn detach_redirect<'env>(&self, env: &'env Env, inode: f64) -> Result<PromiseRaw<'env, ()>> {
        self.waiting(env, move |node| node.detach_redirect(inode as u64).map_err(thrown))
    }

    #[napi]
    pub fn detach<'env>(&self, env: &'env Env, inode: f64) -> Result<PromiseRaw<'env, ()>> {
        self.waiting(env, move |node| node.detach(inode as u64).map_err(thrown))
    }

    /// Attaching and detaching wait for the kernel, some milliseconds for each link: not on Node's thread.
    fn waiting<'env, T>(
        &self,
        env: &'env Env,
        work: impl FnOnce(&Arc<Node>) -> std::result::Result<T, AddonError> + Send + 'static,
    ) -> Result<PromiseRaw<'env, T>>
    where
        T: Send + 'static + napi::bindgen_prelude::ToNapiValue,
    {
        let node = self.node();
        let queue = self.queue.clone();
        env.spawn_future(async move {
            let node = node?;
            // The queue is never closed.
            let _place = queue.acquire_owned().await;
            Ok(on_thread(move || work(&node)).await?)
        })
    }

    #[napi]
    pub fn update(&self, inode: f64, settings: PodCaptureSettings) -> Result<()> {
        let settings = parse(settings)?;
        Ok(self.node()?.update(inode as u64, &settings).map_err(thrown)?)
    }

    #[napi]
    pub fn mark_for_drain(&self, netns_fd: i32, inode: f64) -> Result<u32> {
        let namespace = duplicate(netns_fd)?;
        let marked = self.node()?.mark_for_drain(namespace.as_fd(), inode as u64).map_err(thrown)?;
        Ok(u32::try_from(marked).unwrap_or(u32::MAX))
    }

    #[napi]
    pub fn verify(&self, netns_fd: i32, inode: f64) -> Result<Vec<String>> {
        let namespace = duplicate(netns_fd)?;
        let faults = self.node()?.verify(namespace.as_fd(), inode as u64).map_err(thrown)?;
        Ok(faults.into_iter().map(str::to_owned).collect())
    }

    #[napi]
    pub fn glance<'env>(&self, env: &'env Env, inodes: Vec<f64>) -> Result<PromiseRaw<'env, Vec<f64>>> {
        let node = self.node();
        env.spawn_future(async move {
            let node = node?;
            let inodes: Vec<u64> = inodes.into_iter().map(|inode| inode as u64).collect();
            let differing = on_thread(move || Ok(node.glance(&inodes))).await?;
            Ok(differing.into_iter().map(|inode| inode as f64).collect())
        })
    }

    #[napi]
    pub fn counters(&self, inode: f64) -> Result<HashMap<String, f64>> {
        let counters = self.node()?.counters(inode as u64).map_err(thrown)?;
        Ok(counters.into_iter().map(|(reason, packets)| (reason.to_owned(), packets as f64)).collect())
    }

    #[napi]
    pub fn attached(&self) -> Result<Vec<f64>> {
        let inodes = self.node()?.attached().map_err(thrown)?;
        Ok(inodes.into_iter().map(|inode| inode as f64).collect())
    }

    #[napi]
    pub fn dispose(&self) -> Result<()> {
        match self.held().take() {
            Some(node) => Ok(node.dispose().map_err(thrown)?),
            None => Ok(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Node>>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self) -> std::result::Result<Arc<Node>, AddonError> {
        let node = self.held().clone();
        node.ok_or_else(|| AddonError::BadArgument("NodeBpf was disposed of".to_owned()))
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
