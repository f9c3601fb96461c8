//! Network namespaces that a launcher makes ahead, and lends one agent after another where nobody can tell.
//!
//! Making one is the dearest step of a start, and the kernel makes one at a time. They are the launcher's: an agent in one
//! has no rights over it, whatever it may do in its own user namespace. Each has the loopback interface and nothing else.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::error::LaunchError;
use crate::plan::Plan;
use crate::policy::{Level, NetworkMode};
use crate::sys::{self, Errno};

fn failed(what: &'static str) -> impl Fn(Errno) -> LaunchError {
    move |errno| LaunchError::new("network", what, errno)
}

fn own() -> Result<OwnedFd, LaunchError> {
    sys::openat(sys::HERE, c"/proc/self/ns/net", libc::O_RDONLY, 0).map_err(failed("opening our network"))
}

/// The launcher is in another network: to make something there, or to be cloned there. It has one thread.
#[must_use]
pub struct Visit(Option<OwnedFd>);

impl Visit {
    /// Enter the network behind a descriptor: of a namespace, or of a process in it.
    pub fn begin(network: RawFd) -> Result<Self, LaunchError> {
        Self::begin_if(Some(network))
    }

    /// The same, or stay at home.
    pub(crate) fn begin_if(network: Option<RawFd>) -> Result<Self, LaunchError> {
        let Some(network) = network else {
            return Ok(Self(None));
        };
        let home = own()?;
        sys::setns(network, libc::CLONE_NEWNET as u64).map_err(failed("entering another network namespace"))?;
        Ok(Self(Some(home)))
    }

    /// Come home. A launcher that cannot ends here: it would start every later agent in this one's network.
    pub fn end(self) {
        if let Some(home) = self.0
            && let Err(errno) = sys::setns(home.as_raw_fd(), libc::CLONE_NEWNET as u64)
        {
            eprintln!("agent kernel: a launcher cannot come back from an agent's network: {errno}");
            std::process::abort();
        }
    }
}

/// A network namespace with a loopback interface that is up.
#[derive(Debug)]
pub struct Network(OwnedFd);

impl Network {
    /// A fresh one.
    pub fn make() -> Result<Self, LaunchError> {
        let home = own()?;
        sys::unshare(libc::CLONE_NEWNET as u64).map_err(failed("making a network namespace"))?;
        let made = sys::loopback_up().map_err(failed("bringing the loopback interface up")).and_then(|()| own());
        Visit(Some(home)).end();
        made.map(Self)
    }

    /// Whether it is as when it was made: no packet has passed its interface, and nobody has a socket in it.
    fn is_fresh(&self) -> bool {
        let Ok(visit) = Visit::begin(self.0.as_raw_fd()) else {
            return false;
        };
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (devices, sockets) = (read("/proc/self/net/dev"), read("/proc/self/net/sockstat"));
        visit.end();
        untouched(&devices, &sockets)
    }
}

impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What `/proc/net/dev` and `/proc/net/sockstat` say of a network that nobody has used: two lines of heading, the loopback
/// interface whose every counter is zero, and no socket.
fn untouched(devices: &str, sockets: &str) -> bool {
    let mut interfaces = devices.lines().skip(2);
    let (Some(only), None) = (interfaces.next().and_then(|line| line.split_once(':')), interfaces.next()) else {
        return false;
    };
    let counters = only.1.split_ascii_whitespace();
    only.0.trim() == "lo"
        && counters.clone().count() >= 16
        && counters.into_iter().all(|counter| counter == "0")
        && sockets.lines().next() == Some("sockets: used 0")
}

/// Networks that are ready.
#[derive(Debug)]
pub struct Networks {
    ready: Vec<Network>,
    most: usize,
}

impl Networks {
    /// None yet, and never more than `most`: each keeps about 210 KiB of the kernel's memory.
    pub fn new(most: usize) -> Self {
        Self { ready: Vec::new(), most }
    }

    /// Whether an agent of this plan can be given one: it must not want rights over its network.
    pub fn serve(plan: &Plan) -> bool {
        plan.level == Level::L3 && plan.network == NetworkMode::Loopback && plan.capabilities == 0
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether there are as many as there may be.
    pub fn is_full(&self) -> bool {
        self.ready.len() >= self.most
    }

    /// One that is ready.
    pub fn take(&mut self) -> Option<Network> {
        self.ready.pop()
    }

    /// Makes one more where there are not enough.
    pub fn fill(&mut self) -> Result<(), LaunchError> {
        if !self.is_full() {
            self.ready.push(Network::make()?);
        }
        Ok(())
    }

    /// The last process in it has ended: it is kept where it is as good as new, and done away with where it is not.
    pub fn give_back(&mut self, network: Network) {
        if !self.is_full() && network.is_fresh() {
            self.ready.push(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::untouched;

    const HEADING: &str = "Inter-|   Receive\n face |bytes    packets\n";
    const NEW: &str = "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n";
    const NONE: &str = "sockets: used 0\nTCP: inuse 0 orphan 0\n";

    #[test]
    fn what_was_used_is_known() {
        let devices = format!("{HEADING}{NEW}");
        assert!(untouched(&devices, NONE));
        assert!(!untouched(&devices.replacen("       0", "      84", 1), NONE), "a packet");
        assert!(!untouched(&format!("{devices}{}", NEW.replace("lo", "tun0")), NONE), "another interface");
        assert!(!untouched(&devices.replace("lo", "l0"), NONE));
        assert!(!untouched(&devices, "sockets: used 1\n"), "a socket");
        assert!(!untouched("", NONE) && !untouched(&devices, "") && !untouched(HEADING, NONE), "nothing to be read");
    }
}
