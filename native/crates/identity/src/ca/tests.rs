//! The gRPC client against a real server, over a Unix socket and over TLS with a token.

use std::sync::Arc;
use std::time::Duration;

use meltemi_types::Identity;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::key::PrivateKey;
use crate::testing::{Fault, TestCa, TokioClock, serve_connection, serve_on_unix};

fn id() -> Identity {
    Identity::new("cluster.local", "team", "web").unwrap()
}

fn csr() -> String {
    PrivateKey::generate().unwrap().csr(&id()).unwrap()
}

fn options(uri: CaUri) -> GrpcCaOptions {
    GrpcCaOptions {
        uri,
        root_file: None,
        token_file: None,
        ttl: Duration::from_secs(60),
        request_timeout: Duration::from_secs(10),
    }
}

fn test_ca() -> Arc<TestCa> {
    TestCa::new(TokioClock::start(), Duration::from_secs(60))
}

#[test]
fn uris() {
    assert_eq!("unix:/a/b".parse::<CaUri>().unwrap(), CaUri::Unix("/a/b".into()));
    assert_eq!("unix:///a/b".parse::<CaUri>().unwrap(), CaUri::Unix("/a/b".into()));
    let https = |host: &str, port| CaUri::Https { host: host.to_owned(), port };
    assert_eq!("https://ca.example:15012".parse::<CaUri>().unwrap(), https("ca.example", 15012));
    assert_eq!("https://[::1]:15012".parse::<CaUri>().unwrap(), https("::1", 15012));
    assert_eq!("https://[::1]:15012".parse::<CaUri>().unwrap().to_string(), "https://[::1]:15012");
    for wrong in ["", "unix:", "http://ca:1", "https://ca", "https://ca:0", "https://:1", "https://a/b:1"] {
        assert!(wrong.parse::<CaUri>().is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn over_a_unix_socket_and_again_after_the_relay_was_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xds.sock");
    let ca = test_ca();
    let client = GrpcCa::new(options(CaUri::Unix(path.clone()))).unwrap();
    let absent = client.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(absent, CaError::Unreachable { .. }), "{absent}");
    assert!(absent.to_string().contains("xds.sock"), "{absent}");
    let serving = serve_on_unix(&ca, &path).unwrap();
    assert_eq!(client.create_certificate(&id(), csr()).await.unwrap().len(), 3);
    assert_eq!(ca.requests(), [id()]);
    assert_eq!(ca.tokens(), [None]);
    ca.fail_once(Fault::Refuses);
    let refused = client.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(&refused, CaError::Refused { code, .. } if code == "PermissionDenied"), "{refused}");
    ca.fail_once(Fault::Unavailable);
    let away = client.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(away, CaError::Unreachable { .. }), "{away}");
    serving.abort();
    std::fs::remove_file(&path).unwrap();
    let _serving = serve_on_unix(&ca, &path).unwrap();
    assert!(client.create_certificate(&id(), csr()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_does_not_answer_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xds.sock");
    let ca = test_ca();
    ca.hold();
    let _serving = serve_on_unix(&ca, &path).unwrap();
    let client = GrpcCa::new(options(CaUri::Unix(path))).unwrap();
    let error = client.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(error, CaError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn over_tls_only_to_the_named_server_and_with_the_token_of_the_moment() {
    let directory = tempfile::tempdir().unwrap();
    let (root_file, token_file) = (directory.path().join("root.pem"), directory.path().join("token"));
    let key = || KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, key()).unwrap();
    std::fs::write(&root_file, root.pem()).unwrap();
    let server_key = key();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&server_key, &root).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], der)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ca, acceptor) = (test_ca(), TlsAcceptor::from(Arc::new(config)));
    let serving_ca = Arc::clone(&ca);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(tls) = acceptor.accept(tcp).await {
                tokio::spawn(serve_connection(Arc::clone(&serving_ca), tls));
            }
        }
    });

    let uri = |host: &str| CaUri::Https { host: host.to_owned(), port };
    assert!(matches!(GrpcCa::new(options(uri("localhost"))), Err(CaError::Uri(_))), "no root, no CA");
    let with = |host: &str| GrpcCaOptions {
        root_file: Some(root_file.clone()),
        token_file: Some(token_file.clone()),
        ..options(uri(host))
    };
    let client = GrpcCa::new(with("localhost")).unwrap();
    let no_token = client.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(no_token, CaError::Token { .. }), "{no_token}");
    for token in ["first", "second"] {
        std::fs::write(&token_file, format!("{token}\n")).unwrap();
        client.create_certificate(&id(), csr()).await.unwrap();
    }
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(ca.tokens(), [bearer("first"), bearer("second")]);

    // The certificate does not name 127.0.0.1.
    let other_name = GrpcCa::new(with("127.0.0.1")).unwrap();
    let error = other_name.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(error, CaError::Unreachable { .. }), "{error}");
    std::fs::write(
        &root_file,
        CertifiedIssuer::self_signed(CertificateParams::default(), key()).unwrap().pem(),
    )
    .unwrap();
    let other_root = GrpcCa::new(with("localhost")).unwrap();
    let error = other_root.create_certificate(&id(), csr()).await.unwrap_err();
    assert!(matches!(error, CaError::Unreachable { .. }), "{error}");
    assert_eq!(ca.requests().len(), 2, "nothing was asked of a CA that did not prove itself");
}
