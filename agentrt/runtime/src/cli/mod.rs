//! The command line.

use crate::daemon;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "gpve-agentrt", version, about = "Runs AI agents in sandboxes on this host")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve this host's agents
    Daemon(DaemonArgs),
}

#[derive(Args)]
struct DaemonArgs {
    /// Directory that holds the agents
    #[arg(long, default_value = "/var/lib/gpve-agentrt")]
    root: PathBuf,
    /// Unix socket to serve
    #[arg(long, default_value = "/run/gpve-agentrt.sock")]
    socket: PathBuf,
    /// The spawner's program [default: gpve-spawner beside this program]
    #[arg(long)]
    spawner: Option<PathBuf>,
    /// How many spawners; 0: one per CPU, at most 4
    #[arg(long, default_value_t = 0)]
    spawners: u32,
    /// A user id that is served beside root and the daemon's own; may be given again
    #[arg(long = "allow-user")]
    allow_user: Vec<u32>,
}

pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Daemon(args) => daemon(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("gpve-agentrt: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn daemon(args: DaemonArgs) -> Result<(), String> {
    let beside = || std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("gpve-spawner")));
    let spawner = args.spawner.or_else(beside).ok_or("where is gpve-spawner? Give --spawner")?;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let spawners = if args.spawners == 0 { cpus.min(4) } else { args.spawners };
    daemon::run(daemon::Options { root: args.root, socket: args.socket, spawner, spawners, allowed: args.allow_user })
}
