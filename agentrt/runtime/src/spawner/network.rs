//! The networks of agents: those that are ready, and sockets that are made in them, for the egress proxy and for who calls a
//! port of an agent's.

use agent_kernel::network::Visit;
use agent_kernel::{Network, Networks, Plan};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Networks that a spawner has ready when it has nothing else to do.
const READY: usize = 8;

/// Does something in another network, which a descriptor of it or of a process in it names.
pub(super) fn in_network<T>(network: BorrowedFd, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let visit = Visit::begin(network.as_raw_fd()).map_err(|e| format!("the agent's network cannot be reached: {e}"))?;
    let done = work();
    visit.end();
    done
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

/// The networks that are ready, and those that agents have.
pub(super) struct Lender {
    networks: Networks,
    lent: HashMap<i32, Network>,
    /// Only where agents ask for networks are any made ahead.
    wanted: bool,
}

impl Lender {
    pub(super) fn new() -> Self {
        Self { networks: Networks::new(READY), lent: HashMap::new(), wanted: false }
    }

    /// A network for an agent of this plan, if one is ready and will do.
    pub(super) fn take(&mut self, plan: &Plan) -> Option<Network> {
        if !Networks::serve(plan) {
            return None;
        }
        self.wanted = true;
        self.networks.take()
    }

    /// A network, and a socket that listens there for the egress proxy: made before anything of the agent runs, so that
    /// the agent finds it, and cannot take its place.
    pub(super) fn with_proxy(&mut self, plan: &Plan) -> Result<(Network, OwnedFd), String> {
        let network = match self.take(plan) {
            Some(ready) => ready,
            None => Network::make().map_err(|e| e.to_string())?,
        };
        let socket = in_network(network.as_fd(), proxy_socket)?;
        Ok((network, socket))
    }

    /// It is that of the agent behind the init `pid`, for as long as that runs.
    pub(super) fn lend(&mut self, pid: i32, network: Network) {
        self.lent.insert(pid, network);
    }

    /// Init was reaped: nothing of the agent is left in its network.
    pub(super) fn give_back(&mut self, pid: i32) {
        if let Some(network) = self.lent.remove(&pid) {
            self.networks.give_back(network);
        }
    }

    pub(super) fn wants_more(&self) -> bool {
        self.wanted && !self.networks.is_full()
    }

    /// Makes one more.
    pub(super) fn fill(&mut self) {
        if let Err(e) = self.networks.fill() {
            // Agents get theirs as they start.
            self.wanted = false;
            eprintln!("spawner: no network can be made ahead: {e}");
        }
    }
}
