//! Descriptors that tokio watches.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor from its making to its drop, and AsyncFd keeps it till then.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// A pidfd: readable when its process has ended.
pub fn watch_process(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(pidfd, Interest::READABLE)
}
