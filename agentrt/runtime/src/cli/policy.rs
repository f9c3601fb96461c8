//! `gpve-agentrt policy`: what a policy says, and what this host can enforce of it.

use super::client::json;
use agent_kernel::explain::{Access, explain};
use agent_kernel::{Host, Policy as Document, compile};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Policy {
    /// Read a policy and compile it for this host: every mistake, with its place
    #[command(after_help = "Example:\n  gpve-agentrt policy check agent.toml")]
    Check(Check),
    /// Would it be allowed? Which layer denies it, and how to allow it
    #[command(
        after_help = "Example:\n  gpve-agentrt policy explain agent.toml read /etc/passwd\n  gpve-agentrt policy explain agent.toml call ptrace"
    )]
    Explain(Explain),
}

#[derive(Args)]
pub struct Check {
    /// Policy document (TOML or JSON)
    file: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Explain {
    /// Policy document (TOML or JSON)
    file: PathBuf,
    /// read, write, execute, connect, bind, call, capability
    verb: String,
    /// A path, host:port, port, name of a call or of a capability
    object: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn policy(command: Policy) -> Result<ExitCode, String> {
    match command {
        Policy::Check(args) => check(args),
        Policy::Explain(args) => explanation(args),
    }
}

fn check(args: Check) -> Result<ExitCode, String> {
    let place = args.file.display();
    let document = Document::from_file(&args.file).map_err(|e| format!("{place}: {e}"))?;
    let plan = compile(&document, &Host::probe()).map_err(|e| format!("{place}: {e}"))?;
    if args.json {
        println!("{}", json(&plan)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{place}: can be enforced on this host, at level {:?}", plan.level);
    for missing in &plan.missing {
        println!("  optional and not available: {:?}: {}", missing.layer, missing.why);
    }
    Ok(ExitCode::SUCCESS)
}

fn explanation(args: Explain) -> Result<ExitCode, String> {
    let document = Document::from_file(&args.file).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let access = Access::parse(&args.verb, &args.object)?;
    let answer = explain(&document, &access);
    if args.json {
        println!("{}", json(&answer)?);
    } else {
        let word = if answer.allowed { "allowed" } else { "denied" };
        println!("{} {}: {word} ({}): {}", args.verb, args.object, answer.layer, answer.why);
        if let Some(way) = &answer.to_allow {
            println!("to allow it: {way}");
        }
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
