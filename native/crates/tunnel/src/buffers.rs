//! Buffers that exist only while bytes pass: an idle connection holds none.
//!
//! A buffer is taken when its socket has something to read, travels as [`Bytes`] to whoever writes it,
//! and comes back to the pool when the last reference drops. Small reads are copied out, so that a few
//! bytes that wait do not keep a large buffer.
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;

/// Reads below this size are copied into memory of their own.
const COPY_BELOW: usize = 4 << 10;

/// Head of an HTTP/2 frame (RFC 9113, 4.1). A full read and its frame's head fill TLS records of 16 KiB
/// exactly: otherwise the last bytes of every frame would be a record, a packet and a wake-up of their own.
const FRAME_HEAD: usize = 9;

/// Buffer sizes, and how many spare ones of each are kept.
const CLASSES: [(usize, usize); 3] =
    [((16 << 10) - FRAME_HEAD, 32), ((64 << 10) - FRAME_HEAD, 16), (LARGEST_READ, 8)];

/// Most bytes that one read brings.
pub(crate) const LARGEST_READ: usize = (256 << 10) - FRAME_HEAD;

static SPARE: [Mutex<Spare>; 3] = [const { Mutex::new(Spare { buffers: Vec::new(), taken: 0 }) }; 3];

struct Spare {
    buffers: Vec<Box<[u8]>>,
    /// How often one was asked for.
    taken: u64,
}

/// How large the next read of a connection should be: grows while reads fill the buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReadSize(u8);

impl ReadSize {
    fn class(self) -> usize {
        usize::from(self.0)
    }

    fn after(self, read: usize) -> Self {
        let (size, _) = CLASSES[self.class()];
        if read == size {
            Self((self.0 + 1).min(CLASSES.len() as u8 - 1))
        } else if read < size / 8 {
            Self(self.0.saturating_sub(1))
        } else {
            self
        }
    }
}

/// What one read brought.
pub(crate) enum Read {
    Data(Bytes),
    End,
    WouldBlock,
}

/// Reads once into a pooled buffer, and learns the size for the next read.
pub(crate) fn read_once(
    size: &mut ReadSize,
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Read> {
    let mut buffer = Buffer::take(size.class());
    match read(&mut buffer.memory) {
        Ok(0) => Ok(Read::End),
        Ok(n) => {
            *size = size.after(n);
            if n < COPY_BELOW {
                return Ok(Read::Data(Bytes::copy_from_slice(&buffer.memory[..n])));
            }
            buffer.filled = n;
            Ok(Read::Data(Bytes::from_owner(buffer)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::WouldBlock),
        Err(error) => Err(error),
    }
}

/// Gives all spare buffers back to the system.
pub fn release_spare() {
    for class in &SPARE {
        class.lock().buffers = Vec::new();
    }
}

/// How often any connection was read from so far: what does not grow, or hardly, says that traffic has stopped.
pub fn reads() -> u64 {
    SPARE.iter().map(|class| class.lock().taken).sum()
}

struct Buffer {
    memory: Box<[u8]>,
    filled: usize,
    class: usize,
}

impl Buffer {
    fn take(class: usize) -> Self {
        let spare = {
            let mut spare = SPARE[class].lock();
            spare.taken += 1;
            spare.buffers.pop()
        };
        let memory = spare.unwrap_or_else(|| vec![0; CLASSES[class].0].into_boxed_slice());
        Self { memory, filled: 0, class }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut spare = SPARE[self.class].lock();
        if spare.buffers.len() < CLASSES[self.class].1 {
            spare.buffers.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_reads_grow_and_small_reads_shrink_the_next() {
        let start = ReadSize::default();
        let grown = start.after(CLASSES[0].0);
        assert_eq!(grown, ReadSize(1));
        assert_eq!(grown.after(CLASSES[1].0).after(CLASSES[2].0), ReadSize(2));
        assert_eq!(grown.after(9 << 10), grown);
        assert_eq!(grown.after(1), start);
        assert_eq!(start.after(1), start);
    }

    #[test]
    fn a_read_is_handed_over_as_it_was() {
        for length in [1, COPY_BELOW - 1, COPY_BELOW, CLASSES[0].0] {
            let mut size = ReadSize::default();
            let read = read_once(&mut size, |memory| {
                memory[..length].fill(7);
                Ok(length)
            });
            let Ok(Read::Data(bytes)) = read else { panic!("no data") };
            assert_eq!(&bytes[..], &vec![7; length][..]);
        }
    }
}
