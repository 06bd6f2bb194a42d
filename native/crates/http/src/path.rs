//! The path of a request as routes and policies see it, and as the backend is sent it: one reading for all,
//! so that nothing is allowed under one name and served under another.
//!
//! Always: encoded unreserved characters are decoded and other encodings written in capitals (RFC 3986,
//! 6.2.2), a backslash is a slash, dot segments are resolved. By [`PathSettings`]: repeated slashes are one,
//! and what becomes of encoded slashes. Doing it twice changes nothing.

use std::borrow::Cow;

/// What becomes of `%2F` and `%5C`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left alone, except that a path in which they would delimit a dot segment is refused: some backend
    /// will decode it.
    #[default]
    Keep,
    Refuse,
    /// As if they had been sent as slashes.
    Decode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathSettings {
    pub escaped_slashes: EscapedSlashes,
    pub keep_repeated_slashes: bool,
}

/// Why a path has no single reading. Answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not begin with a slash")]
    Relative,
    #[error("the path has a percent sign that begins no encoded octet")]
    Encoding,
    #[error("the path has an encoded control character")]
    Control,
    #[error("the path has an encoded slash")]
    EscapedSlash,
    #[error("the path's dot segments leave the root")]
    AboveRoot,
}

/// Normalises the path of an origin-form target (without query). Borrowed where nothing was to be done.
pub fn normalise(path: &str, settings: PathSettings) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with(['/', '\\']) {
        return Err(PathError::Relative);
    }
    if is_plain(path.as_bytes(), settings) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes(), settings)?;
    let resolved = resolve(&decoded, settings)?;
    // Only ASCII was put in, and only where ASCII was taken out.
    Ok(Cow::Owned(String::from_utf8_lossy(&resolved).into_owned()))
}

/// True where a single look shows that nothing is to be done.
fn is_plain(path: &[u8], settings: PathSettings) -> bool {
    let mut before = 0;
    for byte in path {
        match byte {
            b'%' | b'\\' => return false,
            // Any segment that begins with a dot may be a dot segment.
            b'.' if before == b'/' => return false,
            b'/' if before == b'/' && !settings.keep_repeated_slashes => return false,
            _ => {}
        }
        before = *byte;
    }
    true
}

fn decode(path: &[u8], settings: PathSettings) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'\\' => out.push(b'/'),
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(PathError::Encoding) };
                let byte = hex(*high)? << 4 | hex(*low)?;
                rest = after;
                match byte {
                    0..=0x1f | 0x7f => return Err(PathError::Control),
                    b'/' | b'\\' if settings.escaped_slashes == EscapedSlashes::Refuse => {
                        return Err(PathError::EscapedSlash);
                    }
                    b'/' | b'\\' if settings.escaped_slashes == EscapedSlashes::Decode => out.push(b'/'),
                    _ if is_unreserved(byte) => out.push(byte),
                    _ => out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
                }
            }
            _ => out.push(*first),
        }
    }
    Ok(out)
}

fn resolve(path: &[u8], settings: PathSettings) -> Result<Vec<u8>, PathError> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." => {
                if last {
                    out.push(b'/');
                }
            }
            b".." => {
                let Some(slash) = out.iter().rposition(|byte| *byte == b'/') else {
                    return Err(PathError::AboveRoot);
                };
                out.truncate(slash);
                if last {
                    out.push(b'/');
                }
            }
            b"" if !last && !settings.keep_repeated_slashes => {}
            b"" if last && out.last() == Some(&b'/') && !settings.keep_repeated_slashes => {}
            _ if hides_dot_segment(segment) => return Err(PathError::EscapedSlash),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

/// A segment such as `..%2Fadmin`, that is another path to whoever decodes it.
fn hides_dot_segment(segment: &[u8]) -> bool {
    if !segment.contains(&b'%') {
        return false;
    }
    let mut rest = segment;
    let mut escaped = false;
    loop {
        let at = rest.windows(3).position(|triple| matches!(triple, b"%2F" | b"%5C"));
        escaped |= at.is_some();
        let piece = &rest[..at.unwrap_or(rest.len())];
        if escaped && matches!(piece, b"." | b"..") {
            return true;
        }
        match at {
            Some(at) => rest = &rest[at + 3..],
            None => return false,
        }
    }
}

