//! The capture on the loopback of a network namespace of its own (no root needed).
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::{BINARY, captured};

/// Starts a server, waits for it, whose process is `$server`.
const SERVER: &str = ": > server; $kit serve tcp --sink --listen 127.0.0.1:7000 > server & server=$!
        until grep -q ready server; do sleep 0.02; done";

#[test]
fn finds_the_marker_in_plain_traffic_and_drops_nothing() {
    let seen = captured(
        "--marker s3cret-marker --marker never-sent --out all.pcap",
        &format!(
            "{SERVER}
            $kit client tcp --connect 127.0.0.1:7000 --send-bytes 300000 --marker 'padding s3cret-marker' --one-way > /dev/null
            kill $server $capture; test $(stat -c %s all.pcap) -ge 24"
        ),
    );
    assert_eq!(seen["marker_found"], true, "{seen}");
    assert_eq!(seen["markers_found"], serde_json::json!(["s3cret-marker"]));
    assert_eq!(seen["drops"], 0);
    assert_eq!(seen["cut_bytes"], 0);
    assert_eq!(seen["tcp_payload_bytes_by_port"], serde_json::json!({ "7000": 300_000 }));
    assert_eq!(seen["payload_bytes_outside_tunnel"], 300_000);
    assert_eq!(seen["syn_count"], 1);
    assert_eq!(seen["tls_records"], 0);
}

#[test]
fn finds_no_marker_that_was_not_sent() {
    let seen = captured(
        "--marker s3cret-marker",
        &format!(
            "{SERVER}\n $kit client tcp --connect 127.0.0.1:7000 --send-bytes 50000 --one-way > /dev/null; kill $server $capture"
        ),
    );
    assert_eq!(seen["marker_found"], false, "{seen}");
    assert!(seen["packets"].as_u64().unwrap() > 4);
}

#[test]
fn ends_by_itself_after_a_duration() {
    let seen = captured("--duration-ms 200", "");
    assert_eq!(seen["drops"], 0, "{seen}");
    assert_eq!(seen["interface"], "lo");
}

#[test]
fn names_an_interface_that_does_not_exist() {
    let output =
        Command::new("unshare").args(["-Urn", BINARY, "capture", "--interface", "absent0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("absent0"));
}
