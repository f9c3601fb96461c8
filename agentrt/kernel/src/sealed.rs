//! Running from a sealed copy of oneself.
//!
//! Whoever gets at the program of a launcher from within a sandbox (`/proc/PID/exe`) could open it for writing once the
//! launcher has ended, and own the host at the next start (runc's CVE-2019-5736). A copy in sealed memory cannot be
//! written by anybody, and is not the file on the host's disk.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use crate::error::LaunchError;
use crate::sys;

/// Whether this process runs from sealed memory.
pub fn is_sealed() -> bool {
    let Ok(program) = sys::openat(sys::HERE, c"/proc/self/exe", libc::O_RDONLY, 0) else { return false };
    let wanted = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: plain integers; on what is no memfd the call fails.
    let seals = unsafe { libc::fcntl(program.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & wanted == wanted
}

/// A sealed copy of a program.
pub fn copy(program: &OwnedFd) -> sys::Result<OwnedFd> {
    let copy = sys::memfd(c"gpve-sealed")?;
    let mut chunk = vec![0u8; 1 << 16];
    loop {
        match sys::read(program.as_raw_fd(), &mut chunk)? {
            0 => break,
            got => {
                let mut rest = &chunk[..got];
                while !rest.is_empty() {
                    let written = sys::write(copy.as_raw_fd(), rest)?;
                    rest = &rest[written..];
                }
            }
        }
    }
    sys::seal(copy.as_raw_fd())?;
    Ok(copy)
}

/// Execute this program again from sealed memory, with the same arguments and environment; returns at once where it
/// already runs from there. Call it first thing in a launcher.
pub fn become_sealed() -> Result<(), LaunchError> {
    if is_sealed() {
        return Ok(());
    }
    let failed = |what: &'static str| move |errno| LaunchError::new("launcher", what, errno);
    let own =
        sys::openat(sys::HERE, c"/proc/self/exe", libc::O_RDONLY, 0).map_err(failed("opening our own program"))?;
    let copy = copy(&own).map_err(failed("copying our own program to sealed memory"))?;
    let words = |words: Vec<Vec<u8>>| -> Vec<CString> {
        words.into_iter().filter_map(|word| CString::new(word).ok()).collect()
    };
    let argv = words(std::env::args_os().map(OsStringExt::into_vec).collect());
    let env = words(
        std::env::vars_os().map(|(name, value)| [name.into_vec(), b"=".to_vec(), value.into_vec()].concat()).collect(),
    );
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let path = CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap_or_default();
    // SAFETY: both arrays were made from live C strings and end in a null pointer.
    let errno = unsafe { sys::execve(&path, pointers(&argv).as_ptr(), pointers(&env).as_ptr()) };
    Err(failed("executing our own program from sealed memory")(errno))
}
