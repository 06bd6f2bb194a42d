//! Asks a discovery server what is behind addresses, as the data plane does, and prints the answers:
//! `discover SERVER ROOT_PEM|- TOKEN_FILE|- NODE [NETWORK/IP ...]`.

use std::sync::Arc;
use std::time::Duration;

use meltemi_state::{Mesh, MeshOptions, Resolved};
use meltemi_types::discovery::ResourceType;
use meltemi_xds::{Client, ClientOptions, NoMetrics, NodeInfo};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().ok_or(what);
    let server = next("which server? unix:PATH or https://HOST:PORT")?.parse()?;
    let root = next("which root PEM file? - for none")?;
    let token = next("which token file? - for none")?;
    let node = next("which node?")?;
    let file = |name: String| (name != "-").then(|| name.into());
    let info = NodeInfo {
        ip: std::net::Ipv4Addr::LOCALHOST.into(),
        name: "discover".into(),
        namespace: "meltemi-system".into(),
        node_name: node.clone(),
        cluster_id: "Kubernetes".into(),
    };
    let options =
        ClientOptions { root_file: file(root), token_file: file(token), ..ClientOptions::new(server, info) };
    let mesh = Arc::new(Mesh::new(MeshOptions { node, ..MeshOptions::default() }));
    let client = Client::new(options, mesh.clone(), Arc::new(NoMetrics));
    mesh.connect(Arc::new(client.asker()));
    let status = client.status();
    let cancelled = CancellationToken::new();
    let running = tokio::spawn(client.run(cancelled.clone()));
    let deadline = Instant::now() + Duration::from_secs(5);
    if tokio::time::timeout_at(deadline, mesh.await_synced(ResourceType::Authorization)).await.is_err() {
        return Err(format!("no answer: {:?}", status.borrow().last_error).into());
    }
    for argument in arguments {
        let began = Instant::now();
        let answer = match mesh.resolve(&argument.parse()?, "default", deadline).await {
            Ok(Resolved::Workload(workload)) => format!("workload {} {}", workload.uid, workload.identity),
            Ok(Resolved::Service(service)) => format!("service {}", service.key),
            Ok(Resolved::Negative) => "outside the mesh".into(),
            Err(error) => error.to_string(),
        };
        println!("{argument}: {answer} ({:.1?})", began.elapsed());
    }
    let dump = mesh.dump();
    for workload in &dump.workloads {
        println!("holds workload {} on {}, policies {:?}", workload.uid, workload.node, workload.policies);
    }
    for service in &dump.services {
        println!("holds service {}", service.key);
    }
    for policy in &dump.policies {
        println!(
            "holds policy {} {:?} {:?} from {}",
            policy.key, policy.action, policy.scope, policy.source_object
        );
    }
    cancelled.cancel();
    Ok(running.await?)
}
