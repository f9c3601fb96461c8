//! Copying into and out of an agent's workspace, and snapshots of it: by descriptor, from outside, while the agent may be
//! swapping directories for links.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Component, Path};

use crate::archive::{ArchiveError, Copied, Entry, Kind, Limits, Reader, Result, Unpacker, Writer, clear};
use crate::root::c;
use crate::sys::{self, Errno};

/// Beneath the directory, through no link of any kind.
const BENEATH: u64 = 0x08 | 0x04 | 0x02;

/// Unpack an archive (tar) beneath `path` of `directory`; everything belongs to `owner`.
///
/// `path` is relative, and made where it is missing. What stands in the way of a file is replaced.
pub fn copy_in(
    directory: BorrowedFd,
    owner: (u32, u32),
    path: &Path,
    archive: impl Read,
    limits: &Limits,
) -> Result<Copied> {
    unpack(&place(directory, path, Some(owner))?, owner, archive, limits)
}

fn unpack(place: &OwnedFd, owner: (u32, u32), archive: impl Read, limits: &Limits) -> Result<Copied> {
    Unpacker::workspace(place.as_raw_fd(), owner).unpack(&mut Reader::new(archive, *limits))
}

/// Write `path` of `directory` as an archive (tar): a file alone, or a directory with everything beneath it.
///
/// Regular files, directories and links are copied, links as links. Sockets, pipes and devices are left out.
pub fn copy_out(directory: BorrowedFd, path: &Path, to: impl Write, limits: &Limits) -> Result<Copied> {
    let mut walk = Walk { writer: Writer::new(to), copied: Copied::default(), limits: *limits };
    let relative = relative(path)?;
    let name = path.file_name().map(|name| name.as_encoded_bytes().to_vec());
    let failed = |errno: Errno| refused_or_io(path, errno);
    let found = sys::openat2(directory.as_raw_fd(), &c(&relative), libc::O_PATH | libc::O_NOFOLLOW, 0, BENEATH)
        .map_err(failed)?;
    let is_directory = sys::stat(found.as_raw_fd(), c"").map_err(failed)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    match name {
        Some(name) if !is_directory => {
            let parent = place(directory, path.parent().unwrap_or(Path::new("")), None)?;
            walk.one(parent.as_raw_fd(), &mut vec![name], 0)?;
        }
        _ => {
            let opened =
                sys::openat2(directory.as_raw_fd(), &c(&relative), libc::O_RDONLY | libc::O_DIRECTORY, 0, BENEATH);
            walk.directory(opened.map_err(failed)?.as_raw_fd(), &mut Vec::new(), 0)?;
        }
    }
    walk.writer.finish().map_err(|error| ArchiveError::io("writing the archive", error))?;
    Ok(walk.copied)
}

/// A snapshot of everything in `directory`, as an archive. Freeze the agent before, if it is to be of one moment.
pub fn snapshot(directory: BorrowedFd, to: impl Write) -> Result<Copied> {
    copy_out(directory, Path::new(""), to, &Limits::default())
}

/// As [`copy_in`], in the place of all that is in `path`: what a snapshot is put back by. Nothing of the agent should run.
pub fn replace(
    directory: BorrowedFd,
    owner: (u32, u32),
    path: &Path,
    archive: impl Read,
    limits: &Limits,
) -> Result<Copied> {
    let place = place(directory, path, Some(owner))?;
    let top = sys::openat2(place.as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0, BENEATH);
    let top = top.map_err(|errno| ArchiveError::io("opening the directory", errno))?;
    clear(top.as_raw_fd()).map_err(|errno| ArchiveError::io("clearing the directory", errno))?;
    unpack(&place, owner, archive, limits)
}

/// Put a snapshot in the place of what is in `directory`.
pub fn restore(directory: BorrowedFd, owner: (u32, u32), from: impl Read) -> Result<Copied> {
    replace(directory, owner, Path::new(""), from, &Limits::default())
}

fn refused_or_io(path: &Path, errno: Errno) -> ArchiveError {
    match errno.0 {
        libc::ELOOP | libc::EXDEV => {
            ArchiveError::refused(path.as_os_str().as_encoded_bytes(), "a link is in its way, and none is followed")
        }
        _ => ArchiveError::io(format!("opening {}", path.display()), errno),
    }
}

/// A path in bytes, refused where it could lead out.
fn relative(path: &Path) -> Result<Vec<u8>> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || bytes.contains(&0) {
        return Err(ArchiveError::refused(bytes, "write a path that is relative to the workspace, without .."));
    }
    Ok(if bytes.is_empty() { b".".to_vec() } else { bytes.to_vec() })
}

