//! Writing tar: ustar, with pax headers where a name or a size does not fit.

use std::io::{Read, Write};

use super::read::{Entry, Kind};

const BLOCK: usize = 512;

/// An archive being written.
pub struct Writer<W: Write> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Write an archive to a stream.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Add an entry with `entry.size` bytes of `content`: what is missing is filled with zeros, what is more is left.
    pub fn add(&mut self, entry: &Entry, content: impl Read) -> std::io::Result<()> {
        let mut name = entry.path();
        if entry.kind == Kind::Directory {
            name.push(b'/');
        }
        let mut records = Vec::new();
        if name.len() > 100 {
            record(&mut records, b"path", &name);
        }
        if entry.link.len() > 100 {
            record(&mut records, b"linkpath", &entry.link);
        }
        if entry.size > 0o77_777_777_777 {
            record(&mut records, b"size", entry.size.to_string().as_bytes());
        }
        if !records.is_empty() {
            self.header(b"pax", b'x', records.len() as u64, &Entry { mode: 0o644, ..empty() })?;
            self.padded(&records[..], records.len() as u64)?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::Hardlink => b'1',
            Kind::Symlink => b'2',
            Kind::Directory => b'5',
            Kind::Other(letter) => letter,
        };
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        self.header(&name, kind, size, entry)?;
        self.padded(content, size)
    }

    fn header(&mut self, name: &[u8], kind: u8, size: u64, entry: &Entry) -> std::io::Result<()> {
        let mut header = [0u8; BLOCK];
        let put = |header: &mut [u8; BLOCK], at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(&mut header, 0, &name[..name.len().min(100)]);
        put(&mut header, 100, format!("{:07o}", entry.mode & 0o7777).as_bytes());
        put(&mut header, 108, format!("{:07o}", entry.uid.min(0o7_777_777)).as_bytes());
        put(&mut header, 116, format!("{:07o}", entry.gid.min(0o7_777_777)).as_bytes());
        put(&mut header, 124, format!("{:011o}", size.min(0o77_777_777_777)).as_bytes());
        put(&mut header, 136, format!("{:011o}", entry.mtime.clamp(0, 0o77_777_777_777)).as_bytes());
        header[156] = kind;
        put(&mut header, 157, &entry.link[..entry.link.len().min(100)]);
        put(&mut header, 257, b"ustar\x0000");
        put(&mut header, 148, b"        ");
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        self.to.write_all(&header)
    }

    fn padded(&mut self, content: impl Read, size: u64) -> std::io::Result<()> {
        let written = std::io::copy(&mut content.take(size), &mut self.to)?;
        let padded = size.next_multiple_of(BLOCK as u64);
        std::io::copy(&mut std::io::repeat(0).take(padded - written), &mut self.to)?;
        Ok(())
    }

    /// End the archive.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.to.write_all(&[0u8; 2 * BLOCK])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

fn empty() -> Entry {
    Entry { name: Vec::new(), kind: Kind::File, size: 0, mode: 0, uid: 0, gid: 0, mtime: 0, link: Vec::new() }
}

/// One record of pax; its length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} ").bytes());
    out.extend([key, b"=", value, b"\n"].concat());
}
