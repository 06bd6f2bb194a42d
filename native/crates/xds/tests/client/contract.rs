//! The client against a server whose every word the test chooses.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{PATIENCE, Rig, pod, pod_uid, response, spoil};
use meltemi_state::{Lookup, Mesh, ResolveError, Resolved};
use meltemi_types::NetworkAddress;
use meltemi_types::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use meltemi_types::discovery::ResourceType::{Address, Authorization};
use tokio::task::JoinHandle;
use tokio::time::Instant;

fn at(text: &str) -> NetworkAddress {
    text.parse().unwrap()
}

/// Starts to resolve an address; what it is found to be, in a word.
fn resolving(mesh: &Arc<Mesh>, address: &str) -> JoinHandle<String> {
    let (mesh, address) = (mesh.clone(), at(address));
    tokio::spawn(async move {
        match mesh.resolve(&address, "shop", Instant::now() + PATIENCE).await {
            Ok(Resolved::Workload(workload)) => workload.name.to_string(),
            Ok(Resolved::Service(service)) => service.key.to_string(),
            Ok(Resolved::Negative) => "negative".into(),
            Err(error) => error.to_string(),
        }
    })
}

fn known(mesh: &Mesh, address: &str) -> bool {
    matches!(mesh.lookup(&at(address), "shop"), Lookup::Workload(_))
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn assert_ack(request: &DeltaDiscoveryRequest, nonce: &str) {
    assert_eq!(request.response_nonce, nonce);
    assert_eq!(request.error_detail, None);
}

#[tokio::test]
async fn the_first_requests_introduce_the_node_and_ask_for_nothing_but_policies() {
    let mut rig = Rig::new(|_| {}).await;
    let (stream, authorizations, addresses) = rig.opened().await;
    assert_eq!(authorizations.resource_names_subscribe, ["*"]);
    assert!(authorizations.resource_names_unsubscribe.is_empty());
    assert_eq!(addresses.resource_names_subscribe, ["*"]);
    assert_eq!(addresses.resource_names_unsubscribe, ["*"]);
    assert!(addresses.initial_resource_versions.is_empty());
    let node = addresses.node.unwrap();
    assert_eq!(node.id, "ztunnel~10.0.0.1~proxy.meltemi-system~meltemi-system.svc.cluster.local");
    assert_eq!(node.user_agent_name, "meltemi-proxy");
    let metadata = node.metadata.unwrap().fields;
    let text = |key: &str| match &metadata[key].kind {
        Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(text("NODE_NAME"), "node-a");
    assert_eq!(text("CLUSTER_ID"), "Kubernetes");
    assert_eq!(text("NAMESPACE"), "meltemi-system");
    assert_eq!(text("NAME"), "proxy");
    assert_eq!(text("INSTANCE_IPS"), "10.0.0.1");
    assert_eq!(text("MELTEMI_ON_DEMAND"), "true");
    assert_eq!(stream.metadata.get("clusterid").unwrap(), "Kubernetes");
}

#[tokio::test]
async fn a_demand_is_subscribed_by_name_answered_and_acknowledged() {
    let mut rig = Rig::new(|_| {}).await;
    let (mut stream, ..) = rig.opened().await;
    let waiting = resolving(&rig.mesh, "/10.0.0.7");
    let request = stream.request().await;
    assert_eq!(request.resource_names_subscribe, ["/10.0.0.7"]);
    assert!(request.node.is_none() && request.response_nonce.is_empty());
    stream.respond(response("n1", vec![pod("web", "10.0.0.7", "1")], &[])).await;
    assert_eq!(waiting.await.unwrap(), "web");
    assert_ack(&stream.request().await, "n1");
}

#[tokio::test]
async fn one_question_is_put_for_all_who_wait() {
    let mut rig = Rig::new(|_| {}).await;
    let (mut stream, ..) = rig.opened().await;
    let all: Vec<_> = (0..50).map(|_| resolving(&rig.mesh, "/10.0.0.7")).collect();
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.0.0.7"]);
    let other = resolving(&rig.mesh, "/10.0.0.8");
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.0.0.8"], "no second question");
    let both = vec![pod("web", "10.0.0.7", "1"), pod("api", "10.0.0.8", "1")];
    stream.respond(response("n1", both, &[])).await;
    for waiting in all {
        assert_eq!(waiting.await.unwrap(), "web");
    }
    assert_eq!(other.await.unwrap(), "api");
}

#[tokio::test]
async fn a_negative_answer_is_taken_back_when_the_resource_appears_and_removal_ends_it() {
    let mut rig = Rig::new(|_| {}).await;
    let (mut stream, ..) = rig.opened().await;
    let waiting = resolving(&rig.mesh, "/10.0.0.7");
    stream.request().await;
    stream.respond(response("n1", vec![], &["/10.0.0.7"])).await;
    assert_eq!(waiting.await.unwrap(), "negative");
    assert_ack(&stream.request().await, "n1");

    stream.respond(response("n2", vec![pod("web", "10.0.0.7", "1")], &[])).await;
    assert_ack(&stream.request().await, "n2");
    assert_eq!(resolving(&rig.mesh, "/10.0.0.7").await.unwrap(), "web");

    stream.respond(response("n3", vec![], &[&pod_uid("web")])).await;
    assert_ack(&stream.request().await, "n3");
    let waiting = resolving(&rig.mesh, "/10.0.0.7");
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.0.0.7"], "asked anew");
    stream.respond(response("n4", vec![], &["/10.0.0.7"])).await;
    assert_eq!(waiting.await.unwrap(), "negative");
}

#[tokio::test]
async fn a_refused_resource_is_named_and_its_last_good_version_stays_in_force() {
    let mut rig = Rig::new(|options| options.on_demand = false).await;
    let (mut stream, ..) = rig.opened().await;
    stream.respond(response("n1", vec![pod("web", "10.0.0.7", "1")], &[])).await;
    assert_ack(&stream.request().await, "n1");
    let truncated = spoil(pod("web", "10.0.0.9", "2"), |body| body.truncate(body.len() - 3));
    stream.respond(response("n2", vec![truncated, pod("api", "10.0.0.8", "1")], &[])).await;
    let nack = stream.request().await;
    assert_eq!(nack.response_nonce, "n2");
    let detail = nack.error_detail.expect("an error").message;
    assert!(detail.starts_with(&format!("{}: ", pod_uid("web"))), "{detail}");
    assert!(!detail.contains(&pod_uid("api")), "{detail}");
    assert!(known(&rig.mesh, "/10.0.0.7") && known(&rig.mesh, "/10.0.0.8"));

    // The next stream says which version is held, so that the newer one is sent again.
    drop(stream);
    let (_stream, _, addresses) = rig.opened().await;
    assert_eq!(addresses.initial_resource_versions[&pod_uid("web")], "1");
    assert_eq!(addresses.initial_resource_versions[&pod_uid("api")], "1");
}

#[tokio::test]
async fn what_is_of_another_type_or_has_no_content_is_refused() {
    let mut rig = Rig::new(|options| options.on_demand = false).await;
    let (mut stream, ..) = rig.opened().await;
    let mut other = pod("other", "10.0.0.8", "1");
    other.resource.as_mut().unwrap().type_url = Authorization.type_url().into();
    let mut empty = pod("empty", "10.0.0.9", "1");
    empty.resource = None;
    stream.respond(response("n1", vec![other, pod("web", "10.0.0.7", "1"), empty], &[])).await;
    let detail = stream.request().await.error_detail.expect("an error").message;
    assert!(detail.contains("other: it is a `type.googleapis.com/istio.security.Authorization`"), "{detail}");
    assert!(detail.contains("empty: it has no content"), "{detail}");
    assert!(known(&rig.mesh, "/10.0.0.7"));

    let foreign = DeltaDiscoveryResponse { type_url: "type.example/X".into(), ..response("n2", vec![], &[]) };
    stream.respond(foreign).await;
    let nack = stream.request().await;
    assert_eq!((nack.type_url.as_str(), nack.response_nonce.as_str()), ("type.example/X", "n2"));
    assert!(nack.error_detail.is_some());
}

#[tokio::test]
async fn a_reconnect_asks_for_the_names_still_held_and_for_those_wanted_meanwhile() {
    let mut rig = Rig::new(|_| {}).await;
    let (mut stream, ..) = rig.opened().await;
    let first = [resolving(&rig.mesh, "/10.0.0.7"), resolving(&rig.mesh, "/10.0.0.8")];
    let mut asked = stream.request().await.resource_names_subscribe;
    if asked.len() < 2 {
        asked.extend(stream.request().await.resource_names_subscribe);
    }
    assert_eq!(sorted(asked), ["/10.0.0.7", "/10.0.0.8"]);
    stream.respond(response("n1", vec![pod("web", "10.0.0.7", "v7")], &["/10.0.0.8"])).await;
    for waiting in first {
        waiting.await.unwrap();
    }
    rig.is_connected(true).await;
    rig.stop_listening();
    drop(stream);
    rig.is_connected(false).await;
    assert!(rig.status.borrow().last_error.is_some());
    assert!(known(&rig.mesh, "/10.0.0.7"), "what was received stays in force");
    assert!(matches!(rig.mesh.lookup(&at("/10.0.0.8"), "shop"), Lookup::Negative));
    let waiting = resolving(&rig.mesh, "/10.0.0.9");

    rig.listen();
    let (mut stream, _, addresses) = rig.opened().await;
    let mut names = addresses.resource_names_subscribe;
    // The demand of the meantime may have come too late for the first request.
    if !names.contains(&"/10.0.0.9".to_owned()) {
        names.extend(stream.request_of(Address).await.resource_names_subscribe);
    }
    assert_eq!(sorted(names), ["/10.0.0.7", "/10.0.0.8", "/10.0.0.9"]);
    assert_eq!(addresses.resource_names_unsubscribe, ["*"]);
    assert_eq!(addresses.initial_resource_versions, [(pod_uid("web"), "v7".to_owned())].into());
    stream.respond(response("m1", vec![pod("new", "10.0.0.9", "1")], &[&pod_uid("web"), "/10.0.0.7"])).await;
    assert_eq!(waiting.await.unwrap(), "new");
    assert!(!known(&rig.mesh, "/10.0.0.7"));
}

#[tokio::test]
async fn everything_is_sent_under_a_wildcard_and_what_is_absent_then_does_not_exist() {
    let mut rig = Rig::new(|options| options.on_demand = false).await;
    let (mut stream, _, addresses) = rig.opened().await;
    assert_eq!(addresses.resource_names_subscribe, ["*"]);
    assert!(addresses.resource_names_unsubscribe.is_empty());
    let waiting = resolving(&rig.mesh, "/10.0.0.8");
    stream.respond(response("n1", vec![pod("web", "10.0.0.7", "1")], &[])).await;
    assert_ack(&stream.request().await, "n1");
    assert_eq!(waiting.await.unwrap(), "negative");
    assert!(rig.mesh.is_synced(Address) && !rig.mesh.is_synced(Authorization));
    let empty =
        DeltaDiscoveryResponse { type_url: Authorization.type_url().into(), ..response("a", vec![], &[]) };
    stream.respond(empty).await;
    tokio::time::timeout(PATIENCE, rig.mesh.await_synced(Authorization)).await.unwrap();
}

#[tokio::test]
async fn a_first_answer_in_parts_counts_when_its_last_part_came() {
    let mut rig = Rig::new(|options| {
        options.on_demand = false;
        options.quiet = Duration::from_secs(3600);
    })
    .await;
    let (mut stream, ..) = rig.opened().await;
    let waiting = resolving(&rig.mesh, "/10.1.39.15");
    let all: Vec<_> = (0..10_000u32)
        .map(|n| pod(&format!("web-{n}-{}", "x".repeat(60)), &format!("10.1.{}.{}", n / 256, n % 256), "1"))
        .collect();
    let (part, rest) = all.split_at(9_000);
    stream.respond(response("n1", part.to_vec(), &[])).await;
    assert_ack(&stream.request().await, "n1");
    assert!(!rig.mesh.is_synced(Address), "more may come");
    stream.respond(response("n2", rest.to_vec(), &[])).await;
    assert!(waiting.await.unwrap().starts_with("web-9999"), "it came with the second part");
    assert_ack(&stream.request().await, "n2");
    assert!(rig.mesh.is_synced(Address), "a small part is the last");
}

#[tokio::test]
async fn a_large_first_answer_counts_when_nothing_follows_it() {
    let mut rig = Rig::new(|options| {
        options.on_demand = false;
        options.quiet = Duration::from_millis(10);
    })
    .await;
    let (stream, ..) = rig.opened().await;
    let all = (0..9_000u32)
        .map(|n| pod(&format!("web-{n}-{}", "x".repeat(60)), &format!("10.1.{}.{}", n / 256, n % 256), "1"));
    stream.respond(response("n1", all.collect(), &[])).await;
    tokio::time::timeout(PATIENCE, rig.mesh.await_synced(Address)).await.unwrap();
    assert!(known(&rig.mesh, "/10.1.0.7"));
}

#[tokio::test]
async fn garbage_on_the_stream_ends_it_and_another_is_opened() {
    use tokio::io::AsyncWriteExt;
    let mut rig = Rig::new(|_| {}).await;
    let (stream, ..) = rig.opened().await;
    rig.stop_listening();
    drop(stream);
    rig.is_connected(false).await;
    let listener = tokio::net::UnixListener::bind(&rig.socket).unwrap();
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 64], &[0xff; 4096], b""] {
        let (mut io, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        // The client may be gone before all is written.
        let _ = io.write_all(garbage).await;
    }
    drop(listener);
    rig.listen();
    let (mut stream, ..) = rig.opened().await;
    let waiting = resolving(&rig.mesh, "/10.0.0.7");
    stream.request().await;
    stream.respond(response("n1", vec![pod("web", "10.0.0.7", "1")], &[])).await;
    assert_eq!(waiting.await.unwrap(), "web");
}

#[tokio::test]
async fn a_server_that_does_not_answer_leaves_the_address_unknown() {
    let mut rig = Rig::new(|_| {}).await;
    let (mut stream, ..) = rig.opened().await;
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = rig.mesh.resolve(&at("/10.0.0.7"), "shop", deadline).await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer { .. }));
    // It was only slow: the answer is of use to the next connection.
    stream.request().await;
    stream.respond(response("n1", vec![pod("web", "10.0.0.7", "1")], &[])).await;
    assert_eq!(resolving(&rig.mesh, "/10.0.0.7").await.unwrap(), "web");
}

