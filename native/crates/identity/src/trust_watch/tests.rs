//! The watch against a real gRPC server on a Unix socket.

use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meltemi_telemetry::Metrics;
use meltemi_types::Identity;
use meltemi_types::meltemi::trust_service_server::{TrustService, TrustServiceServer};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::testing::{FixedJitter, TestCa, TokioClock};
use crate::{CaUri, Clock, GrpcCaOptions, StoreOptions};

type Said = Result<TrustBundle, Status>;

/// Streams whatever it is told to; a stream ends with what is sent through `streams`.
#[derive(Clone, Default)]
struct Bundles {
    streams: Arc<parking_lot::Mutex<Vec<mpsc::Sender<Said>>>>,
    opened: Arc<AtomicUsize>,
    tokens: Arc<parking_lot::Mutex<Vec<Option<String>>>>,
}

#[tonic::async_trait]
impl TrustService for Bundles {
    type WatchTrustBundleStream = ReceiverStream<Said>;

    async fn watch_trust_bundle(
        &self,
        request: Request<WatchTrustBundleRequest>,
    ) -> Result<Response<Self::WatchTrustBundleStream>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        self.tokens.lock().push(token.map(str::to_owned));
        let (send, receive) = mpsc::channel(4);
        self.streams.lock().push(send);
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

impl Bundles {
    async fn opened(&self, streams: usize) {
        while self.opened.load(Ordering::Relaxed) < streams {
            tokio::task::yield_now().await;
        }
    }

    async fn say(&self, until: SystemTime, spread_ms: u32) {
        let seconds = until.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let sender = self.streams.lock().last().cloned().unwrap();
        let bundle = TrustBundle {
            version: 2,
            renew_not_before_until_s: i64::try_from(seconds).unwrap(),
            spread_ms,
            ..TrustBundle::default()
        };
        sender.send(Ok(bundle)).await.unwrap();
    }
}

fn serve(bundles: &Bundles, path: &std::path::Path) {
    let (listener, bundles) = (UnixListener::bind(path).unwrap(), bundles.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(TrustServiceServer::new(bundles.clone()));
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

#[tokio::test]
async fn what_is_held_is_renewed_when_the_control_plane_says_so_also_after_a_lost_stream() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, token) = (directory.path().join("xds.sock"), directory.path().join("token"));
    std::fs::write(&token, "secret").unwrap();
    let bundles = Bundles::default();
    serve(&bundles, &socket);
    let clock = TokioClock::start();
    let ca = TestCa::new(clock.clone(), Duration::from_secs(1_000));
    let options = StoreOptions {
        trust_domain: "cluster.local".into(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests: 2,
        clock: clock.clone(),
        jitter: Arc::new(FixedJitter(0.5)),
    };
    let store = CertificateStore::new(options, ca.clone(), Metrics::new("waypoint", "test"));
    let identity = Identity::new("cluster.local", "team", "web").unwrap();
    let _served = store.serve(&identity);
    let first = store.get(&identity, Duration::from_secs(20)).await.unwrap().not_before();
    let watching = GrpcCa::new(GrpcCaOptions {
        uri: CaUri::Unix(socket),
        root_file: None,
        token_file: Some(token),
        ttl: Duration::from_secs(60),
        request_timeout: Duration::from_secs(10),
    })
    .unwrap();
    let (followed, spread) = (store.clone(), Arc::new(FixedJitter(0.0)));
    tokio::spawn(async move { watching.follow_trust(followed, spread).await });

    bundles.opened(1).await;
    bundles.say(first - Duration::from_secs(60), 0).await;
    bundles.say(clock.now() + Duration::from_secs(60), 0).await;
    tokio::time::timeout(Duration::from_secs(20), ca.asked(2)).await.unwrap();
    assert_eq!(ca.requests().len(), 2, "what is newer than asked for was left alone");

    bundles.streams.lock().clear();
    tokio::time::timeout(Duration::from_secs(20), bundles.opened(2)).await.unwrap();
    bundles.say(clock.now() + Duration::from_secs(60), 0).await;
    tokio::time::timeout(Duration::from_secs(20), ca.asked(3)).await.unwrap();
    assert_eq!(*bundles.tokens.lock(), vec![Some("Bearer secret".to_owned()); 2]);
}
