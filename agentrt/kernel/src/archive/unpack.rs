//! Unpacking beneath a directory that somebody else may be changing at this very moment.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use super::read::{Entry, Kind, Reader};
use super::remove::{BENEATH, clear, remove_beneath};
use super::{ArchiveError, Copied, Result};
use crate::root::c;
use crate::sys::{self, Errno};

/// What links in the place of directories mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Whoever meets one refuses: a copy into a workspace.
    Refused,
    /// They are followed within the root, as the image's programs will: a layer over layers, which nobody else changes.
    WithinRoot,
}

/// Unpacks entries beneath a directory.
pub struct Unpacker {
    root: RawFd,
    links: Links,
    /// Everything belongs to these; unchanged where `None`.
    owner: Option<(u32, u32)>,
    /// `.wh.` names remove what a layer below has put there.
    whiteouts: bool,
    copied: Copied,
}

/// Beneath the root in which links lead nowhere else.
const WITHIN: u64 = 0x10 | 0x02;

impl Unpacker {
    /// Unpack into a workspace, for its owner.
    pub fn workspace(root: RawFd, owner: (u32, u32)) -> Self {
        Self { root, links: Links::Refused, owner: Some(owner), whiteouts: false, copied: Copied::default() }
    }

    /// Unpack a layer of an image.
    pub fn layer(root: RawFd) -> Self {
        Self { root, links: Links::WithinRoot, owner: None, whiteouts: true, copied: Copied::default() }
    }

    /// Unpack a whole archive.
    pub fn unpack<R: Read>(mut self, reader: &mut Reader<R>) -> Result<Copied> {
        while let Some(entry) = reader.next_entry()? {
            self.entry(&entry, reader)?;
        }
        Ok(self.copied)
    }

