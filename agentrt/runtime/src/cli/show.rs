//! Lists, figures, output, events.

use super::client::{Client, json, said};
use crate::pb;
use crate::words;
use clap::Args;
use std::io::Write;
use std::process::ExitCode;

type Done = Result<ExitCode, String>;

#[derive(Args)]
pub struct Ps {
    /// Only agents with this label (NAME=VALUE); may be given again
    #[arg(long, short)]
    label: Vec<String>,
    /// One JSON object a line, complete
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Stats {
    /// Agents [default: all that run]
    ids: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Logs {
    /// Agent
    id: String,
    /// Go on until it has ended for good
    #[arg(long, short)]
    follow: bool,
    /// Only about this many bytes from the end
    #[arg(long, default_value_t = 0)]
    tail: u64,
}

#[derive(Args)]
pub struct Events {
    /// Go on as events come
    #[arg(long, short)]
    follow: bool,
    /// After this sequence number [default: from the oldest kept]
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Of one agent
    #[arg(long)]
    id: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub async fn ps(client: &mut Client, args: Ps) -> Done {
    let labels = super::given::pairs("label", &args.label)?;
    let request = pb::ListRequest { labels, full: args.json, ..Default::default() };
    let agents = client.list(request).await.map_err(said)?.into_inner().agents;
    if args.json {
        for agent in &agents {
            println!("{}", json(agent)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24} {:<10} {:<6} {:>8} {:<24} PROGRAM", "AGENT", "STATE", "READY", "RESTARTS", "LAST END");
    for agent in agents {
        let last = agent.last_exit.as_ref().map(|e| match e.code {
            0 => words::reason::word(e.reason),
            code => format!("{} ({code})", words::reason::word(e.reason)),
        });
        let ready = if agent.ready { "yes" } else { "no" };
        println!(
            "{:<24} {:<10} {ready:<6} {:>8} {:<24} {}",
            agent.id,
            words::state::word(agent.state),
            agent.restarts,
            last.unwrap_or_default(),
            agent.argv.join(" ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn stats(client: &mut Client, args: Stats) -> Done {
    let reply = client.stats(pb::StatsRequest { ids: args.ids }).await.map_err(said)?.into_inner();
    if args.json {
        println!("{}", json(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24} {:>10} {:>10} {:>10} {:>6} {:>10} LIMITS HIT", "AGENT", "CPU s", "MEMORY", "PEAK", "PIDS", "LOG");
    for s in reply.stats {
        let hits: Vec<_> = s.limit_hits.iter().map(|(name, n)| format!("{name} {n}")).collect();
        println!(
            "{:<24} {:>10.2} {:>10} {:>10} {:>6} {:>10} {}",
            s.id,
            s.cpu_ns as f64 / 1e9,
            size(s.memory_bytes),
            size(s.memory_peak_bytes),
            s.pids,
            size(s.log_bytes),
            hits.join(", ")
        );
    }
    let daemon = reply.daemon.unwrap_or_default();
    println!(
        "daemon: {} of memory, {} open files, {} agents, spawners restarted {} times",
        size(daemon.resident_bytes),
        daemon.open_files,
        daemon.agents,
        daemon.spawner_restarts
    );
    Ok(ExitCode::SUCCESS)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

pub async fn logs(client: &mut Client, args: Logs) -> Done {
    let request = pb::LogsRequest { id: args.id, follow: args.follow, tail_bytes: args.tail, from: 0 };
    let mut stream = client.logs(request).await.map_err(said)?.into_inner();
    while let Some(chunk) = stream.message().await.map_err(said)? {
        print_chunk(&chunk)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Output where it belongs; notes of the runtime among the errors.
pub fn print_chunk(chunk: &pb::LogChunk) -> Result<(), String> {
    use pb::log_chunk::Stream;
    let written = match chunk.stream() {
        Stream::Stdout => std::io::stdout().write_all(&chunk.data).and_then(|()| std::io::stdout().flush()),
        Stream::Runtime => {
            std::io::stderr().write_all(b"gpve-agentrt: ").and_then(|()| std::io::stderr().write_all(&chunk.data))
        }
        _ => std::io::stderr().write_all(&chunk.data),
    };
    written.map_err(|e| e.to_string())
}

pub async fn events(client: &mut Client, args: Events) -> Done {
    let request =
        pb::EventsRequest { after: args.after, follow: args.follow, id: args.id.unwrap_or_default(), from_now: false };
    let mut stream = client.events(request).await.map_err(said)?.into_inner();
    while let Some(event) = stream.message().await.map_err(said)? {
        if args.json {
            println!("{}", json(&event)?);
        } else {
            println!("{:>8}  {:<24} {:<11} {}", event.seq, event.agent, event.kind, event.detail);
        }
    }
    Ok(ExitCode::SUCCESS)
}
