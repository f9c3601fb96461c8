//! `gpve-agentrt daemon`.

use crate::daemon;
use crate::egress::client::Options;
use crate::egress::{Limits, proxy};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Daemon {
    /// Directory that holds the agents
    #[arg(long, default_value = "/var/lib/gpve-agentrt")]
    root: PathBuf,
    /// The spawner's program [default: gpve-spawner beside this program]
    #[arg(long)]
    spawner: Option<PathBuf>,
    /// How many spawners; 0: one per CPU, at most 4. An agent belongs to one of them: change it only when none runs
    #[arg(long, default_value_t = 0)]
    spawners: u32,
    /// What templates fork by [default: libgpve_agent_seed.so beside this program]
    #[arg(long)]
    seed_library: Option<PathBuf>,
    /// Connections that an agent may have at once through the egress proxy
    #[arg(long, default_value_t = 64)]
    egress_connections: usize,
    /// Bytes a second that an agent may move through the egress proxy, both ways together; 0: no limit
    #[arg(long, default_value_t = 0)]
    egress_bytes_per_s: u64,
    /// Certificates of the authorities that the egress proxy trusts where it speaks TLS itself (PEM)
    #[arg(long, default_value = "/etc/ssl/certs/ca-certificates.crt")]
    egress_authorities: PathBuf,
    /// A user id that is served beside root and the daemon's own; may be given again
    #[arg(long = "allow-user")]
    allow_user: Vec<u32>,
}

pub fn daemon(args: Daemon, socket: PathBuf) -> Result<ExitCode, String> {
    let beside = |name: &str| std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    let spawner = args.spawner.or_else(|| beside("gpve-spawner")).ok_or("where is gpve-spawner? Give --spawner")?;
    let seed_library = args.seed_library.or_else(|| beside("libgpve_agent_seed.so")).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let spawners = if args.spawners == 0 { cpus.min(4) } else { args.spawners };
    // The spawners and the agents' directories are known by this path, from whichever directory the daemon is started.
    let root = std::path::absolute(&args.root).map_err(|e| format!("{}: {e}", args.root.display()))?;
    let limits = Limits { connections: args.egress_connections.max(1), bytes_per_s: args.egress_bytes_per_s };
    let authorities = std::path::absolute(&args.egress_authorities);
    let authorities = authorities.map_err(|e| format!("{}: {e}", args.egress_authorities.display()))?;
    let egress = Options { limits, authorities };
    daemon::run(daemon::Options { egress, root, socket, spawner, spawners, allowed: args.allow_user, seed_library })?;
    Ok(ExitCode::SUCCESS)
}

/// Started by the daemon, which speaks on descriptor 3.
#[derive(Args)]
pub struct EgressProxy {
    authorities: PathBuf,
}

pub fn egress_proxy(args: EgressProxy) -> Result<ExitCode, String> {
    proxy::run(args.authorities)?;
    Ok(ExitCode::SUCCESS)
}