/// The directory at `path`, made where it is missing if there is an owner to make it for.
fn place(directory: BorrowedFd, path: &Path, owner: Option<(u32, u32)>) -> Result<OwnedFd> {
    relative(path)?;
    let failed = |errno: Errno| refused_or_io(path, errno);
    let mut here =
        sys::openat2(directory.as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0, BENEATH).map_err(failed)?;
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        let name = c(part.as_os_str().as_encoded_bytes());
        let open = |at: &OwnedFd| sys::openat2(at.as_raw_fd(), &name, libc::O_RDONLY | libc::O_DIRECTORY, 0, BENEATH);
        here = match (open(&here), owner) {
            (Err(Errno(libc::ENOENT)), Some((uid, gid))) => {
                sys::mkdirat(here.as_raw_fd(), &name, 0o755).map_err(failed)?;
                sys::lchownat(here.as_raw_fd(), &name, uid, gid).map_err(failed)?;
                open(&here).map_err(failed)?
            }
            (other, _) => other.map_err(failed)?,
        };
    }
    Ok(here)
}

struct Walk<W: Write> {
    writer: Writer<W>,
    copied: Copied,
    limits: Limits,
}

impl<W: Write> Walk<W> {
    fn directory(&mut self, at: RawFd, name: &mut Vec<Vec<u8>>, depth: usize) -> Result<()> {
        if depth > self.limits.depth {
            return Err(ArchiveError::refused(
                &name.join(&b'/'),
                format!("deeper than {} directories", self.limits.depth),
            ));
        }
        let mut names = crate::archive::names(at).map_err(|errno| ArchiveError::io("listing a directory", errno))?;
        names.sort();
        for entry in names {
            name.push(entry.into_bytes());
            self.one(at, name, depth)?;
            name.pop();
        }
        Ok(())
    }

    fn one(&mut self, at: RawFd, name: &mut Vec<Vec<u8>>, depth: usize) -> Result<()> {
        let own = c(name.last().map(Vec::as_slice).unwrap_or_default());
        // Non-blocking: a pipe would wait for its other end. Never through a link.
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = match sys::openat2(at, &own, flags, 0, BENEATH) {
            Ok(opened) => opened,
            Err(Errno(libc::ELOOP)) => return self.link(at, &own, name),
            // Gone meanwhile, or a socket: neither is anything to copy.
            Err(Errno(libc::ENOENT | libc::ENXIO)) => return Ok(()),
            Err(errno) => return Err(ArchiveError::io(format!("opening {}", own.to_string_lossy()), errno)),
        };
        let stat = sys::stat(opened.as_raw_fd(), c"").map_err(|errno| ArchiveError::io("looking at a file", errno))?;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            _ => return Ok(()),
        };
        let entry = entry(name, kind, &stat, Vec::new());
        self.count(&entry)?;
        let added = |error| ArchiveError::io(format!("archiving {}", String::from_utf8_lossy(&entry.path())), error);
        if kind == Kind::Directory {
            self.writer.add(&entry, std::io::empty()).map_err(added)?;
            return self.directory(opened.as_raw_fd(), name, depth + 1);
        }
        // SAFETY: the descriptor is ours, and handed on whole.
        let file = unsafe { File::from_raw_fd(opened.into_raw_fd()) };
        self.writer.add(&entry, file).map_err(added)
    }

    fn link(&mut self, at: RawFd, own: &std::ffi::CStr, name: &[Vec<u8>]) -> Result<()> {
        let failed = |errno| ArchiveError::io(format!("reading the link {}", own.to_string_lossy()), errno);
        let stat = sys::stat(at, own).map_err(failed)?;
        let target = sys::readlinkat(at, own).map_err(failed)?;
        let entry = entry(name, Kind::Symlink, &stat, target);
        self.count(&entry)?;
        self.writer.add(&entry, std::io::empty()).map_err(|error| ArchiveError::io("archiving a link", error))
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        self.copied.entries += 1;
        self.copied.bytes += entry.size;
        let (entries, bytes) = (self.limits.entries, self.limits.bytes);
        if self.copied.entries > entries || self.copied.bytes > bytes {
            return Err(ArchiveError::refused(&entry.path(), format!("more than {entries} entries or {bytes} bytes")));
        }
        Ok(())
    }
}

fn entry(name: &[Vec<u8>], kind: Kind, stat: &libc::stat, link: Vec<u8>) -> Entry {
    let size = if kind == Kind::File { stat.st_size as u64 } else { 0 };
    // Owners are the reader's business: ids outside mean nothing to whoever gets the archive.
    Entry { name: name.to_vec(), kind, size, mode: stat.st_mode & 0o777, uid: 0, gid: 0, mtime: stat.st_mtime, link }
}
