//! What the capture saw, in numbers.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use serde::Serialize;

use super::flow::{Flow, marker_bytes};
use super::packet::{ACK, Captured, Carried, FIN, RST, SYN, Segment, parse};
use super::ring::Statistics;

/// Inbound HBONE (docs/node-interfaces.md).
const TUNNEL_PORT: u16 = 15008;
const MAX_FLOWS: usize = 1 << 16;
const MAX_NAMED_FLOWS: usize = 20;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    interface: String,
    /// Frames looked at.
    packets: u64,
    bytes: u64,
    /// Frames that the kernel counted (on loopback each one twice), drops included.
    kernel_packets: u64,
    /// Frames that the kernel could not hand over: more than 0 makes the rest worthless as a proof.
    drops: u64,
    /// Payload bytes that were not held, by a short capture length.
    cut_bytes: u64,
    syn_count: u64,
    syn_ack_count: u64,
    fin_count: u64,
    rst_count: u64,
    udp_packets: u64,
    udp_payload_bytes: u64,
    flows: u64,
    /// Flows beyond what the capture follows.
    unfollowed_segments: u64,
    tls_records: u64,
    /// Payload of each connection by its server's port (the SYN's destination, else the lower port).
    tcp_payload_bytes_by_port: BTreeMap<u16, u64>,
    /// Payload of connections that do not touch port 15008.
    payload_bytes_outside_tunnel: u64,
    /// Payload of flows that are not a sequence of TLS records.
    payload_bytes_not_tls: u64,
    /// Any of the markers, in any flow or frame.
    marker_found: bool,
    /// Bytes of all markers, each time they were seen: in frames of any kind, fragments and unknown
    /// protocols too, and across the segments of a flow.
    marker_bytes: u64,
    /// Frames that have a marker whole.
    marker_frames: u64,
    markers_found: Vec<String>,
    marker_flows: Vec<String>,
    #[serde(skip)]
    markers: Vec<Vec<u8>>,
    #[serde(skip)]
    open: HashMap<(SocketAddr, SocketAddr), Flow>,
    #[serde(skip)]
    servers: HashMap<(SocketAddr, SocketAddr), u16>,
}

