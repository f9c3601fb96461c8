//! `gpve-agentrt fork`.

use super::client::{Client, json, said};
use super::given::pairs;
use crate::pb;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub struct Fork {
    /// An agent that waits at a checkpoint
    id: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// Label of the forks (NAME=VALUE); may be given again
    #[arg(long, short)]
    label: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn fork(client: &mut Client, args: Fork) -> Result<ExitCode, String> {
    let labels = pairs("label", &args.label)?;
    let request = pb::ForkRequest { id: args.id, count: args.count, labels, ..Default::default() };
    for agent in client.fork(request).await.map_err(said)?.into_inner().agents {
        println!("{}", if args.json { json(&agent)? } else { agent.id });
    }
    Ok(ExitCode::SUCCESS)
}
