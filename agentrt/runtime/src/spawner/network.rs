//! The networks of agents: sockets that are made in them, for the egress proxy and for who calls a port of an agent's.

use agent_kernel::sys;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Does something in another network, which a descriptor of it or of a process in it names.
pub(super) fn in_network<T>(network: BorrowedFd, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let home = File::open("/proc/self/ns/net").map_err(|e| format!("/proc/self/ns/net: {e}"))?;
    sys::setns(network.as_raw_fd(), libc::CLONE_NEWNET as u64)
        .map_err(|e| format!("the agent's network cannot be reached: {e}"))?;
    let done = work();
    come_home(&home);
    done
}

/// To go on in an agent's network would be worse than to end: the daemon starts another spawner.
fn come_home(home: &File) {
    if let Err(e) = sys::setns(home.as_raw_fd(), libc::CLONE_NEWNET as u64) {
        eprintln!("spawner: it cannot come back from an agent's network: {e}");
        std::process::exit(1);
    }
}

pub(super) fn tcp_socket() -> Result<OwnedFd, String> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .map_err(|e| format!("the agent's network: socket: {e}"))
}

/// A socket that listens for the egress proxy in the network that we are in.
pub(super) fn proxy_socket() -> Result<OwnedFd, String> {
    crate::egress::listen(tcp_socket()?).map_err(|e| format!("the agent's network: the egress proxy: {e}"))
}

/// A network with a loopback interface, and a socket that listens there for the egress proxy: made before anything of the
/// agent runs, so that the agent finds it, and cannot take its place.
pub(super) fn network_with_proxy() -> Result<(OwnedFd, OwnedFd), String> {
    let home = File::open("/proc/self/ns/net").map_err(|e| format!("/proc/self/ns/net: {e}"))?;
    sys::unshare(libc::CLONE_NEWNET as u64).map_err(|e| format!("the agent's network: {e}"))?;
    let made = (|| -> Result<(OwnedFd, OwnedFd), String> {
        sys::loopback_up().map_err(|e| format!("the agent's network: loopback: {e}"))?;
        let socket = proxy_socket()?;
        let network = File::open("/proc/self/ns/net").map_err(|e| format!("/proc/self/ns/net: {e}"))?;
        Ok((network.into(), socket))
    })();
    come_home(&home);
    made
}
