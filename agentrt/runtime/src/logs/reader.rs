//! The reading side: positions in, frames out; tolerates a writer that reuses segments meanwhile.

use super::{FRAME, HEADER, SEGMENTS, Stream, parse_frame_header, read_header, segment_name};
use crate::status;
use rustix::io::pread;
use std::fs::File;
use std::io;
use std::path::Path;

/// The most bytes that one read returns.
pub const BATCH: usize = 256 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub stream: Stream,
    pub unix_ms: i64,
    pub data: Vec<u8>,
    /// Position behind this frame.
    pub next: u64,
}

#[derive(Debug, Default)]
pub struct Batch {
    pub frames: Vec<Frame>,
    /// Position to go on from.
    pub next: u64,
    /// Bytes that were forgotten between the position asked for and the oldest kept.
    pub forgotten: u64,
}

pub struct Reader {
    segments: Vec<File>,
    status: File,
}

impl Reader {
    /// Opens the files in an agent's directory. An agent that never ran has none: that reads as empty.
    pub fn open(dir: &Path) -> io::Result<Option<Reader>> {
        let status = match File::open(dir.join("status")) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut segments = Vec::with_capacity(SEGMENTS);
        for i in 0..SEGMENTS {
            match File::open(dir.join(segment_name(i))) {
                Ok(file) => segments.push(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(Reader { segments, status }))
    }

    /// Position behind the last whole frame.
    pub fn end(&self) -> io::Result<u64> {
        Ok(status::Log::read(&self.status)?.end)
    }

    /// The position of the frame that begins at or before `bytes` before the end.
    pub fn tail(&self, bytes: u64) -> io::Result<u64> {
        let end = self.end()?;
        let wanted = end.saturating_sub(bytes);
        // Frames are found by walking from a segment's start.
        let mut at = self.starts().into_iter().map(|(s, _)| s).filter(|s| *s <= wanted).max().unwrap_or(0);
        loop {
            let batch = self.read(at)?;
            if batch.forgotten > 0 || batch.frames.is_empty() {
                return Ok(at.max(batch.next.min(end)));
            }
            for frame in &batch.frames {
                if frame.next > wanted {
                    return Ok(at);
                }
                at = frame.next;
            }
        }
    }

    /// Segments in use: (position of the first byte, index), oldest first.
    fn starts(&self) -> Vec<(u64, usize)> {
        let mut starts: Vec<_> = (0..SEGMENTS).filter_map(|i| Some((read_header(&self.segments[i])?, i))).collect();
        starts.sort_unstable();
        starts
    }

    /// Frames from position `from` on, at most about BATCH bytes. Empty when there is nothing yet.
    pub fn read(&self, from: u64) -> io::Result<Batch> {
        for _ in 0..16 {
            if let Some(batch) = self.try_read(from)? {
                return Ok(batch);
            }
        }
        // The writer rotates faster than we read: give up this stretch, the next call finds the oldest anew.
        let end = self.end()?;
        Ok(Batch { frames: Vec::new(), next: end, forgotten: end.saturating_sub(from) })
    }

    fn try_read(&self, from: u64) -> io::Result<Option<Batch>> {
        let end = self.end()?;
        let starts = self.starts();
        let Some(&(oldest, _)) = starts.first() else {
            return Ok(Some(Batch { next: from, ..Batch::default() }));
        };
        let forgotten = oldest.saturating_sub(from);
        let mut at = from.max(oldest);
        if at >= end {
            return Ok(Some(Batch { frames: Vec::new(), next: at, forgotten }));
        }
        let place = starts.iter().rposition(|(s, _)| *s <= at).expect("at is not before the oldest");
        let (start, index) = starts[place];
        let stop = starts.get(place + 1).map_or(end, |(s, _)| *s);
        let want = ((stop - at) as usize).min(BATCH + FRAME);
        let mut raw = vec![0u8; want];
        let n = pread(&self.segments[index], &mut raw[..], at - start + HEADER)?;
        if read_header(&self.segments[index]) != Some(start) {
            return Ok(None);
        }
        let mut frames = Vec::new();
        let mut rest = &raw[..n];
        while let Some((len, stream, unix_ms)) = parse_frame_header(rest) {
            let Some(data) = rest.get(FRAME..FRAME + len) else { break };
            at += (FRAME + len) as u64;
            frames.push(Frame { stream, unix_ms: unix_ms as i64, data: data.to_vec(), next: at });
            rest = &rest[FRAME + len..];
        }
        if frames.is_empty() {
            // Not a frame boundary (a position from elsewhere), or damage: go on with the next segment.
            return Ok(Some(Batch { frames, next: stop, forgotten: forgotten + (stop - at) }));
        }
        Ok(Some(Batch { frames, next: at, forgotten }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::Writer;
    use super::*;
    use std::os::fd::OwnedFd;

    fn dir(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("gpve-logs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("a directory");
        dir
    }

    fn open(dir: &Path) -> impl Fn(&str) -> OwnedFd + use<> {
        let dir = dir.to_owned();
        move |name| {
            OwnedFd::from(
                File::options()
                    .create(true)
                    .truncate(false)
                    .read(true)
                    .write(true)
                    .open(dir.join(name))
                    .expect("a file"),
            )
        }
    }

    fn writer(dir: &Path, max: u64, per_s: u64) -> Writer {
        let open = open(dir);
        let segments = std::array::from_fn(|i| open(&segment_name(i)));
        Writer::open(segments, open("status"), max, per_s).expect("a writer")
    }

    fn all(reader: &Reader, mut at: u64) -> (Vec<u8>, u64, u64) {
        let (mut data, mut forgotten) = (Vec::new(), 0);
        loop {
            let batch = reader.read(at).expect("read");
            forgotten += batch.forgotten;
            if batch.frames.is_empty() && batch.next == at {
                return (data, at, forgotten);
            }
            at = batch.next;
            for frame in batch.frames {
                data.extend(frame.data);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_a_second_writer_goes_on() {
        let dir = dir("plain");
        let mut w = writer(&dir, 1 << 20, u64::MAX / 8);
        w.write(Stream::Stdout, b"one ");
        w.write(Stream::Stderr, b"two ");
        drop(w);
        let reader = Reader::open(&dir).expect("opened").expect("there");
        let (data, at, _) = all(&reader, 0);
        assert_eq!(data, b"one two ");
        writer(&dir, 1 << 20, u64::MAX / 8).write(Stream::Stdout, b"three");
        assert_eq!(all(&reader, at).0, b"three");
        assert_eq!(all(&reader, 0).0, b"one two three");
        assert_eq!(reader.read(reader.tail(5).expect("tail")).expect("read").frames[0].data, b"three");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_survives() {
        let dir = dir("bounded");
        let mut w = writer(&dir, 400_000, u64::MAX / 8);
        for i in 0..100_000u32 {
            w.write(Stream::Stdout, format!("line {i:08}\n").as_bytes());
        }
        let total: u64 =
            (0..SEGMENTS).map(|i| std::fs::metadata(dir.join(segment_name(i))).expect("there").len()).sum();
        assert!(total <= 400_000, "{total}");
        let reader = Reader::open(&dir).expect("opened").expect("there");
        let (data, _, forgotten) = all(&reader, 0);
        assert!(data.ends_with(b"line 00099999\n"));
        assert!(forgotten > 0 && data.len() > 100_000, "{}", data.len());
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn beyond_the_rate_output_is_dropped_counted_and_noted() {
        let dir = dir("rate");
        let mut w = writer(&dir, 1 << 20, 1_000);
        for _ in 0..100 {
            w.write(Stream::Stdout, &[b'x'; 10_000]);
        }
        w.note_drops();
        let log = status::Log::read(File::open(dir.join("status")).expect("there")).expect("read");
        assert_eq!(log.written, 1_000_000);
        assert!(log.dropped >= 900_000, "{log:?}");
        let reader = Reader::open(&dir).expect("opened").expect("there");
        let text = String::from_utf8(all(&reader, 0).0).expect("text");
        assert!(text.contains(&format!("{} bytes dropped", log.dropped)), "{text:.200}");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_torn_frame_and_a_position_from_elsewhere_are_stepped_over() {
        let dir = dir("torn");
        let mut w = writer(&dir, 1 << 20, u64::MAX / 8);
        w.write(Stream::Stdout, b"whole");
        drop(w);
        let open = open(&dir);
        // A writer killed in the middle of a frame: bytes behind the recorded end.
        let len = std::fs::metadata(dir.join("log.0")).expect("there").len();
        pwrite_all(open("log.0"), &[9; 7], len);
        writer(&dir, 1 << 20, u64::MAX / 8).write(Stream::Stdout, b" again");
        let reader = Reader::open(&dir).expect("opened").expect("there");
        assert_eq!(all(&reader, 0).0, b"whole again");
        assert_eq!(all(&reader, 3).0, b"");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    fn pwrite_all(fd: OwnedFd, data: &[u8], at: u64) {
        assert_eq!(rustix::io::pwrite(fd, data, at).expect("written"), data.len());
    }
}
