//! Removing trees by descriptor: a link is removed, never followed.

use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};

use crate::root::c;
use crate::sys::{self, Errno};

/// Beneath the directory, through no link of any kind.
pub(crate) const BENEATH: u64 = 0x08 | 0x04 | 0x02;
/// As deep as a tree may be before it is given up.
const DEEPEST: u32 = 512;

/// Names in a directory, without `.` and `..`.
pub(crate) fn names(directory: RawFd) -> sys::Result<Vec<CString>> {
    let mut buffer = vec![0u8; 32 << 10];
    let mut out = Vec::new();
    loop {
        // SAFETY: the buffer is live and its length is right.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, directory, buffer.as_mut_ptr(), buffer.len()) };
        if got < 0 {
            return Err(Errno::last());
        }
        if got == 0 {
            return Ok(out);
        }
        let mut at = 0usize;
        while at < got as usize {
            // linux_dirent64: inode 8, offset 8, length 2, type 1, name.
            let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = buffer[at + 19..at + length].split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                out.push(c(name));
            }
            at += length;
        }
    }
}

/// Remove everything in a directory.
pub fn clear(directory: RawFd) -> sys::Result<()> {
    clear_at(directory, 0)
}

fn clear_at(directory: RawFd, depth: u32) -> sys::Result<()> {
    if depth > DEEPEST {
        return Err(Errno(libc::ELOOP));
    }
    for name in names(directory)? {
        remove_at(directory, &name, depth)?;
    }
    Ok(())
}

/// Remove what `name` is in a directory, with everything beneath it. What is not there is fine.
pub fn remove_beneath(directory: RawFd, name: &std::ffi::CStr) -> sys::Result<()> {
    remove_at(directory, name, 0)
}

fn remove_at(directory: RawFd, name: &std::ffi::CStr, depth: u32) -> sys::Result<()> {
    match sys::unlinkat(directory, name, false) {
        Ok(()) | Err(Errno(libc::ENOENT)) => return Ok(()),
        Err(Errno(libc::EISDIR | libc::EPERM)) => {}
        Err(errno) => return Err(errno),
    }
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let inner = sys::openat2(directory, name, flags, 0, BENEATH)?;
    clear_at(inner.as_raw_fd(), depth + 1)?;
    sys::unlinkat(directory, name, true)
}
