//! The command line: for people, and with --json for machines.

mod act;
mod client;
mod fork;
mod forward;
mod given;
mod image;
mod policy;
mod run;
mod screen;
mod serve;
mod show;
mod template;

use clap::{Parser, Subcommand};
use client::Client;
use std::path::PathBuf;
use std::process::ExitCode;

const SOCKET: &str = "/run/gpve-agentrt.sock";

#[derive(Parser)]
#[command(
    name = "gpve-agentrt",
    version,
    about = "Runs AI agents in sandboxes on this host",
    after_help = "Example:\n  gpve-agentrt daemon &\n  gpve-agentrt run -- /usr/bin/python3 -c 'print(\"hello\")'"
)]
struct Cli {
    /// The daemon's Unix socket
    #[arg(long, global = true, env = "GPVE_AGENTRT_SOCKET", default_value = SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve this host's agents
    #[command(after_help = "Example:\n  gpve-agentrt daemon --root /var/lib/gpve-agentrt --allow-user 1000")]
    Daemon(serve::Daemon),
    #[command(hide = true)]
    EgressProxy(serve::EgressProxy),
    /// Create an agent, start it, and follow its output
    #[command(
        after_help = "Example:\n  gpve-agentrt run --policy agent.toml --memory 256M --restart on-failure -d -- /usr/bin/python3 agent.py"
    )]
    Run(run::Run),
    /// List agents
    #[command(after_help = "Example:\n  gpve-agentrt ps --json")]
    Ps(show::Ps),
    /// What agents and the daemon use
    #[command(after_help = "Example:\n  gpve-agentrt stats my-agent")]
    Stats(show::Stats),
    /// What an agent has written
    #[command(after_help = "Example:\n  gpve-agentrt logs --follow my-agent")]
    Logs(show::Logs),
    /// What happened to agents, in order
    #[command(after_help = "Example:\n  gpve-agentrt events --follow --after 120 --json")]
    Events(show::Events),
    /// Run one more program in a running agent
    #[command(
        after_help = "Example:\n  gpve-agentrt exec -it my-agent -- /bin/sh\n  gpve-agentrt exec -i my-agent -- /bin/sh -c 'cat > note'"
    )]
    Exec(run::Exec),
    /// Listen on a port of this host that leads to one of an agent
    #[command(after_help = "Example:\n  gpve-agentrt forward my-agent 8000 --listen 127.0.0.1:8000")]
    Forward(forward::Forward),
    /// Start an agent that was created or has ended
    #[command(after_help = "Example:\n  gpve-agentrt start my-agent")]
    Start(act::Ids),
    /// Ask agents to end, kill them after the grace
    #[command(after_help = "Example:\n  gpve-agentrt stop --grace-ms 2000 my-agent")]
    Stop(act::Stop),
    /// Kill agents, or send their program a signal
    #[command(after_help = "Example:\n  gpve-agentrt kill --signal 10 my-agent")]
    Kill(act::Kill),
    /// Delete agents and all that they left
    #[command(after_help = "Example:\n  gpve-agentrt rm --force my-agent")]
    Rm(act::Rm),
    /// Freeze agents; their clocks stand still
    #[command(after_help = "Example:\n  gpve-agentrt pause my-agent")]
    Pause(act::Ids),
    /// Let paused agents go on
    #[command(after_help = "Example:\n  gpve-agentrt resume my-agent")]
    Resume(act::Ids),
    /// Programs that have their imports done, of which agents are made ready to run
    #[command(subcommand)]
    Template(template::Template),
    /// An agent of a template, running at once
    #[command(after_help = "Example:\n  gpve-agentrt claim search -- -c 'print(\"hello\")'")]
    Claim(template::Claim),
    /// Agents that go on from where another one waits
    #[command(after_help = "Example:\n  gpve-agentrt fork my-agent -n 8")]
    Fork(fork::Fork),
    /// Let leased agents run on this host for so many seconds from now, if they may not for longer already
    #[command(after_help = "Example:\n  gpve-agentrt lease 15")]
    Lease(act::Lease),
    /// Images that agents' roots can be made of; needs no daemon
    #[command(subcommand)]
    Image(image::Image),
    /// Check and explain policies; needs no daemon
    #[command(subcommand)]
    Policy(policy::Policy),
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Daemon(args) => serve::daemon(args, cli.socket),
        Command::EgressProxy(args) => serve::egress_proxy(args),
        Command::Policy(command) => policy::policy(command),
        Command::Image(command) => image::image(command),
        command => talk(cli.socket, command),
    };
    match result {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("gpve-agentrt: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// What is said to the daemon.
fn talk(socket: PathBuf, command: Command) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(async {
        let client = client::connect(&socket).await?;
        command.carry_out(client).await
    });
    // A thread that reads the standard input would keep us from ending.
    runtime.shutdown_background();
    result
}

impl Command {
    async fn carry_out(self, mut client: Client) -> Result<ExitCode, String> {
        match self {
            Command::Run(args) => run::run(&mut client, args).await,
            Command::Exec(args) => run::exec(&mut client, args).await,
            Command::Forward(args) => forward::forward(&mut client, args).await,
            Command::Ps(args) => show::ps(&mut client, args).await,
            Command::Stats(args) => show::stats(&mut client, args).await,
            Command::Logs(args) => show::logs(&mut client, args).await,
            Command::Events(args) => show::events(&mut client, args).await,
            Command::Start(args) => act::start(&mut client, args).await,
            Command::Stop(args) => act::stop(&mut client, args).await,
            Command::Kill(args) => act::kill(&mut client, args).await,
            Command::Rm(args) => act::rm(&mut client, args).await,
            Command::Pause(args) => act::pause(&mut client, args).await,
            Command::Resume(args) => act::resume(&mut client, args).await,
            Command::Template(command) => template::template(&mut client, command).await,
            Command::Claim(args) => template::claim(&mut client, args).await,
            Command::Lease(args) => act::lease(&mut client, args).await,
            Command::Fork(args) => fork::fork(&mut client, args).await,
            Command::Daemon(_) | Command::EgressProxy(_) | Command::Policy(_) | Command::Image(_) => {
                unreachable!("they do not talk to a daemon")
            }
        }
    }
}
