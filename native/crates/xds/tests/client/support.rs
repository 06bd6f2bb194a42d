//! A discovery server whose every stream is played by the test.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meltemi_state::{Mesh, MeshOptions};
use meltemi_types::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use meltemi_types::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use meltemi_types::discovery::ResourceType;
use meltemi_types::workload::{Address, Workload, address};
use meltemi_xds::{Backoff, Client, ClientOptions, NoMetrics, NodeInfo, Server};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Waits for what a test expects fail only after so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One stream of a client.
pub(crate) struct Stream {
    pub(crate) metadata: tonic::metadata::MetadataMap,
    pub(crate) requests: Streaming<DeltaDiscoveryRequest>,
    pub(crate) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Stream {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = tokio::time::timeout(PATIENCE, self.requests.message());
        request.await.expect("a request in time").expect("a request").expect("the stream goes on")
    }

    /// The next request of a type; others are passed over.
    pub(crate) async fn request_of(&mut self, resource_type: ResourceType) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if request.type_url == resource_type.type_url() {
                return request;
            }
        }
    }

    pub(crate) async fn respond(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.expect("the client listens");
    }
}

struct Played(mpsc::Sender<Stream>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Played {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, receiver) = mpsc::channel(4);
        let metadata = request.metadata().clone();
        let stream = Stream { metadata, requests: request.into_inner(), responses };
        self.0.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S>(io: S, streams: mpsc::Sender<Stream>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = AggregatedDiscoveryServiceServer::new(Played(streams));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    // Ends with an error whenever a test drops it.
    let _ = connection.await;
}

/// A server on a Unix socket, a mesh, and the client between them.
pub(crate) struct Rig {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) status: tokio::sync::watch::Receiver<meltemi_xds::Status>,
    pub(crate) socket: PathBuf,
    streams: mpsc::Receiver<Stream>,
    sender: mpsc::Sender<Stream>,
    accepting: Option<tokio::task::JoinHandle<()>>,
    cancelled: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancelled.cancel();
        self.stop_listening();
    }
}

impl Rig {
    pub(crate) async fn new(change: impl FnOnce(&mut ClientOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("xds.sock");
        let (sender, streams) = mpsc::channel(4);
        let mut options = options(Server::Unix(socket.clone()));
        change(&mut options);
        let mesh = Arc::new(Mesh::new(MeshOptions {
            node: "node-a".into(),
            on_demand: options.on_demand,
            ..MeshOptions::default()
        }));
        let client = Client::new(options, mesh.clone(), Arc::new(NoMetrics));
        mesh.connect(Arc::new(client.asker()));
        let status = client.status();
        let cancelled = CancellationToken::new();
        let mut rig = Self {
            mesh,
            status,
            socket,
            streams,
            sender,
            accepting: None,
            cancelled: cancelled.clone(),
            _directory: directory,
        };
        rig.listen();
        tokio::spawn(client.run(cancelled));
        rig
    }

    pub(crate) fn listen(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let sender = self.sender.clone();
        self.accepting = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                connections.spawn(serve(io, sender.clone()));
            }
        }));
    }

    /// Refuses connections, and ends those there are.
    pub(crate) fn stop_listening(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    pub(crate) async fn stream(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time").unwrap()
    }

    /// A stream, past both first requests: that of authorizations, and that of addresses.
    pub(crate) async fn opened(&mut self) -> (Stream, DeltaDiscoveryRequest, DeltaDiscoveryRequest) {
        let mut stream = self.stream().await;
        let authorizations = stream.request().await;
        let addresses = stream.request().await;
        assert_eq!(authorizations.type_url, ResourceType::Authorization.type_url());
        assert_eq!(addresses.type_url, ResourceType::Address.type_url());
        (stream, authorizations, addresses)
    }

    pub(crate) async fn is_connected(&mut self, connected: bool) {
        let waiting = self.status.wait_for(|status| status.connected == connected);
        tokio::time::timeout(PATIENCE, waiting).await.expect("in time").unwrap();
    }
}

pub(crate) fn options(server: Server) -> ClientOptions {
    let node = NodeInfo {
        ip: "10.0.0.1".parse().unwrap(),
        name: "proxy".into(),
        namespace: "meltemi-system".into(),
        node_name: "node-a".into(),
        cluster_id: "Kubernetes".into(),
    };
    let backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) };
    ClientOptions { backoff, ..ClientOptions::new(server, node) }
}

pub(crate) fn response(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ResourceType::Address.type_url().into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(crate) fn pod_uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

/// A pod as a resource, with its address among the aliases.
pub(crate) fn pod(name: &str, ip: &str, version: &str) -> Resource {
    let parsed: std::net::Ipv4Addr = ip.parse().unwrap();
    let workload = Workload {
        uid: pod_uid(name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![parsed.octets().to_vec().into()],
        tunnel_protocol: 1,
        ..Workload::default()
    };
    let address = Address { r#type: Some(address::Type::Workload(workload)) };
    Resource {
        name: pod_uid(name),
        version: version.into(),
        aliases: vec![format!("/{ip}")],
        resource: Some(prost_types::Any {
            type_url: ResourceType::Address.type_url().into(),
            value: address.encode_to_vec(),
        }),
        ttl: None,
    }
}

pub(crate) fn spoil(mut resource: Resource, change: impl FnOnce(&mut Vec<u8>)) -> Resource {
    change(&mut resource.resource.as_mut().unwrap().value);
    resource
}

/// Wraps an accepted TCP connection in TLS.
pub(crate) async fn accept_tls(
    tcp: tokio::net::TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> io::Result<tokio_rustls::server::TlsStream<tokio::net::TcpStream>> {
    tokio_rustls::TlsAcceptor::from(config).accept(tcp).await
}
