//! Egress: what an agent may reach outside, by way of a proxy that stands outside.
//!
//! An agent has no interface but its loopback. On it, at [`PORT`], listens a socket that the spawner has made in the
//! agent's network before anything of the agent ran, and that a process of its own (`gpve-agentrt egress-proxy`) serves:
//! HTTP CONNECT, plain HTTP and SOCKS5. What a stranger may write to us is parsed there, with no other rights at stake.

mod agent;
pub mod client;
pub mod destination;
pub mod http;
mod outward;
pub mod proxy;
mod relay;
pub mod secret;
mod socks;
pub mod tls;

use agent_kernel::plan::EgressPlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the proxy listens, in each agent's own network.
pub const PORT: u16 = 3128;

/// Variables that tell an agent's programs of the proxy.
pub fn environment() -> Vec<(String, String)> {
    let http = format!("http://127.0.0.1:{PORT}");
    let mut all = Vec::new();
    // Not socks5h for all: some libraries refuse to start where they lack what SOCKS takes.
    for (name, value) in [
        ("http_proxy", http.clone()),
        ("https_proxy", http.clone()),
        ("all_proxy", http),
        ("no_proxy", "localhost,127.0.0.1,::1".into()),
    ] {
        all.push((name.to_uppercase(), value.clone()));
        all.push((name.to_owned(), value));
    }
    all
}

/// Lets a TCP socket of an agent's network listen for the proxy.
pub fn listen(socket: std::os::fd::OwnedFd) -> std::io::Result<std::os::fd::OwnedFd> {
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, PORT)))?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// What an agent has sent, fetched, and been denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub connections: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// By what was asked for, `host:port`; names beyond a bound are counted as `(others)`.
    pub denied: BTreeMap<String, u64>,
}

/// What an agent may use of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Bytes a second, both ways together; 0: no limit.
    pub bytes_per_s: u64,
}

impl Limits {
    /// These, and no more than a policy says.
    fn narrowed(self, plan: &EgressPlan) -> Limits {
        let connections = plan.connections.map_or(self.connections, |most| self.connections.min(most as usize));
        let rates = [Some(self.bytes_per_s).filter(|rate| *rate > 0), plan.bytes_per_second];
        Limits { connections, bytes_per_s: rates.into_iter().flatten().min().unwrap_or(0) }
    }
}

/// What an agent may ask the proxy for.
#[derive(Clone, Serialize, Deserialize)]
pub struct Terms {
    pub rules: Vec<String>,
    pub limits: Limits,
    pub secrets: Vec<secret::Secret>,
}

/// What the daemon says to the proxy.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// Descriptor: the socket that listens in the agent's network.
    Serve {
        agent: String,
        terms: Terms,
    },
    Forget {
        agent: String,
    },
    /// Answered by [`Usage`].
    Usage {
        agent: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_only_narrows_what_the_daemon_lets_every_agent_have() {
        let daemon = Limits { connections: 64, bytes_per_s: 1000 };
        let plan = |connections, bytes_per_second| EgressPlan { connections, bytes_per_second, ..Default::default() };
        assert_eq!(daemon.narrowed(&plan(None, None)), daemon);
        assert_eq!(daemon.narrowed(&plan(Some(2), Some(10))), Limits { connections: 2, bytes_per_s: 10 });
        assert_eq!(daemon.narrowed(&plan(Some(200), Some(9_999))), daemon);
        let boundless = Limits { connections: 64, bytes_per_s: 0 };
        assert_eq!(boundless.narrowed(&plan(None, Some(10))).bytes_per_s, 10);
    }
}
