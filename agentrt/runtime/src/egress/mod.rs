//! Egress: what an agent may reach outside, by way of a proxy that stands outside.
//!
//! An agent has no interface but its loopback. On it, at [`PORT`], listens a socket that the spawner has made in the
//! agent's network before anything of the agent ran, and that a process of its own (`gpve-agentrt egress-proxy`) serves:
//! HTTP CONNECT, plain HTTP and SOCKS5. What a stranger may write to us is parsed there, with no other rights at stake.

pub mod client;
pub mod destination;
pub mod http;
pub mod proxy;
mod relay;
mod socks;
pub mod tls;

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

/// What the daemon says to the proxy.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Descriptor: the socket that listens in the agent's network.
    Serve {
        agent: String,
        rules: Vec<String>,
    },
    Forget {
        agent: String,
    },
    /// Answered by [`Usage`].
    Usage {
        agent: String,
    },
}
