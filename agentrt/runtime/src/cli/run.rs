//! `run` and `exec`: programs whose output and exit code become ours.

use super::client::{Client, json, said};
use super::given::{bytes, pairs, secrets};
use super::screen;
use super::show::print_chunk;
use crate::pb;
use crate::words;
use clap::{Args, ValueEnum};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Done = Result<ExitCode, String>;

#[derive(Clone, Copy, ValueEnum)]
enum Restart {
    Never,
    OnFailure,
    Always,
}

#[derive(Args)]
pub struct Run {
    /// The agent's id [default: made up]
    #[arg(long)]
    id: Option<String>,
    /// Policy document [default: deny everything that is not needed to run]
    #[arg(long, short)]
    policy: Option<PathBuf>,
    /// Variable for the program (NAME=VALUE); may be given again
    #[arg(long, short)]
    env: Vec<String>,
    /// Label (NAME=VALUE); may be given again
    #[arg(long, short)]
    label: Vec<String>,
    /// A secret that the policy names in network.secrets (NAME=FILE): the agent gets a placeholder; may be given again
    #[arg(long)]
    secret: Vec<String>,
    /// Bytes of memory, also as 256K, 256M, 2G
    #[arg(long, value_parser = bytes, default_value = "0", hide_default_value = true)]
    memory: u64,
    /// Thousandths of a CPU
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    cpu_milli: u32,
    /// Processes and threads
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pids: u32,
    /// When to start it again
    #[arg(long, value_enum, default_value = "never")]
    restart: Restart,
    /// Milliseconds that it lives at most
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ttl_ms: u64,
    /// Pause it after this many idle milliseconds
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    idle_pause_ms: u64,
    /// Run it only while this host has a lease (see `lease`)
    #[arg(long)]
    leased: bool,
    #[command(flatten)]
    then: Then,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    argv: Vec<String>,
}

/// What becomes of an agent that has been started.
#[derive(Args)]
pub struct Then {
    /// Print its id and leave it to itself
    #[arg(long, short)]
    detach: bool,
    /// Delete it when it has ended
    #[arg(long)]
    rm: bool,
    /// As JSON (with --detach)
    #[arg(long, requires = "detach")]
    json: bool,
}

impl Then {
    /// Prints the agent's id, or shows its output until it has ended, as is wished.
    pub async fn go_on(self, client: &mut Client, agent: pb::Agent) -> Done {
        if self.detach {
            println!("{}", if self.json { json(&agent)? } else { agent.id });
            return Ok(ExitCode::SUCCESS);
        }
        follow_to_the_end(client, agent.id, self.rm).await
    }
}

#[derive(Args)]
pub struct Exec {
    /// Agent
    id: String,
    /// Give it our standard input
    #[arg(long, short)]
    interactive: bool,
    /// Give it a terminal, of the size of ours
    #[arg(long, short)]
    tty: bool,
    /// Variable for the program (NAME=VALUE); may be given again
    #[arg(long, short)]
    env: Vec<String>,
    /// Milliseconds after which it is killed
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    timeout_ms: u64,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    argv: Vec<String>,
}

pub async fn run(client: &mut Client, args: Run) -> Done {
    use pb::restart_policy::When;
    let policy = match &args.policy {
        Some(file) => std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?,
        None => String::new(),
    };
    let when = match args.restart {
        Restart::Never => When::Never,
        Restart::OnFailure => When::OnFailure,
        Restart::Always => When::Always,
    };
    let spec = pb::AgentSpec {
        policy,
        argv: args.argv,
        env: pairs("env", &args.env)?,
        labels: pairs("label", &args.label)?,
        limits: Some(pb::Limits { memory_bytes: args.memory, cpu_milli: args.cpu_milli, pids: args.pids }),
        restart: Some(pb::RestartPolicy { when: when as i32, ..Default::default() }),
        ttl_ms: args.ttl_ms,
        idle_pause_ms: args.idle_pause_ms,
        leased: args.leased,
        ..Default::default()
    };
    let (id, secrets) = (args.id.unwrap_or_default(), secrets(&args.secret)?);
    let request = pb::CreateRequest { id, spec: Some(spec), secrets, ..Default::default() };
    let created = client.create(request).await.map_err(said)?.into_inner().agent.unwrap_or_default();
    let id = created.id;
    let started = match client.start(pb::StartRequest { id: id.clone(), ..Default::default() }).await {
        Ok(reply) => reply.into_inner().agent.unwrap_or_default(),
        Err(status) => {
            // Nothing is left of what came to nothing.
            let _ = client.delete(pb::DeleteRequest { id, force: true, ..Default::default() }).await;
            return Err(said(status));
        }
    };
    args.then.go_on(client, started).await
}

