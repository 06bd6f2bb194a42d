//! Rotation, priority, faults and early renewal, with virtual time and a real CA.

use std::sync::Arc;
use std::time::Duration;

use meltemi_telemetry::Metrics;
use meltemi_types::Identity;
use tokio::sync::Semaphore;

use super::*;
use crate::ca::CaAnswer;
use crate::testing::{Fault, FixedJitter, TestCa, TokioClock};

const TTL: Duration = Duration::from_secs(1_000);
const WAIT: Duration = Duration::from_secs(5);

struct Rig {
    ca: Arc<TestCa>,
    store: Arc<CertificateStore>,
    metrics: Arc<Metrics>,
    clock: Arc<TokioClock>,
}

fn rig(concurrent_requests: usize) -> Rig {
    let clock = TokioClock::start();
    let ca = TestCa::new(clock.clone(), TTL);
    let metrics = Metrics::new("ztunnel", "test");
    let options = StoreOptions {
        trust_domain: "cluster.local".into(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests,
        clock: clock.clone(),
        jitter: Arc::new(FixedJitter(0.5)),
    };
    Rig { store: CertificateStore::new(options, ca.clone(), metrics.clone()), ca, metrics, clock }
}

fn id(account: &str) -> Identity {
    Identity::new("cluster.local", "team", account).unwrap()
}

/// Lets `duration` pass, and what it makes due happen.
async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(start_paused = true)]
async fn the_request_names_the_identity_and_nothing_else() {
    let Rig { ca, store, metrics, .. } = rig(4);
    let _served = store.serve(&id("web"));
    let held = store.get(&id("web"), WAIT).await.unwrap();
    assert_eq!(held.identity(), &id("web"));
    assert_eq!(held.chain().len(), 2, "leaf and intermediate, no root");
    assert_eq!(held.roots().len(), 1);
    assert_eq!(ca.requests(), [id("web")]);
    let csr = pem::parse(&ca.csrs()[0]).unwrap();
    let (_, csr) =
        <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<
            '_,
            _,
        >>::from_der(csr.contents())
        .unwrap();
    assert_eq!(csr.certification_request_info.subject.iter().count(), 0, "no CN");
    let names: Vec<String> = csr
        .requested_extensions()
        .into_iter()
        .flatten()
        .map(|extension| match extension {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(san) => {
                format!("{:?}", san.general_names)
            }
            other => panic!("asks for {other:?}"),
        })
        .collect();
    assert_eq!(names, ["[URI(\"spiffe://cluster.local/ns/team/sa/web\")]"]);
    assert!(metrics.text().contains("meltemi_certificate_requests_total{result=\"ok\"} 1\n"));
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_with_a_new_key_at_half_of_its_life_while_the_old_one_serves() {
    let Rig { ca, store, .. } = rig(4);
    let _served = store.serve(&id("web"));
    let first = store.get(&id("web"), WAIT).await.unwrap();
    pass(TTL / 2 - Duration::from_secs(5)).await;
    assert_eq!(ca.requests().len(), 1, "not before half of its life");
    ca.hold();
    pass(Duration::from_secs(10)).await;
    assert_eq!(ca.requests().len(), 2);
    assert!(Arc::ptr_eq(&first, &store.current(&id("web")).unwrap()), "the old one until the answer");
    let mut changes = store.changes();
    changes.mark_unchanged();
    ca.let_through(1);
    changes.changed().await.unwrap();
    let second = store.current(&id("web")).unwrap();
    assert_ne!(first.key().public(), second.key().public());
    assert!(second.not_after() > first.not_after());
}

#[tokio::test(start_paused = true)]
async fn an_absent_ca_is_asked_again_and_the_old_certificate_serves_to_its_end() {
    let Rig { ca, store, metrics, .. } = rig(4);
    let _served = store.serve(&id("web"));
    store.get(&id("web"), WAIT).await.unwrap();
    ca.fail_always(Some(Fault::Unavailable));
    pass(TTL - Duration::from_secs(5)).await;
    let tries = ca.requests().len();
    assert!((4..200).contains(&tries), "{tries} requests: back-off neither gives up nor floods");
    assert!(store.current(&id("web")).is_some(), "valid to its end");
    assert_eq!(store.certificates()[0].state, CertificateState::Valid);
    pass(Duration::from_secs(10)).await;
    assert!(store.current(&id("web")).is_none(), "never after its end");
    assert_eq!(store.certificates()[0].state, CertificateState::Failed);
    let error = store.get(&id("web"), WAIT).await.unwrap_err();
    assert!(matches!(error, CertificateError::NotYet { .. }), "{error}");
    assert!(error.to_string().contains("the CA is away"), "{error}");
    ca.fail_always(None);
    // A connection that waits shortens the back-off to a second.
    store.get(&id("web"), WAIT).await.unwrap();
    let text = metrics.text();
    assert!(text.contains("meltemi_certificate_requests_total{result=\"ok\"} 2\n"), "{text}");
    assert!(text.contains("meltemi_certificate_requests_total{result=\"failed\"}"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_what_was_asked_for_is_never_used() {
    for (fault, problem) in [
        (Fault::WrongKey, "another key"),
        (Fault::WrongIdentity(id("admin")), "is for spiffe://cluster.local/ns/team/sa/admin"),
        (Fault::TwoIdentities(id("admin")), "2 URI names"),
        (Fault::Expired, "expired"),
        (Fault::ForeignRoots, "none of the trusted roots"),
        (Fault::NoRoots, "0 roots"),
        (Fault::NotPem, "0 certificates below the root"),
    ] {
        let Rig { ca, store, metrics, .. } = rig(1);
        ca.fail_always(Some(fault.clone()));
        let _served = store.serve(&id("web"));
        let error = store.get(&id("web"), WAIT).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{fault:?}: {error}");
        assert!(store.current(&id("web")).is_none());
        assert!(store.trust().roots().is_empty(), "{fault:?}: its roots are not trusted either");
        assert!(metrics.text().contains("meltemi_certificate_requests_total{result=\"refused\"}"));
        ca.fail_always(None);
        store.get(&id("web"), WAIT).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_waited_for_goes_first() {
    let Rig { ca, store, .. } = rig(1);
    ca.hold();
    let accounts = ["a", "b", "c", "d"];
    let mut claims = Vec::new();
    for account in accounts {
        claims.push(store.serve(&id(account)));
        tokio::task::yield_now().await;
    }
    ca.asked(1).await;
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.get(&id("d"), WAIT).await }
    });
    pass(Duration::from_millis(1)).await;
    ca.let_through(4);
    waiting.await.unwrap().unwrap();
    for account in accounts {
        store.get(&id(account), WAIT).await.unwrap();
    }
    assert_eq!(ca.requests(), [id("a"), id("d"), id("b"), id("c")]);
}

#[tokio::test(start_paused = true)]
async fn an_identity_lives_as_long_as_one_pod_claims_it() {
    let Rig { ca, store, .. } = rig(4);
    assert!(matches!(store.get(&id("web"), WAIT).await, Err(CertificateError::NotServed(_))));
    let (first, second) = (store.serve(&id("web")), store.serve(&id("web")));
    let held = Arc::downgrade(&store.get(&id("web"), WAIT).await.unwrap());
    drop(first);
    assert!(store.current(&id("web")).is_some());
    drop(second);
    assert!(store.current(&id("web")).is_none());
    pass(Duration::from_millis(1)).await;
    assert!(held.upgrade().is_none(), "the key is gone");
    pass(TTL * 2).await;
    assert_eq!(ca.requests().len(), 1, "nothing is renewed for nobody");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_learns_that_the_pod_left() {
    let Rig { ca, store, .. } = rig(4);
    ca.hold();
    let served = store.serve(&id("web"));
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.get(&id("web"), Duration::from_secs(3_600)).await }
    });
    ca.asked(1).await;
    drop(served);
    let error = tokio::time::timeout(WAIT, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, CertificateError::NotServed(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_its_deadline() {
    let Rig { ca, store, clock, .. } = rig(4);
    ca.hold();
    let _served = store.serve(&id("web"));
    let before = clock.now();
    let error = store.get(&id("web"), Duration::from_millis(700)).await.unwrap_err();
    assert_eq!(clock.now().duration_since(before).unwrap().as_millis(), 700);
    assert!(error.to_string().contains("after 700 ms: the CA has not answered yet"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn early_renewal_takes_the_old_ones_only_and_can_be_repeated() {
    let Rig { ca, store, clock, .. } = rig(4);
    let _served = (store.serve(&id("a")), store.serve(&id("b")));
    store.get(&id("a"), WAIT).await.unwrap();
    let old = store.get(&id("b"), WAIT).await.unwrap();
    pass(Duration::from_secs(10)).await;
    let until = clock.now();
    pass(Duration::from_secs(10)).await;
    let _third = store.serve(&id("c"));
    pass(Duration::from_secs(10)).await;
    assert_eq!(store.renew(Some(until)), 2);
    pass(Duration::from_secs(10)).await;
    assert_eq!(ca.requests().len(), 5);
    let new = store.current(&id("b")).unwrap();
    assert_ne!(old.key().public(), new.key().public());
    assert_eq!(store.renew(Some(until)), 0, "repeating it is harmless");
    assert_eq!(store.renew(None), 3);
    pass(Duration::from_secs(10)).await;
    assert_eq!(ca.requests().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn roots_rotate_with_an_overlap_and_own_certificates_follow() {
    let Rig { ca, store, .. } = rig(4);
    let _served = (store.serve(&id("a")), store.serve(&id("b")));
    let old = store.get(&id("a"), WAIT).await.unwrap();
    store.get(&id("b"), WAIT).await.unwrap();
    let mut trust_changes = store.trust().changes();
    trust_changes.mark_unchanged();
    pass(Duration::from_secs(60)).await;

    // Overlap: both roots, the old one signs.
    let second = ca.add_root();
    ca.set_roots(0, &[0, second]);
    store.renew(None);
    pass(Duration::from_secs(60)).await;
    assert!(trust_changes.has_changed().unwrap());
    trust_changes.mark_unchanged();
    assert!(store.trust().still_trusted(old.chain()));
    // The new one signs.
    ca.set_roots(second, &[0, second]);
    store.renew(None);
    pass(Duration::from_secs(60)).await;
    assert!(!trust_changes.has_changed().unwrap(), "the set of roots is the same");
    let new = store.current(&id("a")).unwrap();
    assert!(store.trust().still_trusted(old.chain()) && store.trust().still_trusted(new.chain()));
    // The old one is gone.
    ca.set_roots(second, &[second]);
    store.renew(None);
    pass(Duration::from_secs(60)).await;
    assert!(trust_changes.has_changed().unwrap());
    assert!(!store.trust().still_trusted(old.chain()));
    assert!(store.trust().still_trusted(new.chain()));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_goes_at_once_has_own_certificates_renewed_at_once() {
    let Rig { ca, store, .. } = rig(4);
    let _a = store.serve(&id("a"));
    store.get(&id("a"), WAIT).await.unwrap();
    pass(Duration::from_secs(60)).await;
    let second = ca.add_root();
    ca.set_roots(second, &[second]);
    let _b = store.serve(&id("b"));
    store.get(&id("b"), WAIT).await.unwrap();
    pass(Duration::from_secs(5)).await;
    assert_eq!(ca.requests(), [id("a"), id("b"), id("a")]);
    assert!(store.trust().still_trusted(store.current(&id("a")).unwrap().chain()));
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_outlives_its_peers_certificate_but_not_its_root() {
    let Rig { store, .. } = rig(4);
    let _served = store.serve(&id("web"));
    let held = store.get(&id("web"), WAIT).await.unwrap();
    pass(TTL * 2).await;
    assert!(store.trust().still_trusted(held.chain()));
    let verdict = store.trust().verify(held.chain(), crate::PeerRole::Client);
    assert_eq!(verdict, Err(crate::PeerError::Expired), "a new handshake does not accept it");
    assert!(!store.trust().still_trusted(&[]));
}

#[tokio::test(start_paused = true)]
async fn views_and_debug_texts_hold_no_key() {
    let Rig { store, .. } = rig(4);
    let _served = store.serve(&id("web"));
    let held = store.get(&id("web"), WAIT).await.unwrap();
    let secret = held.key().secret().unwrap();
    let secret: &[u8] = secret.as_ref();
    let shown = format!("{store:?} {held:?} {}", serde_json::to_string(&store.certificates()).unwrap());
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    assert!(!shown.contains(&hex) && !shown.contains(&list) && !shown.contains("PRIVATE"));
    assert!(shown.contains("redacted"));
    let view = &serde_json::to_value(store.certificates()).unwrap()[0];
    assert_eq!(view["identity"], "spiffe://cluster.local/ns/team/sa/web");
    assert_eq!(view["state"], "valid");
    assert_eq!(view["chain"][0]["subject_alt_names"][0], "spiffe://cluster.local/ns/team/sa/web");
    assert!(view["chain"][0]["pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(view["roots"][0]["not_after"].as_str().unwrap().ends_with('Z'));
    assert!(view["renew_at"].is_string());
}

/// Hands on the answers for one identity only when it is told to: they arrive after later ones.
#[derive(Debug)]
struct Late {
    ca: Arc<TestCa>,
    late: Identity,
    gate: Semaphore,
}

impl CaClient for Late {
    fn create_certificate<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> CaAnswer<'a> {
        Box::pin(async move {
            let answer = self.ca.create_certificate(identity, csr_pem).await;
            if *identity == self.late {
                self.gate.acquire().await.unwrap().forget();
            }
            answer
        })
    }
}

/// The CA rotates between an answer that comes late and one that comes at once.
async fn late_answer(between: Duration) {
    let Rig { ca, clock, metrics, .. } = rig(1);
    let late = Arc::new(Late { ca: ca.clone(), late: id("late"), gate: Semaphore::new(0) });
    let options = StoreOptions {
        trust_domain: "cluster.local".into(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests: 4,
        clock: clock.clone(),
        jitter: Arc::new(FixedJitter(0.5)),
    };
    let store = CertificateStore::new(options, late.clone(), metrics);
    let _late = store.serve(&id("late"));
    ca.asked(1).await;
    let second = ca.add_root();
    ca.set_roots(second, &[0, second]);
    tokio::time::sleep(between).await;
    let _prompt = store.serve(&id("prompt"));
    store.get(&id("prompt"), WAIT).await.unwrap();
    assert_eq!(store.trust().roots().certificates().len(), 2);
    let changes = store.trust().generation();
    late.gate.add_permits(1);
    store.get(&id("late"), WAIT).await.unwrap();
    assert_eq!(store.trust().roots().certificates().len(), 2, "an older bundle undid a newer one");
    // What is not known to be the latest is asked for again.
    ca.asked(3).await;
    late.gate.add_permits(1);
    pass(Duration::from_secs(1)).await;
    assert_eq!(store.trust().roots().certificates().len(), 2);
    assert_eq!(store.trust().generation(), changes, "trust went back and forth");
    assert_eq!(ca.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_older_bundle_that_comes_late_undoes_nothing() {
    late_answer(Duration::from_secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_of_the_same_second() {
    late_answer(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_later_request_counts_whatever_the_time_of_the_ca() {
    let Rig { ca, store, .. } = rig(4);
    let _first = store.serve(&id("first"));
    store.get(&id("first"), WAIT).await.unwrap();
    let before = store.trust().roots().certificates();
    let second = ca.add_root();
    ca.set_roots(second, &[second]);
    // Its clock went back: what it signs now is dated before what it signed then.
    ca.fail_once(Fault::Backdated);
    let _later = store.serve(&id("later"));
    store.get(&id("later"), WAIT).await.unwrap();
    assert_ne!(store.trust().roots().certificates(), before);
}
