//! The HBONE client against a small HBONE server of the test's own.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::run;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, identity: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn write(&self, directory: &Path, identity: &str) {
        let (certificate, key) = self.issue(identity);
        std::fs::write(directory.join("root.pem"), self.0.pem()).unwrap();
        std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

const SERVER_IDENTITY: &str = "spiffe://cluster.local/ns/b/sa/server";
const CLIENT_IDENTITY: &str = "spiffe://cluster.local/ns/a/sa/client";

/// Echoes tunnels to `10.0.0.5:8080`, refuses others with 401, and gives a handshake one second.
fn peer(authority: &Authority) -> SocketAddr {
    let (certificate, key) = authority.issue(SERVER_IDENTITY);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.0.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let handshake = tokio::time::timeout(Duration::from_secs(1), acceptor.accept(stream));
                    let Ok(Ok(stream)) = handshake.await else { return };
                    let handshake =
                        tokio::time::timeout(Duration::from_secs(1), h2::server::handshake(stream));
                    let Ok(Ok(mut connection)) = handshake.await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond));
                    }
                });
            }
        });
    });
    address
}

async fn serve(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<bytes::Bytes>) {
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let allowed = request.method() == http::Method::CONNECT && authority == "10.0.0.5:8080";
    let response = http::Response::builder()
        .status(if allowed { 200 } else { 401 })
        .header("x-meltemi-refused", if allowed { "" } else { "policy_denied" })
        .body(())
        .unwrap();
    let Ok(mut send) = respond.send_response(response, !allowed) else { return };
    if !allowed {
        return;
    }
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let _ = send.send_data(bytes::Bytes::new(), true);
}

fn hbone(directory: &Path, proxy: SocketAddr, more: &[&str]) -> (serde_json::Value, i32) {
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (cert, key, root, proxy) = (file("cert.pem"), file("key.pem"), file("root.pem"), proxy.to_string());
    let base = ["hbone", "connect", "--proxy", &proxy, "--cert", &cert, "--key", &key, "--root", &root];
    let authority: &[&str] =
        if more.contains(&"--authority") { &[] } else { &["--authority", "10.0.0.5:8080"] };
    run(&[&base[..], authority, more].concat())
}

#[test]
fn opens_a_tunnel_and_tells_the_peers_identity() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write(directory.path(), CLIENT_IDENTITY);
    let proxy = peer(&authority);
    let (seen, code) = hbone(
        directory.path(),
        proxy,
        &["--send", "hello", "--half-close", "--expect-identity", SERVER_IDENTITY],
    );
    assert_eq!(code, 0, "{seen}");
    assert_eq!(
        (&seen["stage"], &seen["status"], &seen["received"]),
        (&"done".into(), &200.into(), &"hello".into())
    );
    assert_eq!((&seen["alpn"], &seen["ended"]), (&"h2".into(), &"eof".into()));
    assert_eq!(seen["key_exchange"], "X25519MLKEM768");

    let (seen, code) =
        hbone(directory.path(), proxy, &["--expect-identity", "spiffe://cluster.local/ns/b/sa/other"]);
    assert_eq!((code, &seen["error"], &seen["stage"]), (1, &"wrong".into(), &"tls".into()), "{seen}");
}

#[test]
fn tells_a_refusal_with_its_header() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write(directory.path(), CLIENT_IDENTITY);
    let proxy = peer(&authority);
    for more in [&["--authority", "10.0.0.6:8080"][..], &["--misbehave", "wrong-method"]] {
        let (seen, code) = hbone(directory.path(), proxy, more);
        assert_eq!((code, &seen["status"], &seen["stage"]), (1, &401.into(), &"connect".into()), "{seen}");
        assert_eq!(seen["headers"]["x-meltemi-refused"], "policy_denied");
    }
}

#[test]
fn trusts_only_the_given_root_and_the_peer_only_its_own() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    Authority::new().write(directory.path(), CLIENT_IDENTITY);
    let proxy = peer(&authority);
    let (seen, code) = hbone(directory.path(), proxy, &[]);
    assert_eq!((code, &seen["stage"]), (1, &"tls".into()), "{seen}");
    std::fs::write(directory.path().join("root.pem"), authority.0.pem()).unwrap();
    let (seen, code) = hbone(directory.path(), proxy, &["--send", "x"]);
    assert_eq!(code, 1, "{seen}");
    assert!(seen["status"].is_null());
}

#[test]
fn misbehaves_as_told() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.write(directory.path(), CLIENT_IDENTITY);
    let proxy = peer(&authority);
    for (how, stage) in [
        ("stall-handshake", "tls"),
        ("stall-in-handshake", "tls"),
        ("plaintext", "tls"),
        ("garbage", "tls"),
        ("stall-http2", "http2"),
    ] {
        let (seen, code) = hbone(directory.path(), proxy, &["--misbehave", how]);
        assert_eq!((code, &seen["stage"]), (0, &stage.into()), "{how}: {seen}");
        assert!(seen["ended"].is_string(), "{how}: {seen}");
    }
    for how in ["reset-stream", "reset-connection"] {
        let (seen, code) = hbone(directory.path(), proxy, &["--misbehave", how]);
        assert_eq!(
            (code, &seen["stage"], &seen["status"]),
            (0, &"done".into(), &200.into()),
            "{how}: {seen}"
        );
    }
}
