//! JSON lines on standard output.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Prints one object on a line of its own, at once. A reader that has gone away ends the process.
pub(crate) fn line(value: &impl serde::Serialize) {
    let Ok(mut text) = serde_json::to_vec(value) else { return };
    text.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(&text).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Milliseconds since 1970, for comparing with other processes' records.
pub(crate) fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