impl Report {
    pub(super) fn new(interface: &str, markers: Vec<Vec<u8>>) -> Self {
        Self {
            interface: interface.to_owned(),
            packets: 0,
            bytes: 0,
            kernel_packets: 0,
            drops: 0,
            cut_bytes: 0,
            syn_count: 0,
            syn_ack_count: 0,
            fin_count: 0,
            rst_count: 0,
            udp_packets: 0,
            udp_payload_bytes: 0,
            flows: 0,
            unfollowed_segments: 0,
            tls_records: 0,
            tcp_payload_bytes_by_port: BTreeMap::new(),
            payload_bytes_outside_tunnel: 0,
            payload_bytes_not_tls: 0,
            marker_found: false,
            marker_bytes: 0,
            marker_frames: 0,
            markers_found: Vec::new(),
            marker_flows: Vec::new(),
            markers,
            open: HashMap::new(),
            servers: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, captured: &Captured<'_>) {
        self.packets += 1;
        self.bytes += u64::from(captured.wire_bytes);
        let marked: u64 = self.markers.iter().map(|marker| marker_bytes(captured.data, marker)).sum();
        self.marker_bytes += marked;
        self.marker_frames += u64::from(marked > 0);
        match parse(captured.data) {
            Carried::Tcp(segment) => self.add_segment(&segment),
            Carried::Udp { payload_bytes, .. } => {
                self.udp_packets += 1;
                self.udp_payload_bytes += payload_bytes as u64;
            }
            Carried::Other => {}
        }
    }

    fn add_segment(&mut self, segment: &Segment<'_>) {
        self.cut_bytes += segment.missing as u64;
        let has = |flag: u8| u64::from(segment.flags & flag != 0);
        let opens = segment.flags & (SYN | ACK);
        self.syn_count += u64::from(opens == SYN);
        self.syn_ack_count += u64::from(opens == SYN | ACK);
        self.fin_count += has(FIN);
        self.rst_count += has(RST);
        let key = (segment.source, segment.destination);
        if opens == SYN {
            self.servers.insert(key, segment.destination.port());
        }
        if !self.open.contains_key(&key) && self.open.len() >= MAX_FLOWS {
            self.unfollowed_segments += 1;
            return;
        }
        let flow = self.open.entry(key).or_insert_with(|| Flow::new(&self.markers));
        let mut sequence = segment.sequence;
        if segment.flags & SYN != 0 {
            flow.begin(sequence);
            sequence = sequence.wrapping_add(1);
        }
        flow.add(sequence, segment.payload, &self.markers);
    }

    pub(super) fn finish(&mut self, statistics: Statistics) {
        self.drops = u64::from(statistics.drops);
        self.kernel_packets = u64::from(statistics.packets);
        self.flows = self.open.len() as u64;
        let mut named = Vec::new();
        let mut found = vec![false; self.markers.len()];
        for ((source, destination), flow) in &self.open {
            let reverse = (*destination, *source);
            let server = self
                .servers
                .get(&(*source, *destination))
                .or_else(|| self.servers.get(&reverse))
                .copied()
                .unwrap_or_else(|| source.port().min(destination.port()));
            *self.tcp_payload_bytes_by_port.entry(server).or_default() += flow.payload_bytes;
            self.tls_records += flow.tls_records;
            self.marker_bytes += flow.seam_marker_bytes;
            if source.port() != TUNNEL_PORT && destination.port() != TUNNEL_PORT {
                self.payload_bytes_outside_tunnel += flow.payload_bytes;
            }
            if !flow.is_tls() {
                self.payload_bytes_not_tls += flow.payload_bytes;
            }
            for (all, here) in found.iter_mut().zip(&flow.found) {
                *all |= here;
            }
            if flow.found.contains(&true) {
                named.push(format!("{source} > {destination}"));
            }
        }
        self.tcp_payload_bytes_by_port.retain(|_, bytes| *bytes > 0);
        named.sort();
        named.truncate(MAX_NAMED_FLOWS);
        self.marker_flows = named;
        self.marker_found = found.contains(&true) || self.marker_bytes > 0;
        self.markers_found = self
            .markers
            .iter()
            .zip(found)
            .filter(|(_, found)| *found)
            .map(|(marker, _)| String::from_utf8_lossy(marker).into_owned())
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::tcp_frame;
    use super::*;

    fn report(frames: &[Vec<u8>]) -> serde_json::Value {
        let mut report = Report::new("eth0", vec![b"needle".to_vec()]);
        for frame in frames {
            report.add(&Captured { seconds: 1, nanoseconds: 2, wire_bytes: frame.len() as u32, data: frame });
        }
        report.finish(Statistics { packets: frames.len() as u32, drops: 3 });
        serde_json::to_value(report).expect("a report is JSON")
    }

    #[test]
    fn tells_plain_from_tunnelled_traffic() {
        let seen = report(&[
            tcp_frame(50_000, 80, 9, SYN, b""),
            tcp_frame(80, 50_000, 99, SYN | ACK, b""),
            tcp_frame(50_000, 80, 10, ACK, b"a nee"),
            tcp_frame(50_000, 80, 15, ACK, b"dle"),
            tcp_frame(80, 50_000, 100, ACK | FIN, b"answer"),
            tcp_frame(50_001, 15_008, 1, SYN, b""),
            tcp_frame(50_001, 15_008, 2, ACK, &[23, 3, 3, 0, 2, 0, 0]),
            tcp_frame(50_001, 15_008, 9, RST, b""),
            vec![0; 30],
        ]);
        assert_eq!(seen["packets"], 9);
        assert_eq!(seen["drops"], 3);
        assert_eq!(seen["tcp_payload_bytes_by_port"], serde_json::json!({ "80": 14, "15008": 7 }));
        assert_eq!(seen["payload_bytes_outside_tunnel"], 14);
        assert_eq!(seen["payload_bytes_not_tls"], 14);
        assert_eq!(seen["tls_records"], 1);
        assert_eq!(
            (&seen["syn_count"], &seen["syn_ack_count"], &seen["rst_count"]),
            (&2.into(), &1.into(), &1.into())
        );
        assert_eq!(seen["marker_found"], true);
        assert_eq!((&seen["marker_bytes"], &seen["marker_frames"]), (&6.into(), &0.into()));
        assert_eq!(seen["marker_flows"], serde_json::json!(["10.0.0.1:50000 > 10.0.0.2:80"]));
    }

    #[test]
    fn finds_the_marker_in_what_is_no_tcp() {
        let mut fragment = tcp_frame(1, 2, 3, ACK, b"xx needle");
        fragment[20] = 0x20; // more fragments, and an offset
        fragment[21] = 3;
        let seen = report(&[fragment, b"no packet at all, but needle and needle".to_vec()]);
        assert_eq!((&seen["marker_bytes"], &seen["marker_frames"]), (&18.into(), &2.into()));
        assert_eq!((&seen["marker_found"], &seen["flows"]), (&true.into(), &0.into()));
    }

    #[test]
    fn finds_nothing_where_nothing_is() {
        let seen = report(&[tcp_frame(1, 2, 3, ACK, b"need"), tcp_frame(1, 3, 7, ACK, b"le")]);
        assert_eq!(seen["marker_found"], false);
        assert_eq!(report(&[])["packets"], 0);
    }
}
