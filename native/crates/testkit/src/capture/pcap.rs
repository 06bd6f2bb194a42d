//! The pcap file format (libpcap's classic form, nanoseconds, Ethernet).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::packet::Captured;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINK_ETHERNET: u32 = 1;
const SNAP_BYTES: u32 = 1 << 18;

#[derive(Debug)]
pub(super) struct PcapFile(BufWriter<File>);

impl PcapFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&MAGIC_NANOSECONDS.to_ne_bytes())?;
        file.write_all(&2_u16.to_ne_bytes())?;
        file.write_all(&4_u16.to_ne_bytes())?;
        for field in [0, 0, SNAP_BYTES, LINK_ETHERNET] {
            file.write_all(&field.to_ne_bytes())?;
        }
        // A reader that follows the file finds a valid one from the beginning.
        file.flush()?;
        Ok(Self(file))
    }

    pub(super) fn write(&mut self, packet: &Captured<'_>) -> io::Result<()> {
        let held = packet.data.len() as u32;
        for field in [packet.seconds, packet.nanoseconds, held, packet.wire_bytes] {
            self.0.write_all(&field.to_ne_bytes())?;
        }
        self.0.write_all(packet.data)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