#[tokio::test]
async fn a_server_that_does_not_read_is_still_listened_to() {
    let mut rig = Rig::new(|_| {}).await;
    let (stream, ..) = rig.opened().await;
    // Far more than transport and server buffer of what the client says; it reads none of it.
    let asking: Vec<_> =
        (0..2_000u32).map(|n| resolving(&rig.mesh, &format!("/10.2.{}.{}", n / 256, n % 256))).collect();
    for n in 0..500u32 {
        stream.respond(response(&format!("n{n}"), vec![pod("web", "10.0.0.7", &n.to_string())], &[])).await;
    }
    stream.respond(response("last", vec![pod("api", "10.0.0.8", "1")], &[])).await;
    let all: Vec<String> = (0..2_000u32).map(|n| format!("/10.2.{}.{}", n / 256, n % 256)).collect();
    let negative: Vec<&str> = all.iter().map(String::as_str).collect();
    stream.respond(response("negative", vec![], &negative)).await;
    for waiting in asking {
        assert_eq!(waiting.await.unwrap(), "negative");
    }
    assert!(known(&rig.mesh, "/10.0.0.8"));
}

#[tokio::test]
async fn a_server_that_accepts_and_falls_silent_is_left() {
    let mut rig = Rig::new(|options| options.keepalive = Duration::from_millis(100)).await;
    let (stream, ..) = rig.opened().await;
    rig.stop_listening();
    drop(stream);
    let listener = tokio::net::UnixListener::bind(&rig.socket).unwrap();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent
            .push(tokio::time::timeout(PATIENCE, listener.accept()).await.expect("it tries again").unwrap());
    }
}

#[tokio::test]
async fn names_that_nothing_uses_are_unsubscribed() {
    let mut rig = Rig::new(|options| {
        options.idle_limit = Some(Duration::from_secs(1));
        options.idle_check = Duration::from_millis(20);
    })
    .await;
    let (mut stream, ..) = rig.opened().await;
    let waiting = resolving(&rig.mesh, "/10.0.0.7");
    stream.request().await;
    stream.respond(response("n1", vec![], &["/10.0.0.7"])).await;
    assert_eq!(waiting.await.unwrap(), "negative");
    assert_ack(&stream.request().await, "n1");
    let request = stream.request().await;
    assert_eq!(request.resource_names_unsubscribe, ["/10.0.0.7"]);
    assert!(request.resource_names_subscribe.is_empty());
    drop(stream);
    let (_stream, _, addresses) = rig.opened().await;
    assert_eq!(addresses.resource_names_subscribe, ["*"]);
}