    fn resolve(&self) -> u64 {
        if self.links == Links::Refused { BENEATH } else { WITHIN }
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
        let path = entry.path();
        let failed = |what: &str| {
            let what = format!("{what} {}", String::from_utf8_lossy(&path));
            move |errno: Errno| match errno.0 {
                libc::ELOOP | libc::EXDEV => ArchiveError::refused(what.as_bytes(), "a link is in its way"),
                _ => ArchiveError::io(what, errno),
            }
        };
        let Some((name, above)) = entry.name.split_last() else { return Ok(()) };
        if let Kind::Other(letter) = entry.kind {
            let why = match letter {
                b'3' | b'4' => "devices are not unpacked".to_owned(),
                b'6' => "pipes are not unpacked".to_owned(),
                other => format!("entries of type {:?} are not known", char::from(other)),
            };
            return Err(ArchiveError::refused(&path, why));
        }
        let parent = self.parent(above).map_err(failed("making the directories of"))?;
        let at = parent.as_raw_fd();
        if self.whiteouts && name.starts_with(b".wh.") {
            return whiteout(at, &name[4..], &path);
        }
        let name = c(name);
        self.copied.entries += 1;
        match entry.kind {
            Kind::Directory => self.directory(at, &name, entry).map_err(failed("making"))?,
            Kind::File => {
                // A new file in any case: what stands there may be linked with a file that is not ours to change.
                remove_beneath(at, &name).map_err(failed("replacing"))?;
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
                let file = sys::openat2(at, &name, flags, 0o600, BENEATH).map_err(failed("making"))?;
                // SAFETY: the descriptor is ours, and handed on whole.
                let mut file = unsafe { std::fs::File::from_raw_fd(file.into_raw_fd()) };
                let written = std::io::copy(reader, &mut file)
                    .map_err(|error| ArchiveError::io(format!("writing {}", String::from_utf8_lossy(&path)), error))?;
                self.copied.bytes += written;
                self.finish(file.as_raw_fd(), c"", entry).map_err(failed("setting the mode of"))?;
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(ArchiveError::refused(&path, "a link to nowhere"));
                }
                remove_beneath(at, &name).map_err(failed("replacing"))?;
                sys::symlinkat(&c(&entry.link), at, &name).map_err(failed("making the link"))?;
                if let Some((uid, gid)) = self.owner {
                    sys::lchownat(at, &name, uid, gid).map_err(failed("giving away"))?;
                }
            }
            Kind::Hardlink => self.hard_link(at, &name, entry)?,
            Kind::Other(_) => {}
        }
        Ok(())
    }

    /// The directory of these parts, made where it is missing.
    fn parent(&self, parts: &[Vec<u8>]) -> sys::Result<OwnedFd> {
        let open = |path: &[u8]| {
            let path = if path.is_empty() { c(b".") } else { c(path) };
            sys::openat2(self.root, &path, libc::O_PATH | libc::O_DIRECTORY, 0, self.resolve())
        };
        match open(&parts.join(&b'/')) {
            Err(Errno(libc::ENOENT)) => {}
            other => return other,
        }
        let mut here = open(b"")?;
        for depth in 0..parts.len() {
            here = match open(&parts[..=depth].join(&b'/')) {
                Err(Errno(libc::ENOENT)) => {
                    let name = c(&parts[depth]);
                    match sys::mkdirat(here.as_raw_fd(), &name, 0o755) {
                        // EEXIST: a link that leads to nothing, or somebody was faster; opening it will tell.
                        Ok(()) | Err(Errno(libc::EEXIST)) => {}
                        Err(errno) => return Err(errno),
                    }
                    if let Some((uid, gid)) = self.owner {
                        sys::lchownat(here.as_raw_fd(), &name, uid, gid)?;
                    }
                    open(&parts[..=depth].join(&b'/'))?
                }
                other => other?,
            };
        }
        Ok(here)
    }

    fn directory(&self, at: RawFd, name: &CString, entry: &Entry) -> sys::Result<()> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let made = match sys::mkdirat(at, name, 0o700) {
            Err(Errno(libc::EEXIST)) => match sys::openat2(at, name, flags, 0, BENEATH) {
                Err(Errno(libc::ENOTDIR | libc::ELOOP)) if self.links == Links::WithinRoot => {
                    // A layer that puts a directory where a layer below has a link: where it leads to one, it stays.
                    if sys::openat2(self.root, &c(&entry.path()), libc::O_PATH | libc::O_DIRECTORY, 0, WITHIN).is_ok() {
                        return Ok(());
                    }
                    remove_beneath(at, name)?;
                    sys::mkdirat(at, name, 0o700)
                }
                other => other.map(drop),
            },
            other => other,
        };
        made?;
        let directory = sys::openat2(at, name, flags, 0, BENEATH)?;
        self.finish(directory.as_raw_fd(), c"", entry)
    }

    /// Owner and mode of what we hold by descriptor.
    fn finish(&self, fd: RawFd, empty: &std::ffi::CStr, entry: &Entry) -> sys::Result<()> {
        if let Some((uid, gid)) = self.owner {
            sys::lchownat(fd, empty, uid, gid)?;
        }
        if !self.whiteouts {
            sys::set_mtime(fd, entry.mtime)?;
        }
        // No set-id bits. In an image, where files keep no owners, others get what the owner has but to write.
        let mode = entry.mode & 0o777;
        let mode = if self.whiteouts { mode | (mode >> 3 & 0o055) | (mode >> 6 & 0o005) } else { mode };
        sys::fchmod(fd, mode)
    }

    fn hard_link(&self, at: RawFd, name: &CString, entry: &Entry) -> Result<()> {
        let path = entry.path();
        let target = entry.link.as_slice();
        if target.starts_with(b"/") || target.split(|b| *b == b'/').any(|part| part == b"..") {
            return Err(ArchiveError::refused(&path, "a hard link whose target is absolute or has .."));
        }
        let failed = |errno: Errno| match errno.0 {
            libc::ELOOP | libc::EXDEV => ArchiveError::refused(&path, "a link is in the way of its target"),
            libc::ENOENT => ArchiveError::refused(&path, "a hard link to what is not in the archive"),
            _ => ArchiveError::io(format!("linking {}", String::from_utf8_lossy(&path)), errno),
        };
        let target =
            sys::openat2(self.root, &c(target), libc::O_PATH | libc::O_NOFOLLOW, 0, self.resolve()).map_err(failed)?;
        let stat = sys::stat(target.as_raw_fd(), c"").map_err(failed)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(ArchiveError::refused(&path, "a hard link to what is no regular file"));
        }
        remove_beneath(at, name).map_err(failed)?;
        sys::link_descriptor(target.as_raw_fd(), at, name).map_err(failed)
    }
}

/// A layer says that something of a layer below is gone: `name`, or (opaque) everything in the directory.
fn whiteout(at: RawFd, name: &[u8], path: &[u8]) -> Result<()> {
    let failed = |errno: Errno| ArchiveError::io(format!("removing {}", String::from_utf8_lossy(path)), errno);
    match name {
        b".wh..opq" => {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let directory = sys::openat2(at, c".", flags, 0, BENEATH).map_err(failed)?;
            clear(directory.as_raw_fd()).map_err(failed)
        }
        b"" | b"." | b".." => Err(ArchiveError::refused(path, "a whiteout of nothing")),
        _ => remove_beneath(at, &c(name)).map_err(failed),
    }
}
