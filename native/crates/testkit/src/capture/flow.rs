//! One direction of a TCP connection, put into order as far as needed to find a marker across segments
//! and to walk the TLS records.

use std::collections::BTreeMap;

/// Bytes that wait for a gap to be filled, at most; then the gap is skipped.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// What the beginning of the flow says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Unknown,
    /// Inside a record (that many bytes are left), or inside a record's five-byte head.
    Record {
        left: usize,
        head: [u8; 5],
        head_bytes: usize,
    },
    No,
}

#[derive(Debug)]
pub(super) struct Flow {
    next: Option<u32>,
    waiting: BTreeMap<u32, Vec<u8>>,
    waiting_bytes: usize,
    /// The end of what came in order, long enough to hold all of a marker but its last byte.
    tail: Vec<u8>,
    tail_limit: usize,
    tls: Tls,
    pub(super) tls_records: u64,
    pub(super) payload_bytes: u64,
    pub(super) found: Vec<bool>,
    /// Bytes of markers that lie across the seam of two segments: no frame has them whole.
    pub(super) seam_marker_bytes: u64,
}

impl Flow {
    pub(super) fn new(markers: &[Vec<u8>]) -> Self {
        Self {
            next: None,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            tail: Vec::new(),
            tail_limit: markers.iter().map(Vec::len).max().unwrap_or(1) - 1,
            tls: Tls::Unknown,
            tls_records: 0,
            payload_bytes: 0,
            found: vec![false; markers.len()],
            seam_marker_bytes: 0,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.tls, Tls::Record { .. })
    }

    /// A SYN: the stream begins after it.
    pub(super) fn begin(&mut self, sequence: u32) {
        let found = std::mem::take(&mut self.found);
        let (tls_records, payload_bytes) = (self.tls_records, self.payload_bytes);
        let seam_marker_bytes = self.seam_marker_bytes;
        *self = Self {
            next: Some(sequence.wrapping_add(1)),
            found,
            tls_records,
            payload_bytes,
            seam_marker_bytes,
            ..Self::empty(self.tail_limit)
        };
    }

    fn empty(tail_limit: usize) -> Self {
        Self { tail_limit, ..Self::new(&[]) }
    }

