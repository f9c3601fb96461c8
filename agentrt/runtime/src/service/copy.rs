//! CopyIn and CopyOut: tar streams into and out of an agent's workspace.

use super::Replies;
use crate::agent::{Command, Place, Shared, blocking};
use crate::context::Context;
use crate::fault::{Fault, exhausted, failed_in, invalid, precondition};
use crate::pb;
use crate::store::requests::{Begun, Outcome, ended, fingerprint};
use agent_kernel::archive::Limits;
use agent_kernel::copy;
use pb::copy_in_request::Message as In;
use prost::Message;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// Bytes of one message of CopyOut.
const CHUNK: usize = 256 * 1024;

pub async fn copy_in(
    context: Arc<Context>,
    mut input: Streaming<pb::CopyInRequest>,
) -> Result<Response<pb::CopyInReply>, Status> {
    let begin = match input.next().await {
        Some(Ok(pb::CopyInRequest { message: Some(In::Begin(begin)) })) => begin,
        _ => return Err(Status::invalid_argument("copy-in: the first message must say where to")),
    };
    let outcome = match context.requests.begin(&begin.request_id, "copy-in", super::body!(begin))? {
        Begun::Known(outcome) => ended(outcome).await?,
        Begun::Fresh(ticket, _) => {
            let outcome = match unpack(&context, &begin, input).await {
                Ok(copied) => Outcome::Copied { files: copied.entries, bytes: copied.bytes },
                Err(fault) => Outcome::Failed(fault),
            };
            // A copy that failed half way is done again by the same request: what is there already is replaced.
            if let Some(note) = ticket.note(Some(outcome.clone())).filter(|_| matches!(outcome, Outcome::Copied { .. }))
            {
                context
                    .journal
                    .append_request(&note)
                    .map_err(|e| Status::internal(format!("the journal cannot be written: {e}")))?;
            }
            ticket.end(outcome.clone());
            outcome
        }
    };
    match outcome {
        Outcome::Copied { files, bytes } => Ok(Response::new(pb::CopyInReply { files, bytes })),
        Outcome::Failed(fault) => Err(fault.into()),
        _ => Err(Status::internal("the request was another")),
    }
}

async fn unpack(
    context: &Context,
    begin: &pb::copy_in_request::Begin,
    mut input: Streaming<pb::CopyInRequest>,
) -> Result<agent_kernel::archive::Copied, Fault> {
    let agent = context.agent(&begin.id)?;
    let _permit = context.copies.try_acquire().map_err(|_| exhausted("too many copies go on at once; ask again"))?;
    let place = place(&agent).await?;
    let path = inside(&place, &begin.path)?;
    let (tx, rx) = mpsc::channel::<io::Result<Vec<u8>>>(8);
    let feeding = async move {
        while let Some(message) = input.next().await {
            let data = match message {
                Ok(pb::CopyInRequest { message: Some(In::Tar(data)) }) => Ok(data),
                Ok(_) => continue,
                Err(status) => Err(io::Error::other(format!("the caller broke off: {}", status.message()))),
            };
            if tx.send(data).await.is_err() {
                return;
            }
        }
    };
    let replace = begin.replace;
    let unpacking = blocking(move || {
        let source = Source { rx, rest: Vec::new(), at: 0 };
        let (directory, limits) = (place.directory.as_fd(), Limits::default());
        if replace {
            copy::replace(directory, place.owner, &path, source, &limits)
        } else {
            copy::copy_in(directory, place.owner, &path, source, &limits)
        }
    });
    let (copied, ()) = tokio::join!(unpacking, feeding);
    copied?.map_err(|e| failed_in(&agent.id, &format!("copy-in: {e}")))
}

pub async fn copy_out(
    context: Arc<Context>,
    request: pb::CopyOutRequest,
) -> Result<Response<Replies<pb::CopyOutChunk>>, Status> {
    let agent = context.agent(&request.id)?;
    let permit = context
        .copies
        .clone()
        .try_acquire_owned()
        .map_err(|_| exhausted("too many copies go on at once; ask again"))?;
    let place = place(&agent).await?;
    let path = inside(&place, &request.path)?;
    let (tx, rx) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink { tx: tx.clone(), chunk: Vec::with_capacity(CHUNK) };
        let copied = copy::copy_out(place.directory.as_fd(), &path, &mut sink, &Limits::default());
        let end = copied
            .map_err(|e| failed_in(&agent.id, &format!("copy-out: {e}")))
            .and_then(|_| sink.flush().map_err(|e| precondition(e.to_string())));
        if let Err(fault) = end {
            let _ = tx.blocking_send(Err(fault.into()));
        }
        drop(permit);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
}

async fn place(agent: &Arc<Shared>) -> Result<Place, Fault> {
    let (tx, rx) = oneshot::channel();
    agent.send(Command::Workspace(tx)).await?;
    rx.await.map_err(|_| precondition(format!("agent {} was deleted meanwhile", agent.id)))?
}

fn inside(place: &Place, path: &str) -> Result<PathBuf, Fault> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains('\0') {
        return Err(invalid(format!(
            "path: {path:?} is not beneath the workspace; give a relative path without \"..\""
        )));
    }
    let clean: PathBuf = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(PathBuf::from(place.prefix).join(clean))
}

/// What the caller sends, as bytes to read.
struct Source {
    rx: mpsc::Receiver<io::Result<Vec<u8>>>,
    rest: Vec<u8>,
    at: usize,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            match self.rx.blocking_recv() {
                Some(data) => (self.rest, self.at) = (data?, 0),
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.rest.len() - self.at);
        buffer[..n].copy_from_slice(&self.rest[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Bytes to write, as messages to the caller.
struct Sink {
    tx: mpsc::Sender<Result<pb::CopyOutChunk, Status>>,
    chunk: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(data);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let tar = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.tx.blocking_send(Ok(pb::CopyOutChunk { tar })).map_err(|_| io::Error::other("the caller hung up"))
    }
}
