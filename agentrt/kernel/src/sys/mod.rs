//! Raw system calls, each wrapped once.
//!
//! Everything here is a thin function over `libc::syscall`: no allocation, no locks, so it may be called in a child
//! between `clone` and `execve`. All `unsafe` of the crate that talks to the kernel lives in this folder.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

mod landlock;
mod mount;
mod process;

pub use landlock::*;
pub use mount::*;
pub use process::*;

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's last error.
    pub fn last() -> Self {
        // SAFETY: the function returns a valid pointer to the thread's own errno.
        Self(unsafe { *libc::__errno_location() })
    }

    /// The name as in errno(3), `E?` where this crate does not know it.
    pub fn name(self) -> &'static str {
        match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::ESRCH => "ESRCH",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::E2BIG => "E2BIG",
            libc::ENOEXEC => "ENOEXEC",
            libc::EBADF => "EBADF",
            libc::ECHILD => "ECHILD",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::EXDEV => "EXDEV",
            libc::ENODEV => "ENODEV",
            libc::ENOTDIR => "ENOTDIR",
            libc::EISDIR => "EISDIR",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOTTY => "ENOTTY",
            libc::ETXTBSY => "ETXTBSY",
            libc::EFBIG => "EFBIG",
            libc::ENOSPC => "ENOSPC",
            libc::EROFS => "EROFS",
            libc::EMLINK => "EMLINK",
            libc::EPIPE => "EPIPE",
            libc::ELOOP => "ELOOP",
            libc::ENAMETOOLONG => "ENAMETOOLONG",
            libc::ENOSYS => "ENOSYS",
            libc::ENOTEMPTY => "ENOTEMPTY",
            libc::EOVERFLOW => "EOVERFLOW",
            libc::EUSERS => "EUSERS",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EAFNOSUPPORT => "EAFNOSUPPORT",
            libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EDQUOT => "EDQUOT",
            524 => "ENOTSUPP",
            _ => "E?",
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), std::io::Error::from_raw_os_error(self.0))
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        std::io::Error::from_raw_os_error(errno.0)
    }
}

/// What a system call gives.
pub type Result<T> = std::result::Result<T, Errno>;

fn check(returned: libc::c_long) -> Result<usize> {
    if returned < 0 { Err(Errno::last()) } else { Ok(returned as usize) }
}

fn descriptor(returned: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    check(returned).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The current directory, as the `dirfd` of an `*at` call.
pub const HERE: RawFd = libc::AT_FDCWD;

/// Borrow a descriptor that the caller keeps open for as long as the borrow lives.
pub fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: callers pass descriptors that they own for the whole call; -1 is never passed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// `openat2` with `RESOLVE_*` bits; `flags` always gets `O_CLOEXEC`.
pub fn openat2(dir: RawFd, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Result<OwnedFd> {
    let how = [(flags | libc::O_CLOEXEC) as u64, u64::from(mode), resolve];
    loop {
        // SAFETY: `how` is a valid open_how of 24 bytes and `path` a C string, both live during the call.
        let got = descriptor(unsafe { libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), how.as_ptr(), 24usize) });
        // EAGAIN: a rename raced with the walk; the kernel asks us to try again.
        if !matches!(got, Err(Errno(libc::EAGAIN))) {
            return got;
        }
    }
}

/// Whether this process, with its effective ids, may write to `path`.
pub fn may_write(path: &CStr) -> bool {
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_faccessat2, HERE, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) }).is_ok()
}

/// `openat`, with `O_CLOEXEC`.
pub fn openat(dir: RawFd, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: `path` is a C string that lives during the call.
    descriptor(unsafe { libc::syscall(libc::SYS_openat, dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// `mkdirat`.
pub fn mkdirat(dir: RawFd, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_mkdirat, dir, path.as_ptr(), mode) }).map(drop)
}

/// `mknodat`.
pub fn mknodat(dir: RawFd, path: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_mknodat, dir, path.as_ptr(), mode, device) }).map(drop)
}

/// `symlinkat`.
pub fn symlinkat(target: &CStr, dir: RawFd, path: &CStr) -> Result<()> {
    // SAFETY: both are C strings that live during the call.
    check(unsafe { libc::syscall(libc::SYS_symlinkat, target.as_ptr(), dir, path.as_ptr()) }).map(drop)
}

/// `linkat`.
pub fn linkat(from_dir: RawFd, from: &CStr, dir: RawFd, path: &CStr) -> Result<()> {
    // SAFETY: both are C strings that live during the call.
    check(unsafe { libc::syscall(libc::SYS_linkat, from_dir, from.as_ptr(), dir, path.as_ptr(), 0) }).map(drop)
}

/// Link the file behind the descriptor `file` (opened with `O_PATH`) as `path`.
///
/// By `/proc/self/fd`, since `AT_EMPTY_PATH` wants CAP_DAC_READ_SEARCH; the descriptor says which file is meant.
pub fn link_descriptor(file: RawFd, dir: RawFd, path: &CStr) -> Result<()> {
    let from = std::ffi::CString::new(format!("/proc/self/fd/{file}")).unwrap_or_default();
    let flags = libc::AT_SYMLINK_FOLLOW;
    // SAFETY: both are C strings that live during the call.
    check(unsafe { libc::syscall(libc::SYS_linkat, HERE, from.as_ptr(), dir, path.as_ptr(), flags) }).map(drop)
}

