//! Handshakes between real configurations.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use meltemi_telemetry::{Metrics, Reason};
use meltemi_types::Identity;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::testing::{FixedJitter, TestCa, TokioClock};
use crate::{CertificateStore, HandshakeFailure, Served, StoreOptions, peer_identity};

const WAIT: Duration = Duration::from_secs(20);

fn id(account: &str) -> Identity {
    Identity::new("cluster.local", "team", account).unwrap()
}

struct Node {
    store: Arc<CertificateStore>,
    identity: Identity,
    _served: Served,
}

impl Node {
    async fn with(ca: &Arc<TestCa>, identity: Identity, trust_domain: &str, aliases: &[&str]) -> Self {
        let options = StoreOptions {
            trust_domain: trust_domain.into(),
            trust_domain_aliases: aliases.iter().map(|alias| Arc::from(*alias)).collect(),
            concurrent_requests: 4,
            clock: TokioClock::start(),
            jitter: Arc::new(FixedJitter(0.5)),
        };
        let store = CertificateStore::new(options, ca.clone(), Metrics::new("ztunnel", "test"));
        let served = store.serve(&identity);
        store.get(&identity, WAIT).await.unwrap();
        Self { store, identity, _served: served }
    }

    async fn new(ca: &Arc<TestCa>, account: &str) -> Self {
        Self::with(ca, id(account), "cluster.local", &[]).await
    }

    async fn server(&self) -> Arc<ServerConfig> {
        self.store.server_config(&self.identity, &Alpn::new(&["h2"]), WAIT).await.unwrap()
    }

    async fn client(&self, expected: &[Identity], alpn: &[&str]) -> Arc<ClientConfig> {
        self.store.client_config(&self.identity, expected, &Alpn::new(alpn), WAIT).await.unwrap()
    }
}

fn ca() -> Arc<TestCa> {
    TestCa::new(TokioClock::start(), Duration::from_secs(3_600))
}

type Ends = (io::Result<client::TlsStream<DuplexStream>>, io::Result<server::TlsStream<DuplexStream>>);

/// Both ends' result; one byte goes each way, because a client learns only then that it was refused.
async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = async {
        let mut stream = TlsConnector::from(client).connect(server_name(), near).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok(stream)
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    tokio::time::timeout(WAIT, async { tokio::join!(connect, accept) }).await.unwrap()
}

