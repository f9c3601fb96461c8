//! Verbs that say nothing but that they are done.

use super::client::{Client, said};
use crate::pb;
use clap::Args;
use std::process::ExitCode;

type Done = Result<ExitCode, String>;

#[derive(Args)]
pub struct Ids {
    /// Agents
    #[arg(required = true)]
    ids: Vec<String>,
}

#[derive(Args)]
pub struct Stop {
    /// Milliseconds before it is killed [default: the agent's own]
    #[arg(long)]
    grace_ms: Option<u64>,
    /// Agents
    #[arg(required = true)]
    ids: Vec<String>,
}

#[derive(Args)]
pub struct Kill {
    /// Number of a signal for the program alone [default: end all of it]
    #[arg(long, default_value_t = 0)]
    signal: i32,
    /// Agents
    #[arg(required = true)]
    ids: Vec<String>,
}

#[derive(Args)]
pub struct Rm {
    /// End it first
    #[arg(long, short)]
    force: bool,
    /// Agents
    #[arg(required = true)]
    ids: Vec<String>,
}

#[derive(Args)]
pub struct Lease {
    /// At most an hour; whoever keeps agents running renews it well before its end
    seconds: f64,
}

pub async fn lease(client: &mut Client, args: Lease) -> Done {
    let until_boottime_ms = crate::clock::boottime_ms().saturating_add((args.seconds * 1000.0) as u64);
    client.extend_lease(pb::ExtendLeaseRequest { until_boottime_ms }).await.map_err(said)?;
    Ok(ExitCode::SUCCESS)
}

pub async fn start(client: &mut Client, args: Ids) -> Done {
    for id in args.ids {
        client.start(pb::StartRequest { id, ..Default::default() }).await.map_err(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn stop(client: &mut Client, args: Stop) -> Done {
    for id in args.ids {
        client.stop(pb::StopRequest { id, grace_ms: args.grace_ms, ..Default::default() }).await.map_err(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn kill(client: &mut Client, args: Kill) -> Done {
    for id in args.ids {
        client.kill(pb::KillRequest { id, signal: args.signal, ..Default::default() }).await.map_err(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn rm(client: &mut Client, args: Rm) -> Done {
    for id in args.ids {
        client.delete(pb::DeleteRequest { id, force: args.force, ..Default::default() }).await.map_err(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn pause(client: &mut Client, args: Ids) -> Done {
    for id in args.ids {
        client.pause(pb::PauseRequest { id, ..Default::default() }).await.map_err(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn resume(client: &mut Client, args: Ids) -> Done {
    for id in args.ids {
        client.resume(pb::ResumeRequest { id, ..Default::default() }).await.map_err(said)?;
    }
    Ok(ExitCode::SUCCESS)
}
