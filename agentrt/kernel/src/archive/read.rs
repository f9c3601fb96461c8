//! Reading tar: ustar, with the extensions of pax (path, linkpath, size) and of GNU (long names).

use std::io::Read;

use super::{ArchiveError, Limits, Result};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link to an entry before.
    Hardlink,
    /// A device, a pipe, or something unknown, by its letter.
    Other(u8),
}

/// One entry, its content still to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Parts of its name; none for the top itself.
    pub name: Vec<Vec<u8>>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Permissions, set-id and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Where a link leads, as it is written.
    pub link: Vec<u8>,
}

impl Entry {
    /// The name, for people.
    pub fn path(&self) -> Vec<u8> {
        self.name.join(&b'/')
    }
}

const BLOCK: usize = 512;

/// An archive being read.
pub struct Reader<R> {
    from: R,
    limits: Limits,
    /// Bytes still to come of the current entry, and the padding after them.
    content: u64,
    padding: u64,
    entries: u64,
    bytes: u64,
}

impl<R: Read> Reader<R> {
    /// Read an archive from a stream.
    pub fn new(from: R, limits: Limits) -> Self {
        Self { from, limits, content: 0, padding: 0, entries: 0, bytes: 0 }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0u8; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.from.read(&mut block[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::refused(b"", "it ends in the middle of a header")),
                Ok(n) => got += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::io("reading the archive", error)),
            }
        }
        Ok(Some(block))
    }

    /// Skip what is left of the current entry.
    fn finish_entry(&mut self) -> Result<()> {
        let left = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        let skipped = std::io::copy(&mut self.from.by_ref().take(left), &mut std::io::sink())
            .map_err(|error| ArchiveError::io("reading the archive", error))?;
        if skipped != left {
            return Err(ArchiveError::refused(b"", "it ends in the middle of an entry"));
        }
        Ok(())
    }

    /// The content of the current entry, whole; refused beyond `most`.
    pub fn content(&mut self, most: u64) -> Result<Vec<u8>> {
        if self.content > most {
            return Err(ArchiveError::refused(
                b"",
                format!("an entry of {} bytes where at most {most} make sense", self.content),
            ));
        }
        let mut out = Vec::new();
        let wanted = self.content;
        self.from
            .by_ref()
            .take(wanted)
            .read_to_end(&mut out)
            .map_err(|error| ArchiveError::io("reading the archive", error))?;
        if out.len() as u64 != wanted {
            return Err(ArchiveError::refused(b"", "it ends in the middle of an entry"));
        }
        self.content = 0;
        Ok(out)
    }

    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let (mut long_name, mut long_link, mut long_size) = (None, None, None);
        loop {
            self.finish_entry()?;
            let Some(header) = self.block()? else { return Ok(None) };
            if header.iter().all(|byte| *byte == 0) {
                // The end, or padding: what follows is not ours to read.
                return Ok(None);
            }
            check_sum(&header)?;
            let size = number(&header[124..136], "size")?;
            let kind = header[156];
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(ArchiveError::refused(b"", format!("more than {} entries", self.limits.entries)));
            }
            self.count(size)?;
            match kind {
                b'L' | b'K' | b'x' | b'g' => {
                    self.begin(size);
                    let text = self.content(self.limits.name as u64 * 4)?;
                    match kind {
                        b'L' => long_name = Some(until_nul(&text).to_vec()),
                        b'K' => long_link = Some(until_nul(&text).to_vec()),
                        b'x' => {
                            for (key, value) in pax(&text)? {
                                match key {
                                    b"path" => long_name = Some(value.to_vec()),
                                    b"linkpath" => long_link = Some(value.to_vec()),
                                    b"size" => long_size = Some(decimal(value)?),
                                    _ => {}
                                }
                            }
                        }
                        // What holds for all entries (pax, "g") says nothing that we use.
                        _ => {}
                    }
                    continue;
                }
                _ => {}
            }
            let size = long_size.unwrap_or(size);
            if long_size.is_some() {
                self.count(size)?;
            }
            let kind = match kind {
                b'0' | 0 | b'7' => Kind::File,
                b'1' => Kind::Hardlink,
                b'2' => Kind::Symlink,
                b'5' => Kind::Directory,
                other => Kind::Other(other),
            };
            self.begin(size);
            let name = long_name.unwrap_or_else(|| ustar_name(&header));
            let link = long_link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
            if link.len() > self.limits.name || link.contains(&0) {
                return Err(ArchiveError::refused(&name, "the target of a link is too long, or has a NUL"));
            }
            let kind = if kind == Kind::File && name.ends_with(b"/") { Kind::Directory } else { kind };
            return Ok(Some(Entry {
                name: parts(&name, &self.limits)?,
                kind,
                size,
                mode: (number(&header[100..108], "mode")? & 0o7777) as u32,
                uid: number(&header[108..116], "uid")?.try_into().unwrap_or(u32::MAX),
                gid: number(&header[116..124], "gid")?.try_into().unwrap_or(u32::MAX),
                mtime: number(&header[136..148], "mtime").unwrap_or(0).try_into().unwrap_or(0),
                link,
            }));
        }
    }

    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn count(&mut self, size: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            return Err(ArchiveError::refused(b"", format!("more than {} bytes", self.limits.bytes)));
        }
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    /// Reads the content of the current entry.
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = self.content.min(into.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        match self.from.read(&mut into[..most])? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            got => {
                self.content -= got as u64;
                Ok(got)
            }
        }
    }
}

