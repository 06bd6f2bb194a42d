//! `capture`: an interface's packets to a pcap file, and a report on what is readable in them.
//!
//! The proof that nothing is readable on the wire is worth something only when nothing was missed: the
//! report tells packets and drops, and reassembles each flow, so that a marker is found across segments.

mod flow;
mod packet;
mod pcap;
mod report;
mod ring;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use self::pcap::PcapFile;
use self::report::Report;
use self::ring::Ring;

/// How long a packet may stay in a block that is not full.
const RETIRE_MS: u32 = 20;

#[derive(Debug, Args)]
pub(crate) struct Capture {
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Where to write the packets (pcap); they are only looked at when absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What must not be readable: text, or bytes as `hex:0a0b`. May be repeated.
    #[arg(long, value_name = "TEXT|hex:BYTES")]
    marker: Vec<String>,
    /// Ends by itself; otherwise at SIGTERM or SIGINT.
    #[arg(long)]
    duration_ms: Option<u64>,
    #[arg(long, default_value_t = 64)]
    buffer_mib: u32,
}

pub(crate) async fn run(options: Capture) -> anyhow::Result<()> {
    let markers =
        options.marker.iter().map(|marker| parse_marker(marker)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut termination = crate::signal::Termination::watch()?;
    let mut ring = Ring::open(&options.interface, options.buffer_mib, RETIRE_MS)
        .with_context(|| format!("capture on {}", options.interface))?;
    let mut file = options.out.as_deref().map(PcapFile::create).transpose().context("write the pcap file")?;
    let mut report = Report::new(&options.interface, markers);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reading = tokio::task::spawn_blocking(move || -> anyhow::Result<Report> {
        let mut quiet_rounds = 0;
        // After the end of time, what is still in a block comes within its retire time.
        while quiet_rounds < 3 {
            let seen = ring.next_block(Duration::from_millis(u64::from(RETIRE_MS) * 2), |packet| {
                if let Some(file) = &mut file {
                    file.write(&packet)?;
                }
                report.add(&packet);
                Ok(())
            })?;
            quiet_rounds = if seen || !stopped.load(Ordering::Relaxed) { 0 } else { quiet_rounds + 1 };
        }
        if let Some(file) = file {
            file.finish()?;
        }
        report.finish(ring.statistics()?);
        Ok(report)
    });
    crate::output::line(&serde_json::json!({ "ready": true, "interface": options.interface }));
    termination.wait_or_after(options.duration_ms.map(Duration::from_millis)).await;
    stop.store(true, Ordering::Relaxed);
    crate::output::line(&reading.await??);
    Ok(())
}

fn parse_marker(text: &str) -> anyhow::Result<Vec<u8>> {
    let bytes = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let digits: Vec<u32> = digits
                .chars()
                .map(|digit| digit.to_digit(16))
                .collect::<Option<_>>()
                .with_context(|| format!("--marker {text}: not hexadecimal"))?;
            anyhow::ensure!(digits.len().is_multiple_of(2), "--marker {text}: half a byte is left over");
            digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
        }
    };
    anyhow::ensure!(bytes.len() >= 4, "--marker {text}: at least 4 bytes, or chance will find it");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_marker;

    #[test]
    fn markers_are_text_or_hex() {
        assert_eq!(parse_marker("needle").expect("text"), b"needle");
        assert_eq!(parse_marker("hex:00ff10A0").expect("hex"), [0, 255, 16, 160]);
        for wrong in ["hex:0", "hex:zz", "hex:0ff0f", "abc", ""] {
            assert!(parse_marker(wrong).is_err(), "{wrong}");
        }
    }
}
