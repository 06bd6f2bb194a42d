//! Over TLS: the server is authenticated by root and name, the client by a token read anew each time.

use std::sync::Arc;

use crate::support::{PATIENCE, Stream, options};
use meltemi_state::{Mesh, MeshOptions};
use meltemi_xds::{Client, ClientOptions, NoMetrics, Server};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

struct TlsRig {
    directory: tempfile::TempDir,
    port: u16,
    streams: mpsc::Receiver<Stream>,
    cancelled: CancellationToken,
}

impl Drop for TlsRig {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

impl TlsRig {
    /// A server for `localhost`; its root is in `root.pem`.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(directory.path().join("root.pem"), cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(cert)], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, streams) = mpsc::channel(4);
        let cancelled = CancellationToken::new();
        let accepting = async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (config, sender) = (config.clone(), sender.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    if let Ok(tls) = crate::support::accept_tls(tcp, config).await {
                        crate::support::serve(tls, sender).await;
                    }
                });
            }
        };
        tokio::spawn(cancelled.clone().run_until_cancelled_owned(accepting));
        Self { directory, port, streams, cancelled }
    }

    fn connect(
        &self,
        host: &str,
        change: impl FnOnce(&mut ClientOptions),
    ) -> tokio::sync::watch::Receiver<meltemi_xds::Status> {
        let mut options = options(Server::Tls { host: host.into(), port: self.port });
        options.root_file = Some(self.directory.path().join("root.pem"));
        change(&mut options);
        let client = Client::new(options, Arc::new(Mesh::new(MeshOptions::default())), Arc::new(NoMetrics));
        let status = client.status();
        tokio::spawn(client.run(self.cancelled.clone()));
        status
    }

    async fn stream(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time").unwrap()
    }
}

async fn failure(mut status: tokio::sync::watch::Receiver<meltemi_xds::Status>) -> String {
    let failed = status.wait_for(|status| status.last_error.is_some());
    let status = tokio::time::timeout(PATIENCE, failed).await.expect("a failure in time").unwrap();
    assert!(!status.connected);
    status.last_error.clone().unwrap()
}

#[tokio::test]
async fn the_token_is_read_anew_for_every_stream() {
    let mut rig = TlsRig::new().await;
    let token = rig.directory.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    rig.connect("localhost", |options| options.token_file = Some(token.clone()));
    let stream = rig.stream().await;
    assert_eq!(stream.metadata.get("authorization").unwrap(), "Bearer first");
    std::fs::write(&token, "second\n").unwrap();
    drop(stream);
    assert_eq!(rig.stream().await.metadata.get("authorization").unwrap(), "Bearer second");
}

#[tokio::test]
async fn a_server_of_another_name_or_root_is_not_spoken_to() {
    let mut rig = TlsRig::new().await;
    let error = failure(rig.connect("127.0.0.1", |_| {})).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = rig.directory.path().join("other.pem");
    std::fs::write(&path, other.cert.pem()).unwrap();
    failure(rig.connect("localhost", |options| options.root_file = Some(path))).await;
    assert!(rig.streams.try_recv().is_err(), "no stream was opened");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let rig = TlsRig::new().await;
    let missing = rig.directory.path().join("missing");
    let empty = rig.directory.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(failure(rig.connect("localhost", |o| o.root_file = None)).await.contains("root certificate"));
    let path = missing.clone();
    assert!(failure(rig.connect("localhost", |o| o.root_file = Some(path))).await.contains("missing"));
    let path = empty.clone();
    assert!(failure(rig.connect("localhost", |o| o.root_file = Some(path))).await.contains("no certificate"));
    let path = missing.clone();
    assert!(failure(rig.connect("localhost", |o| o.token_file = Some(path))).await.contains("missing"));
    let path = empty.clone();
    assert!(failure(rig.connect("localhost", |o| o.token_file = Some(path))).await.contains("bearer token"));
}
