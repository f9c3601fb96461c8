//! Landlock's three system calls.

use std::os::fd::{OwnedFd, RawFd};

use super::{Result, check, descriptor};

/// Rights to files (`LANDLOCK_ACCESS_FS_*`).
pub mod fs {
    #![allow(missing_docs)] // the kernel's own names
    pub const EXECUTE: u64 = 1 << 0;
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIR: u64 = 1 << 3;
    pub const REMOVE_DIR: u64 = 1 << 4;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_CHAR: u64 = 1 << 6;
    pub const MAKE_DIR: u64 = 1 << 7;
    pub const MAKE_REG: u64 = 1 << 8;
    pub const MAKE_SOCK: u64 = 1 << 9;
    pub const MAKE_FIFO: u64 = 1 << 10;
    pub const MAKE_BLOCK: u64 = 1 << 11;
    pub const MAKE_SYM: u64 = 1 << 12;
    pub const REFER: u64 = 1 << 13;
    pub const TRUNCATE: u64 = 1 << 14;
    pub const IOCTL_DEV: u64 = 1 << 15;
}

/// Rights to the network (`LANDLOCK_ACCESS_NET_*`).
pub mod net {
    #![allow(missing_docs)]
    pub const BIND_TCP: u64 = 1 << 0;
    pub const CONNECT_TCP: u64 = 1 << 1;
}

/// Scopes (`LANDLOCK_SCOPE_*`).
pub mod scope {
    #![allow(missing_docs)]
    pub const ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
    pub const SIGNAL: u64 = 1 << 1;
}

/// The version of Landlock's interface; 0 where the kernel has none.
pub fn landlock_version() -> u32 {
    // SAFETY: a null attribute with size 0 and the flag 1 asks for the version.
    let got = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) });
    got.map_or(0, |version| version as u32)
}

/// A ruleset that handles these rights; what is handled and not allowed by a rule is denied.
pub fn landlock_ruleset(version: u32, files: u64, ports: u64, scoped: u64) -> Result<OwnedFd> {
    let attributes = [files, ports, scoped];
    let size = match version {
        0..4 => 8usize,
        4 | 5 => 16,
        _ => 24,
    };
    // SAFETY: `attributes` has at least `size` bytes and lives during the call.
    descriptor(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size, 0u32) })
}

/// Allow `rights` beneath the file or directory `path`.
pub fn landlock_allow_path(ruleset: RawFd, path: RawFd, rights: u64) -> Result<()> {
    #[repr(C, packed)]
    struct Beneath {
        rights: u64,
        parent: i32,
    }
    let rule = Beneath { rights, parent: path };
    // SAFETY: `rule` is laid out as landlock_path_beneath_attr and lives during the call. 1 is its type.
    check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, 1, &raw const rule, 0u32) }).map(drop)
}

/// Allow `rights` for the TCP port `port`.
pub fn landlock_allow_port(ruleset: RawFd, port: u16, rights: u64) -> Result<()> {
    let rule = [rights, u64::from(port)];
    // SAFETY: `rule` is laid out as landlock_net_port_attr and lives during the call. 2 is its type.
    check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, 2, rule.as_ptr(), 0u32) }).map(drop)
}

/// Restrict the calling thread, for good.
pub fn landlock_restrict(ruleset: RawFd) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0u32) }).map(drop)
}
