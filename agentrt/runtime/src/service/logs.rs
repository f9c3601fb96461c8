//! Logs and Attach: an agent's output from its segments, and its standard input by a FIFO.

use super::{Replies, view};
use crate::agent::{Command, Grant, Shared};
use crate::context::Context;
use crate::fault::{Fault, failed_in, internal, precondition};
use crate::logs::Stream as LogStream;
use crate::logs::reader::{Batch, Frame, Reader};
use crate::pb;
use crate::pb::log_chunk::Stream as PbStream;
use crate::state::State;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

pub async fn logs(context: Arc<Context>, request: pb::LogsRequest) -> Result<Response<Replies<pb::LogChunk>>, Status> {
    let agent = context.agent(&request.id)?;
    let (tx, rx) = mpsc::channel(8);
    let mut follower = Follower::new(context, agent, request.from);
    if request.tail_bytes > 0 {
        follower.tail(request.tail_bytes)?;
    }
    tokio::spawn(async move {
        loop {
            let batch = match follower.next(request.follow).await {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(fault) => return drop(tx.send(Err(fault.into())).await),
            };
            if batch.forgotten > 0 && tx.send(Ok(forgotten(&batch))).await.is_err() {
                return;
            }
            for frame in batch.frames {
                if tx.send(Ok(chunk(frame))).await.is_err() {
                    return;
                }
            }
            if tx.is_closed() {
                return;
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
}

fn chunk(frame: Frame) -> pb::LogChunk {
    let stream = match frame.stream {
        LogStream::Stdout => PbStream::Stdout,
        LogStream::Stderr => PbStream::Stderr,
        LogStream::Runtime => PbStream::Runtime,
    };
    pb::LogChunk { stream: stream as i32, data: frame.data, at_unix_ms: frame.unix_ms, next: frame.next }
}

fn forgotten(batch: &Batch) -> pb::LogChunk {
    let note = format!("{} bytes forgotten: the log is bounded\n", batch.forgotten);
    pb::LogChunk {
        stream: PbStream::Runtime as i32,
        data: note.into_bytes(),
        at_unix_ms: crate::clock::unix_ms(),
        next: batch.next,
    }
}

/// Reads an agent's log, and waits for more.
struct Follower {
    context: Arc<Context>,
    agent: Arc<Shared>,
    reader: Option<Reader>,
    at: u64,
    subscription: Option<crate::logs::follow::Subscription>,
}

impl Follower {
    fn new(context: Arc<Context>, agent: Arc<Shared>, at: u64) -> Follower {
        Follower { context, agent, reader: None, at, subscription: None }
    }

    fn open(&mut self) -> Result<Option<&Reader>, Fault> {
        if self.reader.is_none() {
            self.reader = Reader::open(&self.agent.dir)
                .map_err(|e| internal(format!("agent {}: its log: {e}", self.agent.id)))?;
        }
        Ok(self.reader.as_ref())
    }

    fn tail(&mut self, bytes: u64) -> Result<(), Fault> {
        if let Some(reader) = self.open()? {
            let at = reader.tail(bytes).map_err(|e| internal(e.to_string()))?;
            self.at = self.at.max(at);
        }
        Ok(())
    }

    /// The next frames. None at the end: there is no more, and (when following) the agent has ended for good.
    async fn next(&mut self, follow: bool) -> Result<Option<Batch>, Fault> {
        let mut changes = self.agent.watch();
        loop {
            if follow && self.subscription.is_none() && self.open()?.is_some() {
                // Before reading, so that what is written between reading and waiting wakes us.
                let status = self.agent.dir.join("status");
                self.subscription = self.context.follow.subscribe(&status).ok();
            }
            changes.borrow_and_update();
            // Looked at before reading: after the end nothing is written any more.
            let state = self.agent.state();
            let at = self.at;
            if let Some(reader) = self.open()? {
                let batch = reader.read(at).map_err(|e| internal(e.to_string()))?;
                self.at = batch.next;
                if !batch.frames.is_empty() || batch.forgotten > 0 {
                    return Ok(Some(batch));
                }
            }
            if !follow || matches!(state, State::Exited | State::Deleting) {
                return Ok(None);
            }
            let written = async {
                match &mut self.subscription {
                    Some(subscription) => subscription.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = written => {}
                changed = changes.changed() => if changed.is_err() { return Ok(None) },
            }
        }
    }
}

pub async fn attach(
    context: Arc<Context>,
    mut input: Streaming<pb::AttachRequest>,
) -> Result<Response<Replies<pb::AttachReply>>, Status> {
    use pb::attach_request::Message as In;
    let begin = match input.next().await {
        Some(Ok(pb::AttachRequest { message: Some(In::Begin(begin)) })) => begin,
        _ => return Err(Status::invalid_argument("attach: the first message must say to which agent")),
    };
    let agent = context.agent(&begin.id)?;
    let grant = enter(&agent).await?;
    let mut follower = Follower::new(context, agent.clone(), 0);
    if let Some(reader) = follower.open()? {
        follower.at = reader.end().map_err(|e| Status::internal(e.to_string()))?;
    }
    let stdin = if agent.spec.stdin {
        let path = agent.dir.join("stdin");
        let say = |e: std::io::Error| failed_in(&agent.id, &format!("its standard input cannot be opened: {e}"));
        Some(pipe::OpenOptions::new().open_sender(path).map_err(say)?)
    } else {
        None
    };
    let (tx, rx) = mpsc::channel(8);
    tokio::spawn(feed(agent.clone(), stdin, input, tx.clone()));
    tokio::spawn(show(agent, grant, follower, tx));
    Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
}

pub(super) async fn enter(agent: &Arc<Shared>) -> Result<Grant, Fault> {
    let (tx, rx) = oneshot::channel();
    agent.send(Command::Enter(tx)).await?;
    rx.await.map_err(|_| precondition(format!("agent {} was deleted meanwhile", agent.id)))?
}

async fn feed(
    agent: Arc<Shared>,
    stdin: Option<pipe::Sender>,
    mut input: Streaming<pb::AttachRequest>,
    tx: mpsc::Sender<Result<pb::AttachReply, Status>>,
) {
    use pb::attach_request::Message as In;
    let mut stdin = stdin;
    while let Some(Ok(message)) = input.next().await {
        let Some(In::Stdin(data)) = message.message else { continue };
        let written = match &mut stdin {
            Some(pipe) => {
                pipe.write_all(&data).await.map_err(|e| failed_in(&agent.id, &format!("its standard input: {e}")))
            }
            None => Err(precondition(format!("agent {} was created without a standard input (spec.stdin)", agent.id))),
        };
        if let Err(fault) = written {
            return drop(tx.send(Err(fault.into())).await);
        }
    }
}

/// Output until this run ends, then how it ended.
async fn show(
    agent: Arc<Shared>,
    grant: Grant,
    mut follower: Follower,
    tx: mpsc::Sender<Result<pb::AttachReply, Status>>,
) {
    use pb::attach_reply::Message as Out;
    let mut changes = agent.watch();
    let over = |agent: &Shared| {
        let record = agent.record();
        record.run != grant.run || !matches!(record.state, State::Running | State::Paused | State::Stopping)
    };
    loop {
        let ended = over(&agent);
        let batch = tokio::select! {
            batch = follower.next(!ended) => batch,
            changed = changes.changed() => {
                if changed.is_err() { return }
                continue;
            }
            () = tx.closed() => return,
        };
        match batch {
            Ok(Some(batch)) => {
                for frame in batch.frames {
                    let message = match frame.stream {
                        LogStream::Stderr => Out::Stderr(frame.data),
                        LogStream::Stdout | LogStream::Runtime => Out::Stdout(frame.data),
                    };
                    if tx.send(Ok(pb::AttachReply { message: Some(message) })).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => {
                let exit = agent.record().last_exit.as_ref().map(view::exit).unwrap_or_default();
                let _ = tx.send(Ok(pb::AttachReply { message: Some(Out::Exit(exit)) })).await;
                return;
            }
            Err(fault) => return drop(tx.send(Err(fault.into())).await),
        }
    }
}
