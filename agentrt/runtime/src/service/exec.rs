//! Exec: one more program in a running agent, its three streams over the call.

use super::logs::enter;
use super::{Replies, view};
use crate::agent::Command;
use crate::context::Context;
use crate::exec::{Child, ExecPlan, spawn};
use crate::fault::{Fault, invalid, precondition};
use crate::pb;
use crate::pb::exec_reply::Message as Out;
use crate::pb::exec_request::{Begin, Message as In};
use crate::spawner::protocol::Program;
use crate::store::requests::{Begun, Outcome, Ticket, ended, fingerprint};
use crate::terminal::Terminal;
use prost::Message;
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

type Reply = Result<pb::ExecReply, Status>;

/// How long output is still read after the program ended: others may hold its pipes open for ever.
const DRAIN_MS: u64 = 500;

pub async fn exec(
    context: Arc<Context>,
    mut input: Streaming<pb::ExecRequest>,
) -> Result<Response<Replies<pb::ExecReply>>, Status> {
    let begin = match input.next().await {
        Some(Ok(pb::ExecRequest { message: Some(In::Begin(begin)) })) => begin,
        _ => return Err(Status::invalid_argument("exec: the first message must say what to run, and where")),
    };
    check(&begin)?;
    let body = super::body!(begin);
    let (tx, rx) = mpsc::channel(16);
    match context.requests.begin(&begin.request_id, "exec", body)? {
        Begun::Known(outcome) => {
            // It ran, or runs: never twice. Its output went to the first caller.
            let exit = match ended(outcome).await? {
                Outcome::Ran(exit) => view::exit(&exit),
                Outcome::Failed(fault) => return Err(fault.into()),
                _ => return Err(Status::internal("the request was another")),
            };
            let _ = tx.send(Ok(pb::ExecReply { message: Some(Out::Exit(exit)) })).await;
        }
        Begun::Fresh(ticket, _) => match begin_run(&context, &begin, &ticket).await {
            Ok(run) => drop(tokio::spawn(carry(context, run, ticket, input, tx))),
            Err(fault) => {
                ticket.end(Outcome::Failed(fault.clone()));
                return Err(fault.into());
            }
        },
    }
    Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
}

fn check(begin: &Begin) -> Result<(), Fault> {
    if begin.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("argv: the program to run is missing"));
    }
    if let Some(bad) = begin.argv.iter().chain(begin.env.keys()).chain(begin.env.values()).find(|t| t.contains('\0')) {
        return Err(invalid(format!("{bad:?} contains a NUL byte, which no program can be given")));
    }
    Ok(())
}

struct Run {
    child: Child,
    streams: Streams,
    timeout: Option<Duration>,
    grant: crate::agent::Grant,
}

/// Our sides of what the program reads and writes.
enum Streams {
    Pipes { stdin: Option<pipe::Sender>, stdout: pipe::Receiver, stderr: pipe::Receiver },
    Terminal(Arc<Terminal>),
}

impl Streams {
    /// Ours, and those of the program: standard input, output and error.
    fn open(begin: &Begin, grant: &crate::agent::Grant) -> std::io::Result<(Streams, [OwnedFd; 3])> {
        if begin.tty {
            let (ours, theirs) = Terminal::open(grant.pid, grant.owner)?;
            ours.resize(begin.rows, begin.cols);
            return Ok((Streams::Terminal(Arc::new(ours)), [theirs.try_clone()?, theirs.try_clone()?, theirs]));
        }
        let (stdin, stdin_read) = if begin.stdin {
            let (tx, rx) = pipe::pipe()?;
            (Some(tx), rx.into_blocking_fd()?)
        } else {
            (None, OwnedFd::from(std::fs::File::open("/dev/null")?))
        };
        let (stdout_write, stdout) = pipe::pipe()?;
        let (stderr_write, stderr) = pipe::pipe()?;
        let theirs = [stdin_read, stdout_write.into_blocking_fd()?, stderr_write.into_blocking_fd()?];
        Ok((Streams::Pipes { stdin, stdout, stderr }, theirs))
    }
}

async fn begin_run(context: &Arc<Context>, begin: &Begin, ticket: &Ticket) -> Result<Run, Fault> {
    let agent = context.agent(&begin.id)?;
    if !context.host.root {
        // Init hides its memory, and with it, from all but root, the way into its namespaces.
        return Err(precondition(format!("agent {}: only a daemon that is root can enter sandboxes", agent.id)));
    }
    let grant = enter(&agent).await?;
    let what = if begin.tty { "a terminal" } else { "a pipe" };
    let io = |e: std::io::Error| crate::fault::failed_in(&agent.id, &format!("{what} cannot be made: {e}"));
    let (streams, stdio) = Streams::open(begin, &grant).map_err(io)?;
    // Written down before it runs: a daemon that dies now must not run it again.
    if let Some(note) = ticket.note(None) {
        context
            .journal
            .append_request(&note)
            .map_err(|e| crate::fault::internal(format!("the journal cannot be written: {e}")))?;
    }
    let mut env: std::collections::BTreeMap<_, _> = grant.env.iter().cloned().collect();
    env.extend(begin.env.clone());
    let program = Program {
        plan: grant.plan.key,
        who: grant.who.clone(),
        cgroup: grant.cgroup.clone(),
        argv: begin.argv.clone(),
        env: env.into_iter().collect(),
        cwd: if begin.cwd.is_empty() { agent.spec.cwd.clone() } else { begin.cwd.clone() },
    };
    let pidfd = grant.pidfd.try_clone().map_err(io)?;
    let plan = ExecPlan { plan: grant.plan.clone(), pidfd, program, tty: begin.tty };
    let child = spawn(&grant.spawner, &agent.id, plan, stdio).await?;
    let _ = agent.send(Command::Note { kind: "exec", detail: begin.argv.join(" ") }).await;
    let timeout = (begin.timeout_ms > 0).then(|| Duration::from_millis(begin.timeout_ms));
    Ok(Run { child, streams, timeout, grant })
}

