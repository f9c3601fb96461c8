//! An agent's kept output: four segments, written by its init, read by the daemon, each without asking the other.
//!
//! A segment is a header (magic, position of its first byte) and frames (length, stream, time, bytes). Positions grow for
//! ever; the segment after the newest is emptied and reused when the newest is full, so what is kept is bounded by
//! construction and no directory is ever touched: init holds four descriptors and nothing else.
//! A reader checks a segment's header again after it read from it: reuse beneath its feet is seen, not misread.

pub mod follow;
pub mod reader;
pub mod writer;

pub const SEGMENTS: usize = 4;
pub const MAGIC: u64 = u64::from_le_bytes(*b"GPVELOG1");
pub const HEADER: u64 = 16;
pub const FRAME: usize = 16;
/// The most bytes of one frame: what init reads from a pipe at once.
pub const CHUNK: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    Stdout = 1,
    Stderr = 2,
    /// A note of the runtime itself.
    Runtime = 3,
}

pub fn segment_name(index: usize) -> String {
    format!("log.{index}")
}

pub(crate) fn frame_header(len: usize, stream: Stream, unix_ms: u64) -> [u8; FRAME] {
    let mut raw = [0u8; FRAME];
    raw[..4].copy_from_slice(&(len as u32).to_le_bytes());
    raw[4] = stream as u8;
    raw[8..].copy_from_slice(&unix_ms.to_le_bytes());
    raw
}

pub(crate) fn parse_frame_header(raw: &[u8]) -> Option<(usize, Stream, u64)> {
    let len = u32::from_le_bytes(raw.get(..4)?.try_into().ok()?) as usize;
    let stream = match raw.get(4)? {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::Runtime,
        _ => return None,
    };
    let at = u64::from_le_bytes(raw.get(8..FRAME)?.try_into().ok()?);
    (len <= CHUNK).then_some((len, stream, at))
}

/// Position of a segment's first byte, if it was ever used.
pub(crate) fn read_header(fd: impl std::os::fd::AsFd) -> Option<u64> {
    let mut raw = [0u8; HEADER as usize];
    match rustix::io::pread(fd, &mut raw[..], 0) {
        Ok(n) if n == raw.len() && raw[..8] == MAGIC.to_le_bytes() => {
            Some(u64::from_le_bytes(raw[8..].try_into().expect("eight bytes")))
        }
        _ => None,
    }
}
