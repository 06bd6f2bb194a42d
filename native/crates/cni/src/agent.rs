//! The node agent's socket: one HTTP/1.0 request (so that the answer ends with the connection), with a deadline for
//! all of it, to a process that is root's or our own user's.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use serde::Deserialize;
use socket2::{Domain, SockAddr, Socket, Type};

/// What the agent says of a pod, or of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done: whatever the pod asked for is in force.
    Done,
    /// The agent does not know the pod.
    Unknown,
    /// It cannot be done now.
    Later { reason: String },
    /// It will not be done.
    Refused { reason: String },
}

/// Why there is no answer, for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("no process serves {socket} ({error})")]
    Absent { socket: PathBuf, error: io::Error },
    #[error("{socket} is served by user {uid} (process {pid}), not by root: it is not the node agent")]
    Impostor { socket: PathBuf, uid: u32, pid: i32 },
    #[error("the node agent at {socket} has not answered within {waited_ms} ms")]
    TooLate { socket: PathBuf, waited_ms: u128 },
    #[error("the node agent at {socket} gave no proper answer ({problem})")]
    Broken { socket: PathBuf, problem: String },
}

#[derive(Deserialize, Default)]
struct Body {
    decision: Option<String>,
    error: Option<String>,
    hint: Option<String>,
}

const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Asks within `timeout`, and not longer.
pub(crate) fn ask(socket: &Path, path: &str, body: &str, timeout: Duration) -> Result<Answer, NoAnswer> {
    let call = Call { socket, began: Instant::now(), timeout };
    let stream = call.connect()?;
    let request = format!(
        "POST {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    call.send(&stream, request.as_bytes())?;
    let response = call.receive(&stream)?;
    parse(&response).map_err(|problem| NoAnswer::Broken { socket: socket.to_owned(), problem })
}

struct Call<'a> {
    socket: &'a Path,
    began: Instant,
    timeout: Duration,
}

impl Call<'_> {
    fn left(&self) -> Result<Duration, NoAnswer> {
        self.timeout
            .checked_sub(self.began.elapsed())
            .filter(|left| !left.is_zero())
            .ok_or_else(|| self.too_late())
    }

    fn too_late(&self) -> NoAnswer {
        NoAnswer::TooLate { socket: self.socket.to_owned(), waited_ms: self.began.elapsed().as_millis() }
    }

    fn failed(&self, error: &io::Error) -> NoAnswer {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.too_late(),
            _ => NoAnswer::Broken { socket: self.socket.to_owned(), problem: error.to_string() },
        }
    }

    /// Connecting, too, waits while the listener's queue is full: the kernel bounds it by the time for sending.
    fn connect(&self) -> Result<Socket, NoAnswer> {
        let absent = |error| NoAnswer::Absent { socket: self.socket.to_owned(), error };
        let stream = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(absent)?;
        let address = SockAddr::unix(self.socket).map_err(absent)?;
        stream.set_write_timeout(Some(self.left()?)).map_err(absent)?;
        stream.connect(&address).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.too_late(),
            _ => absent(error),
        })?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials).map_err(|error| absent(error.into()))?;
        if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
            return Err(NoAnswer::Impostor {
                socket: self.socket.to_owned(),
                uid: peer.uid(),
                pid: peer.pid(),
            });
        }
        Ok(stream)
    }

    fn send(&self, mut stream: &Socket, mut request: &[u8]) -> Result<(), NoAnswer> {
        while !request.is_empty() {
            stream.set_write_timeout(Some(self.left()?)).map_err(|error| self.failed(&error))?;
            match stream.write(request) {
                Ok(sent) => request = &request[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    fn receive(&self, mut stream: &Socket) -> Result<Vec<u8>, NoAnswer> {
        let mut response = Vec::new();
        let mut chunk = [0_u8; 4096];
        loop {
            stream.set_read_timeout(Some(self.left()?)).map_err(|error| self.failed(&error))?;
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(response),
                Ok(read) => response.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
            if response.len() as u64 > MAX_ANSWER_BYTES {
                let problem = format!("its answer is longer than {MAX_ANSWER_BYTES} bytes");
                return Err(NoAnswer::Broken { socket: self.socket.to_owned(), problem });
            }
        }
    }
}

fn parse(response: &[u8]) -> Result<Answer, String> {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n").ok_or("it ended before its head")?;
    let (head, body) = (String::from_utf8_lossy(&response[..end]), &response[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let mut words = status.split(' ');
    let (protocol, code) =
        (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse::<u16>().ok()));
    let (true, Some(code)) = (protocol.starts_with("HTTP/1."), code) else {
        return Err(format!("\"{}\" is no HTTP status", status.chars().take(80).collect::<String>()));
    };
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        return Err(format!("{} bytes of an answer of {}", body.len(), length.unwrap_or_default()));
    }
    let parsed = serde_json::from_slice::<Body>(body);
    match code {
        // Another agent of the same protocol answers without a body.
        200..=299 if body.is_empty() => Ok(Answer::Done),
        200..=299 => match parsed.map_err(|error| error.to_string())?.decision.as_deref() {
            None | Some("enrolled" | "out") => Ok(Answer::Done),
            Some("unknown") => Ok(Answer::Unknown),
            Some(other) => Err(format!("it decided \"{other}\"")),
        },
        // It knows no such request: as good as none.
        404 | 405 | 501 => Err(format!("it answered {code} to the request")),
        _ => {
            let body = parsed.unwrap_or_default();
            let error = body.error.unwrap_or_else(|| format!("it answered {code}"));
            let reason = body.hint.map_or(error.clone(), |hint| format!("{error}; {hint}"));
            Ok(if (400..=499).contains(&code) && code != 409 && code != 429 {
                Answer::Refused { reason }
            } else {
                Answer::Later { reason }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_answers_and_takes_none_that_is_cut_or_foreign() {
        let reads = |text: &str| parse(text.as_bytes());
        assert_eq!(reads("HTTP/1.1 200 OK\r\n\r\n"), Ok(Answer::Done));
        assert_eq!(reads("HTTP/1.1 200 OK\r\n\r\n{\"decision\":\"out\"}"), Ok(Answer::Done));
        assert_eq!(reads("HTTP/1.1 200 OK\r\n\r\n{\"decision\":\"unknown\"}"), Ok(Answer::Unknown));
        assert_eq!(
            reads("HTTP/1.1 503 x\r\ncontent-length: 27\r\n\r\n{\"error\":\"e\",\"hint\":\"do x\"}"),
            Ok(Answer::Later { reason: "e; do x".to_owned() })
        );
        assert_eq!(
            reads("HTTP/1.1 500 x\r\n\r\nnot json"),
            Ok(Answer::Later { reason: "it answered 500".to_owned() })
        );
        assert_eq!(
            reads("HTTP/1.1 400 x\r\n\r\n{}"),
            Ok(Answer::Refused { reason: "it answered 400".to_owned() })
        );
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{\"decision\":\"perhaps\"}",
            "HTTP/1.1 200 OK\r\n\r\nok",
            "HTTP/1.1 404 Not Found\r\n\r\n{}",
        ] {
            assert!(reads(bad).is_err(), "{bad}");
        }
    }
}