/// Carries streams until the program has ended. A caller who hangs up takes the program with him.
async fn carry(
    context: Arc<Context>,
    run: Run,
    ticket: Ticket,
    input: Streaming<pb::ExecRequest>,
    tx: mpsc::Sender<Reply>,
) {
    let Run { child, streams, timeout, grant } = run;
    let child = Arc::new(child);
    let _ = tx.send(Ok(pb::ExecReply { message: Some(Out::Started(child.pid)) })).await;
    let (feeding, pumping) = match streams {
        Streams::Pipes { stdin, stdout, stderr } => {
            let out = pump(stdout, tx.clone(), Out::Stdout);
            let err = pump(stderr, tx.clone(), Out::Stderr);
            let both = async { (tokio::join!(out, err), ()).1 };
            (tokio::spawn(feed(child.clone(), stdin, input)), tokio::spawn(both))
        }
        Streams::Terminal(terminal) => {
            let typing = type_in(child.clone(), terminal.clone(), input);
            (tokio::spawn(typing), tokio::spawn(show(terminal, tx.clone())))
        }
    };
    let deadline = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut exit = tokio::select! {
        exit = child.ended() => exit,
        () = deadline => {
            child.kill();
            let mut exit = child.ended().await;
            exit.reason = crate::state::Reason::Limit;
            exit.detail = format!("timeout: it did not end within {} ms", timeout.unwrap_or_default().as_millis());
            exit
        }
        () = tx.closed() => {
            child.kill();
            child.ended().await
        }
    };
    exit.at_unix_ms = crate::clock::unix_ms();
    feeding.abort();
    let _ = tokio::time::timeout(Duration::from_millis(DRAIN_MS), pumping).await;
    let outcome = Outcome::Ran(exit.clone());
    if let Some(note) = ticket.note(Some(outcome.clone()))
        && let Err(e) = context.journal.append_request(&note)
    {
        eprintln!("request {}: its end cannot be written: {e}", note.id);
    }
    ticket.end(outcome);
    let _ = tx.send(Ok(pb::ExecReply { message: Some(Out::Exit(view::exit(&exit))) })).await;
    drop(grant);
}

async fn feed(child: Arc<Child>, mut stdin: Option<pipe::Sender>, mut input: Streaming<pb::ExecRequest>) {
    while let Some(Ok(message)) = input.next().await {
        match message.message {
            Some(In::Stdin(data)) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&data).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(In::StdinClosed(_)) => stdin = None,
            Some(In::Signal(signal)) => send(&child, signal),
            Some(In::Begin(_) | In::Window(_)) | None => {}
        }
    }
    // The caller has said all: so does the pipe.
    drop(stdin);
}

fn send(child: &Child, signal: i32) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        child.signal(signal);
    }
}

/// The caller's words, typed: what ends an input here is the character that a terminal has for it.
async fn type_in(child: Arc<Child>, terminal: Arc<Terminal>, mut input: Streaming<pb::ExecRequest>) {
    const END_OF_INPUT: &[u8] = b"\x04";
    while let Some(Ok(message)) = input.next().await {
        let typed = match message.message {
            Some(In::Stdin(data)) => terminal.write_all(&data).await,
            Some(In::StdinClosed(_)) => terminal.write_all(END_OF_INPUT).await,
            Some(In::Signal(signal)) => {
                send(&child, signal);
                Ok(())
            }
            Some(In::Window(window)) => {
                terminal.resize(window.rows, window.cols);
                Ok(())
            }
            Some(In::Begin(_)) | None => Ok(()),
        };
        if typed.is_err() {
            return;
        }
    }
}

async fn show(terminal: Arc<Terminal>, tx: mpsc::Sender<Reply>) {
    let mut buffer = vec![0u8; 32 * 1024];
    while let Ok(n @ 1..) = terminal.read(&mut buffer).await {
        let message = Some(Out::Stdout(buffer[..n].to_vec()));
        if tx.send(Ok(pb::ExecReply { message })).await.is_err() {
            return;
        }
    }
}

async fn pump(mut from: pipe::Receiver, tx: mpsc::Sender<Reply>, wrap: fn(Vec<u8>) -> Out) {
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                let message = Some(wrap(buffer[..n].to_vec()));
                if tx.send(Ok(pb::ExecReply { message })).await.is_err() {
                    return;
                }
            }
        }
    }
}
