//! The writing side: runs in init, allocates nothing after it was opened, and never blocks the agent.

use super::{CHUNK, FRAME, HEADER, MAGIC, SEGMENTS, Stream, frame_header, read_header};
use crate::status;
use rustix::fs::ftruncate;
use rustix::io::pwrite;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub struct Writer {
    segments: [OwnedFd; SEGMENTS],
    status: OwnedFd,
    segment_bytes: u64,
    current: usize,
    start: u64,
    log: status::Log,
    rate: Rate,
    dropped_since: u64,
    frame: Vec<u8>,
}

/// A token bucket over two seconds' worth of bytes.
struct Rate {
    per_s: u64,
    tokens: u64,
    at_ms: u64,
}

impl Rate {
    fn take(&mut self, bytes: u64, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(self.per_s) / 1000;
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained).min(self.per_s.saturating_mul(2).max(CHUNK as u64));
            self.at_ms = now_ms;
        }
        if self.tokens < bytes {
            return false;
        }
        self.tokens -= bytes;
        true
    }
}

impl Writer {
    /// Goes on where the run before ended. `max_bytes` is split among the segments.
    pub fn open(segments: [OwnedFd; SEGMENTS], status: OwnedFd, max_bytes: u64, per_s: u64) -> io::Result<Writer> {
        let segment_bytes = (max_bytes / SEGMENTS as u64).max((CHUNK + FRAME) as u64 + HEADER);
        let log = status::Log::read(&status)?;
        let newest = (0..SEGMENTS).filter_map(|i| Some((read_header(&segments[i])?, i))).max();
        let mut writer = Writer {
            segments,
            status,
            segment_bytes,
            current: 0,
            start: 0,
            log,
            rate: Rate { per_s, tokens: per_s.saturating_mul(2).max(CHUNK as u64), at_ms: crate::clock::boottime_ms() },
            dropped_since: 0,
            frame: Vec::with_capacity(FRAME + CHUNK),
        };
        match newest {
            Some((start, index)) => {
                writer.current = index;
                writer.start = start;
                let length = rustix::fs::fstat(&writer.segments[index])?.st_size as u64;
                // After a power cut the two files may disagree: then what the segment holds beyond is given up.
                if log.end < start || log.end - start + HEADER > length {
                    writer.log.end = start + length;
                    writer.rotate()?;
                }
            }
            None => writer.begin(0, log.end)?,
        }
        Ok(writer)
    }

    fn begin(&mut self, index: usize, start: u64) -> io::Result<()> {
        let fd = &self.segments[index];
        ftruncate(fd, 0)?;
        let mut raw = [0u8; HEADER as usize];
        raw[..8].copy_from_slice(&MAGIC.to_le_bytes());
        raw[8..].copy_from_slice(&start.to_le_bytes());
        pwrite(fd, &raw, 0)?;
        self.current = index;
        self.start = start;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.begin((self.current + 1) % SEGMENTS, self.log.end)
    }

    /// One chunk of output, at most CHUNK bytes. Beyond the rate it is dropped and counted; a note says so later.
    pub fn write(&mut self, stream: Stream, data: &[u8]) {
        self.log.written += data.len() as u64;
        let now = crate::clock::boottime_ms();
        if !self.rate.take(data.len() as u64, now) {
            self.dropped_since += data.len() as u64;
            self.log.dropped += data.len() as u64;
            let _ = self.log.write(&self.status);
            return;
        }
        self.note_drops();
        self.append(stream, data);
    }

    /// Says how much was dropped, if anything was. Called at the end too.
    pub fn note_drops(&mut self) {
        if self.dropped_since > 0 {
            let note =
                format!("{} bytes dropped: written faster than {} bytes/s\n", self.dropped_since, self.rate.per_s);
            self.dropped_since = 0;
            self.append(Stream::Runtime, note.as_bytes());
        }
    }

    fn append(&mut self, stream: Stream, data: &[u8]) {
        let size = (FRAME + data.len()) as u64;
        if self.log.end - self.start + HEADER + size > self.segment_bytes && self.rotate().is_err() {
            return;
        }
        self.frame.clear();
        self.frame.extend_from_slice(&frame_header(data.len(), stream, crate::clock::unix_ms() as u64));
        self.frame.extend_from_slice(data);
        let at = self.log.end - self.start + HEADER;
        // A full disk loses output, never the agent: the frame counts as dropped.
        match pwrite(self.segments[self.current].as_fd(), &self.frame, at) {
            Ok(n) if n as u64 == size => self.log.end += size,
            _ => {
                self.dropped_since += data.len() as u64;
                self.log.dropped += data.len() as u64;
            }
        }
        let _ = self.log.write(&self.status);
    }
}