#[tokio::test]
async fn peers_prove_their_identities_over_a_hybrid_key_exchange() {
    let ca = ca();
    let (a, b) = (Node::new(&ca, "a").await, Node::new(&ca, "b").await);
    let ends = shake(a.client(&[id("b")], &["h2"]).await, b.server().await).await;
    let (near, far) = (ends.0.unwrap(), ends.1.unwrap());
    let (near, far) = (near.get_ref().1, far.get_ref().1);
    assert_eq!(peer_identity(near.peer_certificates().unwrap()).unwrap(), id("b"));
    assert_eq!(peer_identity(far.peer_certificates().unwrap()).unwrap(), id("a"));
    assert_eq!(near.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(near.alpn_protocol(), Some(b"h2".as_slice()));
    let group = near.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(far.server_name(), None, "no SNI");
}

#[tokio::test]
async fn nothing_is_resumed_and_configurations_are_shared() {
    let ca = ca();
    let (a, b) = (Node::new(&ca, "a").await, Node::new(&ca, "b").await);
    let (client, server) = (a.client(&[id("b")], &["h2"]).await, b.server().await);
    assert!(Arc::ptr_eq(&client, &a.client(&[id("b")], &["h2"]).await));
    assert!(!Arc::ptr_eq(&client, &a.client(&[id("c")], &["h2"]).await));
    assert!(Arc::ptr_eq(&server, &b.server().await));
    for _ in 0..2 {
        let ends = shake(client.clone(), server.clone()).await;
        assert_eq!(ends.0.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(ends.1.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_server_of_another_identity_is_refused_by_the_client() {
    let ca = ca();
    let (a, b) = (Node::new(&ca, "a").await, Node::new(&ca, "b").await);
    let ends = shake(a.client(&[id("x"), id("y")], &["h2"]).await, b.server().await).await;
    let error = ends.0.unwrap_err();
    assert_eq!(HandshakeFailure::of_io(&error), HandshakeFailure::IdentityMismatch);
    assert_eq!(HandshakeFailure::of_io(&error).reason(), Reason::IdentityMismatch);
    assert!(error.to_string().contains("spiffe://cluster.local/ns/team/sa/b"), "{error}");
    assert_eq!(HandshakeFailure::of_io(&ends.1.unwrap_err()), HandshakeFailure::RefusedByPeer);
    // Nobody is acceptable where nobody is expected.
    let ends = shake(a.client(&[], &["h2"]).await, b.server().await).await;
    assert_eq!(HandshakeFailure::of_io(&ends.0.unwrap_err()), HandshakeFailure::IdentityMismatch);
    // One of several is enough.
    let ends = shake(a.client(&[id("x"), id("b")], &["h2"]).await, b.server().await).await;
    assert!(ends.0.is_ok() && ends.1.is_ok());
}

#[tokio::test]
async fn another_trust_domain_is_refused_unless_it_is_an_alias() {
    let ca = ca();
    let foreign = Identity::new("other.example", "team", "a").unwrap();
    let a = Node::with(&ca, foreign.clone(), "other.example", &["cluster.local"]).await;
    let b = Node::new(&ca, "b").await;
    let ends = shake(a.client(&[id("b")], &["h2"]).await, b.server().await).await;
    let error = ends.1.unwrap_err();
    assert_eq!(HandshakeFailure::of_io(&error), HandshakeFailure::ForeignTrustDomain);
    assert_eq!(HandshakeFailure::of_io(&error).reason(), Reason::IdentityMismatch);
    assert!(ends.0.is_err());
    let b = Node::with(&ca, id("b"), "cluster.local", &["other.example"]).await;
    let ends = shake(a.client(&[id("b")], &["h2"]).await, b.server().await).await;
    let far = ends.1.unwrap();
    assert_eq!(peer_identity(far.get_ref().1.peer_certificates().unwrap()).unwrap(), foreign);
}

#[tokio::test]
async fn a_peer_of_another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (ca(), ca());
    let (a, b) = (Node::new(&theirs, "a").await, Node::new(&ours, "b").await);
    let ends = shake(a.client(&[id("b")], &["h2"]).await, b.server().await).await;
    assert_eq!(HandshakeFailure::of_io(&ends.0.unwrap_err()), HandshakeFailure::Untrusted);
    assert!(ends.1.is_err());
    // A client that accepts any server does not get in either.
    let mut careless = ClientConfig::clone(&*a.client(&[id("b")], &["h2"]).await);
    careless.dangerous().set_certificate_verifier(Arc::new(ExpectedServer {
        trust: Arc::clone(b.store.trust()),
        provider: provider(),
        expected: vec![id("b")],
    }));
    let ends = shake(Arc::new(careless), b.server().await).await;
    assert_eq!(HandshakeFailure::of_io(&ends.1.unwrap_err()), HandshakeFailure::Untrusted);
    assert!(ends.0.is_err());
}

#[tokio::test]
async fn clients_without_certificate_or_protocol_are_refused() {
    let ca = ca();
    let (a, b) = (Node::new(&ca, "a").await, Node::new(&ca, "b").await);
    let nobody = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectedServer {
            trust: Arc::clone(a.store.trust()),
            provider: provider(),
            expected: vec![id("b")],
        }))
        .with_no_client_auth();
    let mut nobody_h2 = nobody.clone();
    nobody_h2.alpn_protocols = vec![b"h2".to_vec()];
    let ends = shake(Arc::new(nobody_h2), b.server().await).await;
    assert_eq!(HandshakeFailure::of_io(&ends.1.unwrap_err()), HandshakeFailure::NoPeerCertificate);
    assert!(ends.0.is_err());
    let ends = shake(a.client(&[id("b")], &["other"]).await, b.server().await).await;
    assert_eq!(HandshakeFailure::of_io(&ends.1.unwrap_err()), HandshakeFailure::Alpn);
    assert_eq!(HandshakeFailure::of_io(&ends.0.unwrap_err()), HandshakeFailure::Alpn);
}

#[tokio::test]
async fn what_is_no_tls_13_is_a_protocol_failure() {
    let ca = ca();
    let b = Node::new(&ca, "b").await;
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let error = TlsAcceptor::from(b.server().await).accept(far).await.unwrap_err();
    assert_eq!(HandshakeFailure::of_io(&error), HandshakeFailure::Protocol);
    let (near, far) = tokio::io::duplex(64 * 1024);
    drop(near);
    let error = TlsAcceptor::from(b.server().await).accept(far).await.unwrap_err();
    assert_eq!(HandshakeFailure::of_io(&error), HandshakeFailure::Closed);
}

#[tokio::test]
async fn old_configurations_believe_new_roots_at_once() {
    let ca = ca();
    let (a, b) = (Node::new(&ca, "a").await, Node::new(&ca, "b").await);
    let (client, server) = (a.client(&[id("b")], &["h2"]).await, b.server().await);
    let second = ca.add_root();
    ca.set_roots(second, &[0, second]);
    let mut changes = b.store.changes();
    changes.mark_unchanged();
    b.store.renew(None);
    tokio::time::timeout(WAIT, changes.changed()).await.unwrap().unwrap();
    // The server's new certificate is of a root that the client does not know yet.
    let ends = shake(client.clone(), b.server().await).await;
    assert_eq!(HandshakeFailure::of_io(&ends.0.unwrap_err()), HandshakeFailure::Untrusted);
    let mut changes = a.store.changes();
    changes.mark_unchanged();
    a.store.renew(None);
    tokio::time::timeout(WAIT, changes.changed()).await.unwrap().unwrap();
    for server in [server, b.server().await] {
        let ends = shake(client.clone(), server).await;
        assert!(ends.0.is_ok() && ends.1.is_ok());
    }
}
