//! The attackers' tools on the loopback of a network namespace of its own (no root needed).
#![allow(clippy::unwrap_used)]

mod support;

use support::captured;

/// What the script's tool printed is lost among the capture's lines, so the script itself checks it.
const MARKER: &str = "--marker s3cret-marker";

#[test]
fn a_connection_sends_its_marker() {
    let seen = captured(
        MARKER,
        "$kit serve tcp --listen 127.0.0.1:7000 > server & server=$!
        until grep -q ready server; do sleep 0.02; done
        $kit attack connect --to 127.0.0.1:7000 --mark 0x539 --marker s3cret-marker --times 3 > attack
        grep -q '\"attempted\":1,\"succeeded\":1,\"sent_bytes\":39,\"received_bytes\":39' attack
        kill $server $capture",
    );
    // There and back.
    assert_eq!(seen["marker_bytes"], 6 * 13, "{seen}");
}

#[test]
fn segments_leave_through_raw_sockets_in_every_shape() {
    let shapes = ["segment", "syn", "fragments", "tiny-fragments", "lone-fragment", "options"];
    for (address, shapes) in [("127.0.0.1", &shapes[..]), ("[::1]", &shapes[..])] {
        let attacks: Vec<String> = shapes
            .iter()
            .map(|shape| {
                format!(
                    "$kit attack frames --through raw --shape {shape} --from {address}:5000 \\
                        --to {address}:7000 --marker s3cret-marker --attempts 2 > attack
                    grep -q '\"attempted\":2,\"succeeded\":2' attack"
                )
            })
            .collect();
        let seen = captured(MARKER, &format!("{}\nkill $capture", attacks.join("\n")));
        assert_eq!(seen["marker_bytes"], shapes.len() * 2 * 13, "{address}: {seen}");
    }
}

#[test]
fn frames_leave_through_packet_sockets() {
    let seen = captured(
        MARKER,
        "for through in packet packet-bypass; do for shape in segment vlan; do
            $kit attack frames --through $through --shape $shape --device lo --next-hop 00:00:00:00:00:00 \\
                --from 127.0.0.1:5000 --to 127.0.0.1:7000 --marker s3cret-marker --attempts 2 > attack
            grep -q '\"attempted\":2,\"succeeded\":2' attack
        done; done
        kill $capture",
    );
    assert_eq!(seen["marker_bytes"], 8 * 13, "{seen}");
}

#[test]
fn a_listener_joins_only_where_it_may() {
    captured(
        MARKER,
        "$kit attack listen --reuse-port --hold --listen 127.0.0.1:7000 > first & first=$!
        until grep -q ready first; do sleep 0.02; done
        $kit attack listen --reuse-port --listen 127.0.0.1:7000 > attack
        grep -q '\"attempted\":1,\"succeeded\":1' attack
        $kit attack listen --listen 127.0.0.1:7000 > attack
        grep -q '\"127.0.0.1:7000: EADDRINUSE' attack
        kill $first $capture",
    );
}