/// Where the link `path` leads.
pub fn readlinkat(dir: RawFd, path: &CStr) -> Result<Vec<u8>> {
    let mut target = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: `path` is a C string, and the buffer is live with its right length.
    let got =
        check(unsafe { libc::syscall(libc::SYS_readlinkat, dir, path.as_ptr(), target.as_mut_ptr(), target.len()) })?;
    target.truncate(got);
    Ok(target)
}

/// `unlinkat`; `directory` removes an empty directory.
pub fn unlinkat(dir: RawFd, path: &CStr, directory: bool) -> Result<()> {
    let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_unlinkat, dir, path.as_ptr(), flags) }).map(drop)
}

/// `fchownat` that never follows a link at the end.
pub fn lchownat(dir: RawFd, path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_fchownat, dir, path.as_ptr(), uid, gid, flags) }).map(drop)
}

/// Set the time of the last change of the file behind `fd`, in seconds since 1970.
pub fn set_mtime(fd: RawFd, seconds: i64) -> Result<()> {
    let times = [[seconds, 0i64], [seconds, 0]];
    // SAFETY: `times` is two timespecs that live during the call; a null path means `fd` itself.
    check(unsafe { libc::syscall(libc::SYS_utimensat, fd, std::ptr::null::<u8>(), times.as_ptr(), 0) }).map(drop)
}

/// Go back to the start of a file.
pub fn rewind(fd: RawFd) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_SET) }).map(drop)
}

/// `fchmod`.
pub fn fchmod(fd: RawFd, mode: u32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_fchmod, fd, mode) }).map(drop)
}

/// `fchmodat`: follows links; only for paths that this process has just made.
pub fn fchmodat(dir: RawFd, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_fchmodat, dir, path.as_ptr(), mode) }).map(drop)
}

/// `fstatat` of `path` beneath `dir` without following a link; the empty path is `dir` itself.
pub fn stat(dir: RawFd, path: &CStr) -> Result<libc::stat> {
    let mut out = std::mem::MaybeUninit::<libc::stat>::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `out` has room for a stat, `path` lives during the call; a zero return means that `out` is filled.
    unsafe {
        if libc::fstatat(dir, path.as_ptr(), out.as_mut_ptr(), flags) < 0 {
            return Err(Errno::last());
        }
        Ok(out.assume_init())
    }
}

/// The magic number of the file system that `fd` lies on.
#[allow(clippy::unnecessary_cast)] // its type differs between C libraries
pub fn filesystem_magic(fd: RawFd) -> Result<i64> {
    let mut out = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `out` has room for a statfs; a zero return means that it is filled.
    unsafe {
        if libc::fstatfs(fd, out.as_mut_ptr()) < 0 {
            return Err(Errno::last());
        }
        Ok(out.assume_init().f_type as i64)
    }
}

/// Write all of `bytes`, once: sockets, procfs and cgroup files take a value in one call or not at all.
pub fn write(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the pointer and length are those of a live slice.
    check(unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) })
}

/// `read`, restarted when a signal interrupts it.
pub fn read(fd: RawFd, bytes: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: the pointer and length are those of a live, writable slice.
        let got = check(unsafe { libc::syscall(libc::SYS_read, fd, bytes.as_mut_ptr(), bytes.len()) });
        if !matches!(got, Err(Errno(libc::EINTR))) {
            return got;
        }
    }
}

/// Open `path` beneath `dir` and write `value` in one call.
pub fn write_file(dir: RawFd, path: &CStr, value: &[u8]) -> Result<()> {
    let file = openat(dir, path, libc::O_WRONLY, 0)?;
    write(file.as_raw_fd(), value).map(drop)
}

/// `dup3` with `O_CLOEXEC` off: the descriptor will live on in the program that is executed.
pub fn dup_to(from: RawFd, to: RawFd) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

/// A copy of `fd` at or above `least`, with `O_CLOEXEC`.
pub fn dup_above(fd: RawFd, least: RawFd) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    descriptor(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, least) })
}

/// Set or clear `O_CLOEXEC`.
pub fn set_cloexec(fd: RawFd, on: bool) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, libc::c_long::from(on)) }).map(drop)
}

/// `close_range(first, last, flags)`.
pub fn close_range(first: u32, last: u32, flags: u32) -> Result<()> {
    // SAFETY: plain integers. Callers own every descriptor of the range, or run in a child that is about to exec.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// A pipe, both ends with `O_CLOEXEC`.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0 as RawFd; 2];
    // SAFETY: `ends` has room for two descriptors, which are ours when the call succeeds.
    unsafe {
        check(libc::syscall(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// A connected pair of Unix sockets, both with `O_CLOEXEC`.
pub fn socketpair(kind: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0 as RawFd; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for two descriptors, which are ours when the call succeeds.
    unsafe {
        check(libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, ends.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// `memfd_create`, sealable; `executable` leaves the file's mode at 0700.
pub fn memfd(name: &CStr) -> Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a C string that lives during the call.
    descriptor(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })
}

/// Seal a memfd against every change, the seals themselves included.
pub fn seal(fd: RawFd) -> Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // The kernel itself may hold a page for a moment (it moves them about); it has waited for that already when it says so.
    let mut tries = 20;
    loop {
        tries -= 1;
        // SAFETY: plain integers.
        match check(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_ADD_SEALS, seals) }) {
            Err(Errno(libc::EBUSY)) if tries > 0 => {}
            sealed => return sealed.map(drop),
        }
    }
}
