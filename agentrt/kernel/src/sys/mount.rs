//! Mounts by descriptor: nothing here walks a path that somebody else could swap.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Result, check, descriptor};

/// Attributes of a mount (`MOUNT_ATTR_*`).
pub mod attr {
    #![allow(missing_docs)] // the kernel's own names
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const NOATIME: u64 = 0x10;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;

/// A file system being configured.
pub struct Filesystem(OwnedFd);

impl Filesystem {
    /// `fsopen`.
    pub fn open(kind: &CStr) -> Result<Self> {
        // SAFETY: `kind` is a C string that lives during the call. 1 is FSOPEN_CLOEXEC.
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) }).map(Self)
    }

    /// `fspick` of the file system under the mount `fd`, to reconfigure it.
    pub fn pick(fd: RawFd) -> Result<Self> {
        // SAFETY: the path is an empty C string. 9 is FSPICK_CLOEXEC | FSPICK_EMPTY_PATH.
        descriptor(unsafe { libc::syscall(libc::SYS_fspick, fd, c"".as_ptr(), 9) }).map(Self)
    }

    fn config(&self, command: u32, key: *const libc::c_char, value: *const libc::c_char, aux: RawFd) -> Result<()> {
        // SAFETY: callers pass null or C strings that live during the call, as the command wants them.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, aux) }).map(drop)
    }

    /// Set a parameter to a string.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    }

    /// Set a parameter to a descriptor.
    pub fn set_fd(&self, key: &CStr, value: RawFd) -> Result<()> {
        self.config(FSCONFIG_SET_FD, key.as_ptr(), std::ptr::null(), value)
    }

    /// Set a flag.
    pub fn flag(&self, key: &CStr) -> Result<()> {
        self.config(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null(), 0)
    }

    /// Make the superblock and a detached mount of it.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null(), 0)?;
        // SAFETY: plain integers. 1 is FSMOUNT_CLOEXEC.
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), 1, attributes) })
    }

    /// Apply changed parameters to a picked file system.
    pub fn reconfigure(self) -> Result<()> {
        self.config(FSCONFIG_CMD_RECONFIGURE, std::ptr::null(), std::ptr::null(), 0)
    }
}

/// A detached copy of the mount at `path` beneath `dir` (`open_tree` with `OPEN_TREE_CLONE`).
pub fn clone_tree(dir: RawFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = 1 | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `path` is a C string that lives during the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Attach the detached mount `from` at `path` beneath `dir`; a link at the end is never followed.
pub fn attach(from: RawFd, dir: RawFd, path: &CStr) -> Result<()> {
    // MOVE_MOUNT_F_EMPTY_PATH, and MOVE_MOUNT_T_EMPTY_PATH for an empty target.
    let flags = if path.is_empty() { 0x44 } else { 0x04 };
    // SAFETY: both are C strings that live during the call.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), dir, path.as_ptr(), flags) }).map(drop)
}

/// Set attributes on a mount (and, if asked, on all beneath it); `propagation` is 0 or `MS_PRIVATE` and its like.
pub fn set_attributes(fd: RawFd, path: &CStr, recursive: bool, set: u64, propagation: u64) -> Result<()> {
    let attributes = [set, 0, propagation, 0];
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attributes` is a mount_attr of 32 bytes, `path` a C string; both live during the call.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path.as_ptr(), flags, attributes.as_ptr(), 32usize) })
        .map(drop)
}

/// Show the files of a detached mount under the ids that the user namespace `namespace` maps them to.
pub fn map_ids_of_mount(fd: RawFd, namespace: RawFd) -> Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let attributes = [IDMAP, 0, 0, namespace as u64];
    // SAFETY: `attributes` is a mount_attr of 32 bytes that lives during the call.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, attributes.as_ptr(), 32usize)
    })
    .map(drop)
}

/// Make the current directory the root, and detach the old one.
pub fn pivot_here() -> Result<()> {
    // SAFETY: constant C strings. The old root is stacked on the new one and then detached from it.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::syscall(libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH))?;
    }
    change_directory(c"/")
}

/// `umount2(path, MNT_DETACH)`.
pub fn detach(path: &CStr) -> Result<()> {
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_umount2, path.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// `chdir`.
pub fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: `path` is a C string that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_chdir, path.as_ptr()) }).map(drop)
}

/// `fchdir`.
pub fn enter_directory(fd: RawFd) -> Result<()> {
    // SAFETY: a plain integer.
    check(unsafe { libc::syscall(libc::SYS_fchdir, fd) }).map(drop)
}

/// Whether the current directory lies beneath the root (`getcwd` says "(unreachable)" where it does not).
pub fn directory_is_reachable() -> Result<bool> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is live and its length is right.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}