/// Shows an agent's output until it has ended, and ends as it did; Ctrl-C stops it.
async fn follow_to_the_end(client: &mut Client, id: String, remove: bool) -> Done {
    let request = pb::LogsRequest { id: id.clone(), follow: true, ..Default::default() };
    let mut stream = client.logs(request).await.map_err(said)?.into_inner();
    let ended = async {
        while let Some(chunk) = stream.message().await.map_err(said)? {
            print_chunk(&chunk)?;
        }
        let reply = client.wait(pb::WaitRequest { id: id.clone(), ..Default::default() }).await.map_err(said)?;
        Ok::<_, String>(reply.into_inner().agent.unwrap_or_default())
    };
    let agent = tokio::select! {
        agent = ended => agent?,
        _ = tokio::signal::ctrl_c() => client
            .stop(pb::StopRequest { id: id.clone(), ..Default::default() })
            .await
            .map_err(said)?
            .into_inner()
            .agent
            .unwrap_or_default(),
    };
    if remove {
        client.delete(pb::DeleteRequest { id, force: true, ..Default::default() }).await.map_err(said)?;
    }
    Ok(code_of(&agent.last_exit.unwrap_or_default()))
}

/// Its code, as a shell has it; what did not end by itself says why.
fn code_of(exit: &pb::Exit) -> ExitCode {
    if !matches!(exit.reason(), pb::ExitReason::Exited | pb::ExitReason::Stopped) {
        eprintln!("gpve-agentrt: it ended by {}: {}", words::reason::word(exit.reason), exit.detail);
    }
    let code = if exit.signal > 0 { 128 + exit.signal } else { exit.code };
    ExitCode::from(code as u8)
}

pub async fn exec(client: &mut Client, args: Exec) -> Done {
    use pb::exec_reply::Message as Out;
    use pb::exec_request::Message as In;
    let size = if args.tty { screen::size() } else { (0, 0) };
    let begin = pb::exec_request::Begin {
        id: args.id,
        argv: args.argv,
        env: pairs("env", &args.env)?,
        stdin: args.interactive,
        timeout_ms: args.timeout_ms,
        tty: args.tty,
        rows: size.0,
        cols: size.1,
        ..Default::default()
    };
    let (tx, rx) = mpsc::channel(8);
    let message = |m| pb::ExecRequest { message: Some(m) };
    tx.send(message(In::Begin(begin))).await.map_err(|e| e.to_string())?;
    let _raw = (args.tty && args.interactive).then(screen::Raw::enter);
    if args.tty {
        tokio::spawn(screen::follow(tx.clone()));
    }
    if args.interactive {
        let tx = tx.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0u8; 32 * 1024];
            while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
                if tx.blocking_send(message(In::Stdin(buffer[..n].to_vec()))).is_err() {
                    return;
                }
            }
            let _ = tx.blocking_send(message(In::StdinClosed(true)));
        });
    }
    let mut replies = client.exec(ReceiverStream::new(rx)).await.map_err(said)?.into_inner();
    let mut code = ExitCode::FAILURE;
    while let Some(reply) = replies.message().await.map_err(said)? {
        let written = match reply.message {
            Some(Out::Stdout(data)) => std::io::stdout().write_all(&data).and_then(|()| std::io::stdout().flush()),
            Some(Out::Stderr(data)) => std::io::stderr().write_all(&data),
            Some(Out::Exit(exit)) => {
                code = code_of(&exit);
                Ok(())
            }
            Some(Out::Started(_)) | None => Ok(()),
        };
        written.map_err(|e| e.to_string())?;
    }
    drop(tx);
    Ok(code)
}
