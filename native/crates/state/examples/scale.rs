//! How long the look-ups of a connection take, and how much memory a mesh costs. Prints a table:
//! `cargo run --release -p meltemi-state --example scale`.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meltemi_policy::{ConnectionFacts, Policy, PolicySet};
use meltemi_state::{Lookup, Mesh, MeshOptions, Selection, SelectionRequest, Workload};
use meltemi_types::discovery::{Batch, ResourceSink, ResourceType, ResourceUpdate};
use meltemi_types::workload::{self as wire, Address, NetworkAddress, Port, PortList, address};
use meltemi_types::{ClientAddress, Identity, WorkloadUid, security};
use prost::Message;

const WORKLOADS: u32 = 10_000;
const SERVICES: u32 = 1_000;
const POLICIES: u32 = 1_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let batches = [services(), workloads(10), workloads(0)];
    let [services, workloads, all_in_one] = batches;
    let mesh = Mesh::new(MeshOptions { on_demand: false, ..MeshOptions::default() });
    let before = resident_kib()?;
    let began = Instant::now();
    for batch in [services.clone(), workloads] {
        // In parts, as a server sends them.
        for part in batch.chunks(2_000) {
            fill(&mesh, part.to_vec())?;
        }
    }
    let filled = began.elapsed();
    drop(services);
    let after = resident_kib()?;
    println!(
        "{WORKLOADS} workloads in {SERVICES} services: {} KiB resident, {filled:.1?} to apply",
        after - before
    );

    let source = mesh.workload(&WorkloadUid::new(uid(0))?).ok_or("no source")?;
    measure("resolve + select, 10 endpoints", 200_000, |turn| connect(&mesh, &source, turn % SERVICES))?;
    fill(&mesh, all_in_one)?;
    measure("resolve + select, 10,000 endpoints", 2_000, |_| connect(&mesh, &source, 0))?;
    measure("look-up of a pod", 500_000, |turn| {
        let address = meltemi_types::NetworkAddress::new("", ip(10, turn % WORKLOADS).into());
        matches!(mesh.lookup(&address, "ns-0"), Lookup::Workload(_)).then_some(()).ok_or("no pod".into())
    })?;
    let set = PolicySet::new((0..POLICIES).map(policy).collect::<Result<_, _>>()?, vec![]);
    let facts = ConnectionFacts::new(
        ClientAddress::new("10.0.0.1:40000".parse()?),
        Some(Identity::new("cluster.local", "nobody", "none")?),
        "10.0.0.2:8080".parse()?,
    );
    measure("evaluate 1,000 policies, none matches", 5_000, |_| {
        (!set.evaluate(black_box(&facts)).is_allowed()).then_some(()).ok_or("allowed".into())
    })?;
    measure("policies_for, shared set", 500_000, |_| {
        black_box(mesh.policies_for(&source));
        Ok(())
    })
}

fn measure(name: &str, times: u32, mut act: impl FnMut(u32) -> Result<(), Failure>) -> Result<(), Failure> {
    for turn in 0..times / 10 {
        act(turn)?;
    }
    let began = Instant::now();
    for turn in 0..times {
        act(turn)?;
    }
    let each: Duration = began.elapsed() / times;
    println!("{name}: {each:.2?}");
    Ok(())
}

fn connect(mesh: &Mesh, source: &Workload, number: u32) -> Result<(), Failure> {
    let address = meltemi_types::NetworkAddress::new("", ip(96, number).into());
    let Lookup::Service(service) = mesh.lookup(&address, &source.namespace) else {
        return Err("no service".into());
    };
    let request = SelectionRequest {
        service: &service.key,
        service_port: 80,
        source,
        client: Ipv4Addr::new(10, 0, 0, 1).into(),
        tried: &[],
    };
    match mesh.select(request)? {
        Selection::Endpoint(endpoint) => {
            black_box(endpoint);
            Ok(())
        }
        Selection::Passthrough(_) => Err("no endpoint".into()),
    }
}

fn fill(mesh: &Mesh, updates: Vec<ResourceUpdate>) -> Result<(), Failure> {
    match mesh.apply(Batch { resource_type: ResourceType::Address, updates, removed: vec![] }).first() {
        None => {
            mesh.synced(ResourceType::Address);
            mesh.synced(ResourceType::Authorization);
            Ok(())
        }
        Some(refused) => Err(refused.problem.clone().into()),
    }
}

fn ip(block: u8, number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, block, high, low)
}

fn uid(number: u32) -> String {
    format!("Kubernetes//Pod/ns-{}/app-{}-7d9f8b6c5-{number:05x}", number % 100, number % SERVICES)
}

fn hostname(number: u32) -> (String, String) {
    let namespace = format!("ns-{}", number % 100);
    (namespace.clone(), format!("app-{number}.{namespace}.svc.cluster.local"))
}

fn services() -> Vec<ResourceUpdate> {
    let service = |number: u32| {
        let (namespace, hostname) = hostname(number);
        let service = wire::Service {
            name: format!("app-{number}"),
            namespace,
            hostname: hostname.clone(),
            addresses: vec![NetworkAddress {
                address: ip(96, number).octets().to_vec().into(),
                ..NetworkAddress::default()
            }],
            ports: vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }],
            ..wire::Service::default()
        };
        update(format!("{}/{hostname}", service.namespace), address::Type::Service(service))
    };
    (0..SERVICES).map(service).collect()
}

/// `each`: endpoints for each service; 0: all are endpoints of the first one.
fn workloads(each: u32) -> Vec<ResourceUpdate> {
    let workload = |number: u32| {
        let app = number % SERVICES;
        let (namespace, host) = hostname(if each == 0 { 0 } else { app });
        let ports = vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }];
        let workload = wire::Workload {
            uid: uid(number),
            name: format!("app-{app}-7d9f8b6c5-{number:05x}"),
            namespace: format!("ns-{}", number % 100),
            addresses: vec![ip(10, number).octets().to_vec().into()],
            tunnel_protocol: 1,
            service_account: format!("app-{app}"),
            node: format!("node-{}", number % 200),
            canonical_name: format!("app-{app}"),
            canonical_revision: "v1".into(),
            workload_name: format!("app-{app}"),
            cluster_id: "Kubernetes".into(),
            services: [(format!("{namespace}/{host}"), PortList { ports })].into(),
            ..wire::Workload::default()
        };
        update(workload.uid.clone(), address::Type::Workload(workload))
    };
    (0..WORKLOADS).map(workload).collect()
}

fn update(name: String, kind: address::Type) -> ResourceUpdate {
    ResourceUpdate { name, aliases: vec![], body: Address { r#type: Some(kind) }.encode_to_vec().into() }
}

/// ALLOW of one principal, as most are.
fn policy(number: u32) -> Result<Arc<Policy>, Failure> {
    let principal = format!("cluster.local/ns/ns-{}/sa/app-{number}", number % 100);
    let exact = security::string_match::MatchType::Exact(principal);
    let entry = security::Match {
        principals: vec![security::StringMatch { match_type: Some(exact) }],
        ..security::Match::default()
    };
    let clause = security::Clause { matches: vec![entry] };
    Ok(Arc::new(Policy::try_from(security::Authorization {
        name: format!("p-{number}"),
        namespace: "ns-0".into(),
        rules: vec![security::Rule { clauses: vec![clause] }],
        ..security::Authorization::default()
    })?))
}

/// From /proc/self/smaps_rollup: what the process holds in memory.
fn resident_kib() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find(|line| line.starts_with("Rss:")).ok_or("no Rss")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
