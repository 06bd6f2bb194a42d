//! A minimal HTTP/1.1 exchange: its own cost must not be what is measured. Answers need a Content-Length.

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::failure::{Failure, Kind};

const MAX_HEAD_BYTES: usize = 64 << 10;

/// Sends the request and reads the whole answer; its body's length. Another status than 2xx is `Wrong`.
pub(super) async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut BytesMut,
) -> Result<u64, Failure> {
    use tokio::io::AsyncWriteExt;
    stream.write_all(request).await?;
    buffer.clear();
    let (head_bytes, body_bytes) = loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(Failure::new(Kind::Closed, "closed before the answer"));
        }
        if let Some(found) = head(buffer)? {
            break found;
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err(Failure::new(Kind::Wrong, "the answer's head has no end"));
        }
    };
    let mut left = (head_bytes as u64 + body_bytes).saturating_sub(buffer.len() as u64);
    while left > 0 {
        buffer.clear();
        let count = stream.read_buf(buffer).await? as u64;
        if count == 0 {
            return Err(Failure::new(Kind::Closed, format!("closed {left} bytes before the answer's end")));
        }
        left = left.saturating_sub(count);
    }
    Ok(body_bytes)
}

/// Length of the head and of the body, once the head is there.
fn head(data: &[u8]) -> Result<Option<(usize, u64)>, Failure> {
    let Some(end) = data.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let wrong = |what: &str| Failure::new(Kind::Wrong, what);
    let text = std::str::from_utf8(&data[..end]).map_err(|_| wrong("the answer's head is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("");
    if !status.starts_with('2') {
        return Err(Failure::new(Kind::Wrong, format!("answered {status}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    match length {
        Some(length) => Ok(Some((end + 4, length))),
        None => Err(wrong("the answer has no content-length")),
    }
}

#[cfg(test)]
mod tests {
    use super::head;

    #[test]
    fn finds_the_length_whatever_its_case() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\nbody";
        assert_eq!(head(answer).expect("valid"), Some((answer.len() - 4, 12)));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\ncontent-length: 1").expect("unfinished"), None);
        assert!(head(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
