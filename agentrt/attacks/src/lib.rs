//! Attacks on the sandbox.
//!
//! An attack is a function that tries something and says how it went. It runs twice: unsandboxed (the *control*, which
//! must succeed, or the attack proves nothing on this host and is not counted) and inside. It is judged by the errno
//! that it got, which must be one that a refusal gives (EINVAL and EFAULT mean that a check was passed), and by what
//! can be seen from outside. All forms are harmless: files are opened for writing and never written.

use serde::{Deserialize, Serialize};

mod files;
mod kernel;
mod namespaces;
mod network;
mod processes;
mod quotas;
pub mod table;

/// Where an attack finds its targets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Targets {
    /// Inode of the host's mount namespace: the latch refuses to attack from within it.
    pub host_mount_namespace: u64,
    /// A directory outside, with `canary` (a file), `tool` (a program), `socket` (a listener) in it.
    pub outside: String,
    /// A directory that the attack may write to.
    pub scratch: String,
    /// A process outside, of the user that attacks.
    pub victim: i32,
    /// A TCP port on which somebody listens outside.
    pub tcp: u16,
    /// A UDP port on which somebody answers outside.
    pub udp: u16,
    /// Name of an abstract Unix socket on which somebody listens outside.
    pub abstract_name: String,
    /// Key of System V objects that exist outside.
    pub key: i32,
    /// Name of a POSIX message queue that exists outside.
    pub queue: String,
    /// File handle of the canary: type and bytes.
    pub handle: (i32, Vec<u8>),
    /// Path of a set-user-id copy of the attack program.
    pub setuid: String,
    /// A cgroup directory outside.
    pub cgroup: String,
}

/// What an attack gives: success, or the errno of its refusal.
pub type Outcome = Result<(), i32>;

/// The errno of the calling thread.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The outcome of a system call.
pub(crate) fn outcome(returned: i64) -> Outcome {
    if returned < 0 { Err(errno()) } else { Ok(()) }
}

/// A raw system call with integers and pointers.
macro_rules! raw {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: an attack: pointers are to live values of its own frame, and whatever the kernel does is the result.
        unsafe { libc::syscall($number as i64 $(, $argument)*) as i64 }
    };
}
pub(crate) use raw;

/// A C string.
pub(crate) fn c(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap_or_default()
}

/// Open a file; the descriptor stays open until the attack ends.
pub(crate) fn open(path: &str, flags: i32) -> Result<i32, i32> {
    let path = c(path);
    let fd = raw!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_NONBLOCK, 0o600);
    if fd < 0 { Err(errno()) } else { Ok(fd as i32) }
}