fn check_sum(header: &[u8; BLOCK]) -> Result<()> {
    let stated = number(&header[148..156], "checksum")?;
    let real: u64 =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if stated != real {
        return Err(ArchiveError::refused(
            &ustar_name(header),
            "the checksum of its header is wrong (is this a tar archive?)",
        ));
    }
    Ok(())
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn ustar_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// Octal text, or (GNU) a big-endian number with the highest bit set.
fn number(field: &[u8], what: &str) -> Result<u64> {
    let wrong = || ArchiveError::refused(b"", format!("a header's {what} is no number"));
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256).ok_or_else(wrong)? + u64::from(*byte);
        }
        return Ok(value);
    }
    let text: &[u8] = until_nul(field).trim_ascii();
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => {
            value.checked_mul(8).and_then(|value| value.checked_add(u64::from(digit - b'0'))).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    })
}

fn decimal(text: &[u8]) -> Result<u64> {
    let number = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).ok_or_else(|| ArchiveError::refused(b"", "a size is no number"))
}

/// Records of pax: `length key=value\n`.
fn pax(mut text: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let wrong = || ArchiveError::refused(b"", "a pax header is malformed");
    let mut out = Vec::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = decimal(&text[..space]).ok().and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &text[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        out.push((&record[..equals], &record[equals + 1..]));
        text = &text[length..];
    }
    Ok(out)
}

/// The parts of a name; `.` is dropped, `..`, a leading slash and NUL are refused.
fn parts(name: &[u8], limits: &Limits) -> Result<Vec<Vec<u8>>> {
    if name.len() > limits.name {
        return Err(ArchiveError::refused(name, format!("its name is longer than {} bytes", limits.name)));
    }
    if name.starts_with(b"/") {
        return Err(ArchiveError::refused(name, "its name is absolute"));
    }
    let mut out = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(ArchiveError::refused(name, "its name has ..")),
            _ if part.contains(&0) || part.len() > 255 => {
                return Err(ArchiveError::refused(name, "a part of its name has a NUL or more than 255 bytes"));
            }
            _ => out.push(part.to_vec()),
        }
    }
    if out.len() > limits.depth {
        return Err(ArchiveError::refused(name, format!("it lies deeper than {} directories", limits.depth)));
    }
    Ok(out)
}