    /// A segment's payload. `markers` are those that `new` was given.
    pub(super) fn add(&mut self, sequence: u32, payload: &[u8], markers: &[Vec<u8>]) {
        if payload.is_empty() {
            return;
        }
        // In itself, whatever becomes of the order.
        search(payload, markers, &mut self.found);
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next) as i32;
        if ahead > 0 {
            self.waiting_bytes += payload.len();
            if let Some(former) = self.waiting.insert(sequence, payload.to_vec()) {
                self.waiting_bytes -= former.len();
            }
            if self.waiting_bytes > MAX_WAITING_BYTES {
                self.skip_gap(markers);
            }
            return;
        }
        // What was seen before is a retransmission.
        let seen = usize::try_from(-i64::from(ahead)).unwrap_or(usize::MAX);
        let Some(fresh) = payload.get(seen..) else { return };
        self.in_order(fresh, markers);
        self.take_waiting(markers);
    }

    fn take_waiting(&mut self, markers: &[Vec<u8>]) {
        while let Some(next) = self.next {
            let ready = self.waiting.keys().copied().find(|start| next.wrapping_sub(*start) as i32 >= 0);
            let Some(start) = ready else { return };
            let Some(payload) = self.waiting.remove(&start) else { return };
            self.waiting_bytes -= payload.len();
            let seen = next.wrapping_sub(start) as usize;
            if let Some(fresh) = payload.get(seen..) {
                self.in_order(fresh, markers);
            }
        }
    }

    /// The missing bytes will not come: goes on after them, not knowing where a record begins.
    fn skip_gap(&mut self, markers: &[Vec<u8>]) {
        let Some(next) = self.next else { return };
        let Some(first) = self.waiting.keys().copied().min_by_key(|start| start.wrapping_sub(next)) else {
            return;
        };
        self.next = Some(first);
        self.tail.clear();
        self.tls = Tls::Unknown;
        self.take_waiting(markers);
    }

    fn in_order(&mut self, fresh: &[u8], markers: &[Vec<u8>]) {
        if fresh.is_empty() {
            return;
        }
        self.next = self.next.map(|next| next.wrapping_add(fresh.len() as u32));
        self.payload_bytes += fresh.len() as u64;
        // Across the seam: the tail, and as much of the new part as a marker may reach into it.
        let reach = fresh.len().min(self.tail_limit);
        let seam = self.tail.len();
        self.tail.extend_from_slice(&fresh[..reach]);
        search(&self.tail, markers, &mut self.found);
        self.seam_marker_bytes += markers.iter().map(|marker| across(&self.tail, seam, marker)).sum::<u64>();
        if fresh.len() > reach {
            self.tail.clear();
            self.tail.extend_from_slice(&fresh[fresh.len() - reach..]);
        }
        let excess = self.tail.len().saturating_sub(self.tail_limit);
        self.tail.drain(..excess);
        self.walk_records(fresh);
    }

    fn walk_records(&mut self, mut data: &[u8]) {
        if self.tls == Tls::Unknown {
            self.tls = Tls::Record { left: 0, head: [0; 5], head_bytes: 0 };
        }
        while let Tls::Record { left, head, head_bytes } = &mut self.tls {
            if *left > 0 {
                let step = data.len().min(*left);
                *left -= step;
                data = &data[step..];
            }
            if data.is_empty() {
                return;
            }
            let step = data.len().min(5 - *head_bytes);
            head[*head_bytes..*head_bytes + step].copy_from_slice(&data[..step]);
            *head_bytes += step;
            data = &data[step..];
            // RFC 8446, 5.1: type 20 to 24, version 3.x, at most 2^14 + 256 bytes.
            let plausible = (20..=24).contains(&head[0]) && (*head_bytes < 2 || head[1] == 3);
            if !plausible {
                self.tls = Tls::No;
                return;
            }
            if *head_bytes == 5 {
                let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
                if length > (1 << 14) + 256 || head[2] > 4 {
                    self.tls = Tls::No;
                    return;
                }
                self.tls_records += 1;
                *left = length;
                *head_bytes = 0;
            }
        }
    }
}

fn search(data: &[u8], markers: &[Vec<u8>], found: &mut [bool]) {
    for (marker, found) in markers.iter().zip(found) {
        if !*found && contains(data, marker) {
            *found = true;
        }
    }
}

fn contains(data: &[u8], marker: &[u8]) -> bool {
    find(data, marker).is_some()
}

fn find(data: &[u8], marker: &[u8]) -> Option<usize> {
    let (first, rest) = marker.split_first()?;
    let mut from = 0;
    while let Some(at) = data.get(from..).and_then(|rest| rest.iter().position(|byte| byte == first)) {
        let after = from + at + 1;
        if data.get(after..after + rest.len())? == rest {
            return Some(from + at);
        }
        from = after;
    }
    None
}

/// Bytes of a marker in some data, each occurrence counted.
pub(super) fn marker_bytes(data: &[u8], marker: &[u8]) -> u64 {
    let (mut from, mut count) = (0, 0);
    while let Some(at) = data.get(from..).and_then(|rest| find(rest, marker)) {
        count += 1;
        from += at + marker.len();
    }
    count * marker.len() as u64
}

