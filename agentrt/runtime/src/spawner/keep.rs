//! What the spawner keeps of agents for daemons to come.

use super::protocol::Answer;
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// By agent (or instance): descriptors that outlive the daemon here.
#[derive(Default)]
pub(super) struct Keep {
    /// Sealed memory with what agents' secrets are: never looked into here, so that no copy of this process has them.
    secrets: HashMap<String, OwnedFd>,
    /// The sockets on which instances wait to be told what to do: while one is open here, none of them gives up.
    orders: HashMap<String, OwnedFd>,
}

impl Keep {
    pub(super) fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.orders.is_empty()
    }

    pub(super) fn secrets(&mut self, agent: String, fds: Vec<OwnedFd>) -> (Answer, Vec<OwnedFd>) {
        self.secrets.extend(fds.into_iter().next().map(|secrets| (agent, secrets)));
        (Answer::Done, Vec::new())
    }

    pub(super) fn orders(&mut self, agent: &str, orders: Option<&OwnedFd>) {
        self.orders.extend(orders.and_then(|orders| orders.try_clone().ok()).map(|orders| (agent.to_owned(), orders)));
    }

    pub(super) fn kept_secrets(&self, agent: &str) -> (Answer, Vec<OwnedFd>) {
        found(&self.secrets, agent, "no secrets of")
    }

    pub(super) fn kept_orders(&self, agent: &str) -> (Answer, Vec<OwnedFd>) {
        found(&self.orders, agent, "no socket for orders to")
    }

    pub(super) fn forget(&mut self, agent: &str) {
        self.secrets.remove(agent);
        self.orders.remove(agent);
    }
}

fn found(among: &HashMap<String, OwnedFd>, agent: &str, none: &str) -> (Answer, Vec<OwnedFd>) {
    match among.get(agent).and_then(|fd| fd.try_clone().ok()) {
        Some(fd) => (Answer::Descriptor, vec![fd]),
        None => (Answer::Failed(format!("{none} agent {agent} are kept here")), Vec::new()),
    }
}