fn hex(digit: u8) -> Result<u8, PathError> {
    (digit as char).to_digit(16).map(|value| value as u8).ok_or(PathError::Encoding)
}

/// RFC 3986, 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    fn normal(path: &str) -> Result<String, PathError> {
        normalise(path, PathSettings::default()).map(Cow::into_owned)
    }

    #[test]
    fn one_reading() {
        for (path, want) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a\\..\\b", "/b"),
            ("\\a", "/a"),
            ("/%61%7e", "/a~"),
            ("/%e2%82%ac", "/%E2%82%AC"),
            ("/a%2fb", "/a%2Fb"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/%25%32%65", "/%252e"),
        ] {
            assert_eq!(normal(path), Ok(want.to_owned()), "{path}");
        }
    }

    #[test]
    fn no_reading() {
        for (path, want) in [
            ("a", PathError::Relative),
            ("*", PathError::Relative),
            ("", PathError::Relative),
            ("/%", PathError::Encoding),
            ("/%2", PathError::Encoding),
            ("/%zz", PathError::Encoding),
            ("/%%32%65", PathError::Encoding),
            ("/%00", PathError::Control),
            ("/a%0d%0a", PathError::Control),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/public/..%2fadmin", PathError::EscapedSlash),
            ("/public%2f..%2fadmin", PathError::EscapedSlash),
            ("/public%5c%2e%2e", PathError::EscapedSlash),
        ] {
            assert_eq!(normal(path), Err(want), "{path}");
        }
    }

    #[test]
    fn escaped_slashes_as_told() {
        let with = |escaped_slashes| PathSettings { escaped_slashes, keep_repeated_slashes: false };
        assert_eq!(normalise("/a%2Fb", with(EscapedSlashes::Decode)).unwrap(), "/a/b");
        assert_eq!(normalise("/a%2F..%2Fb", with(EscapedSlashes::Decode)).unwrap(), "/b");
        assert_eq!(normalise("/a%2Fb", with(EscapedSlashes::Refuse)), Err(PathError::EscapedSlash));
        let keep = PathSettings { keep_repeated_slashes: true, ..PathSettings::default() };
        assert_eq!(normalise("//a//b/", keep).unwrap(), "//a//b/");
    }

    /// Whatever comes out is stable, and holds no dot segment that decoding once more would bring about.
    #[test]
    fn the_result_is_stable() {
        let mut random = rand::rngs::StdRng::seed_from_u64(6);
        let pieces = [
            "/", "a", ".", "..", "%2e", "%2F", "%5c", "\\", "%", "%25", "%41", "b", "//", "%00", "~", "2",
            "e",
        ];
        let (mut good, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let settings = PathSettings {
                escaped_slashes: [EscapedSlashes::Keep, EscapedSlashes::Refuse, EscapedSlashes::Decode]
                    [random.random_range(0..3)],
                keep_repeated_slashes: random.random(),
            };
            let text: String = (0..random.random_range(1..9))
                .map(|_| pieces[random.random_range(0..pieces.len())])
                .collect();
            let path = format!("/{text}");
            let Ok(once) = normalise(&path, settings) else {
                refused += 1;
                continue;
            };
            good += 1;
            assert_eq!(normalise(&once, settings).as_deref(), Ok(&*once), "{path}");
            assert!(
                !once.split(['/', '\\']).any(|segment| matches!(segment, "." | "..")),
                "{path} -> {once}"
            );
            let decoded = once.replace("%2F", "/").replace("%5C", "/");
            assert!(!decoded.split('/').any(|segment| matches!(segment, "." | "..")), "{path} -> {once}");
        }
        assert!(good > 20_000 && refused > 20_000, "{good} good, {refused} refused");
    }
}