/// The same, of those occurrences only that begin before the seam and end after it.
fn across(data: &[u8], seam: usize, marker: &[u8]) -> u64 {
    let from = seam.saturating_sub(marker.len() - 1);
    let to = data.len().min(seam + marker.len() - 1);
    if seam == 0 { 0 } else { marker_bytes(&data[from..to], marker) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers() -> Vec<Vec<u8>> {
        vec![b"needle-0123".to_vec(), b"other".to_vec()]
    }

    /// Feeds `(offset, bytes)` parts of a stream whose numbers wrap around.
    fn fed(parts: &[(usize, &[u8])]) -> Flow {
        let markers = markers();
        let mut flow = Flow::new(&markers);
        let start = u32::MAX - 5;
        flow.begin(start.wrapping_sub(1));
        for (offset, bytes) in parts {
            flow.add(start.wrapping_add(*offset as u32), bytes, &markers);
        }
        flow
    }

    #[test]
    fn finds_a_marker_across_every_cut() {
        let stream = b"xxxxneedle-0123yyyy";
        for cut in 1..stream.len() {
            for second in cut..stream.len() {
                let flow =
                    fed(&[(0, &stream[..cut]), (cut, &stream[cut..second]), (second, &stream[second..])]);
                assert_eq!(flow.found, [true, false], "{cut} {second}");
                assert_eq!(flow.payload_bytes, stream.len() as u64);
                let parts = [&stream[..cut], &stream[cut..second], &stream[second..]];
                let whole: u64 = parts.iter().map(|part| marker_bytes(part, b"needle-0123")).sum();
                assert_eq!(whole + flow.seam_marker_bytes, 11, "counted once: {cut} {second}");
            }
        }
    }

    #[test]
    fn finds_it_byte_by_byte_and_out_of_order() {
        let stream = b"abneedle-0123";
        let bytes: Vec<(usize, &[u8])> =
            stream.iter().enumerate().map(|(at, byte)| (at, std::slice::from_ref(byte))).collect();
        assert!(fed(&bytes).found[0]);
        let backwards: Vec<_> = bytes.iter().rev().copied().collect();
        let flow = fed(&backwards);
        assert!(flow.found[0]);
        assert_eq!(flow.payload_bytes, 13);
    }

    #[test]
    fn does_not_join_what_does_not_follow() {
        let flow = fed(&[(0, b"needle"), (100, b"-0123")]);
        assert_eq!(flow.found, [false, false]);
    }

    #[test]
    fn counts_a_retransmission_once() {
        let flow = fed(&[(0, b"0123456789"), (0, b"0123456789"), (5, b"56789abc"), (2, b"234")]);
        assert_eq!(flow.payload_bytes, 13);
    }

    #[test]
    fn goes_on_after_a_gap_that_is_never_filled() {
        let block = vec![b'z'; 1 << 20];
        let mut parts: Vec<(usize, &[u8])> =
            (0..5).map(|index| (10 + index * block.len(), &block[..])).collect();
        parts.push((10 + 5 * block.len(), b"needle-"));
        parts.push((17 + 5 * block.len(), b"0123"));
        assert!(fed(&parts).found[0]);
    }

    #[test]
    fn walks_tls_records_across_cuts() {
        let mut stream = Vec::new();
        for (kind, length) in [(22_u8, 300_usize), (20, 1), (23, 16_000), (23, 5)] {
            stream.extend([kind, 3, 3]);
            stream.extend((length as u16).to_be_bytes());
            stream.extend(vec![0xee; length]);
        }
        for step in [1, 3, 7, 1448, stream.len()] {
            let parts: Vec<(usize, &[u8])> =
                stream.chunks(step).enumerate().map(|(index, part)| (index * step, part)).collect();
            let flow = fed(&parts);
            assert_eq!((flow.tls_records, flow.is_tls()), (4, true), "{step}");
        }
    }

    #[test]
    fn is_not_fooled_into_calling_text_tls() {
        let flow = fed(&[(0, b"GET / HTTP/1.1\r\n\r\n")]);
        assert_eq!((flow.tls_records, flow.is_tls()), (0, false));
        let flow = fed(&[(0, &[22, 3, 3, 0, 2, 1, 1]), (7, b"plain now")]);
        assert_eq!((flow.tls_records, flow.is_tls()), (1, false));
    }
}
