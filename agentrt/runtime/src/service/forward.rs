//! Forward: a connection to a port on which an agent listens, over the call.

use super::Replies;
use super::logs::enter;
use crate::context::Context;
use crate::fault::{invalid, precondition};
use crate::pb;
use crate::probe::connect;
use pb::forward_reply::Message as Out;
use pb::forward_request::Message as In;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

const TO_CONNECT: Duration = Duration::from_secs(10);

pub async fn forward(
    context: Arc<Context>,
    mut input: Streaming<pb::ForwardRequest>,
) -> Result<Response<Replies<pb::ForwardReply>>, Status> {
    let begin = match input.next().await {
        Some(Ok(pb::ForwardRequest { message: Some(In::Begin(begin)) })) => begin,
        _ => return Err(invalid("forward: the first message must say to which agent and port").into()),
    };
    let agent = context.agent(&begin.id)?;
    let port = u16::try_from(begin.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| invalid(format!("port: {} is none; they are 1 to 65535", begin.port)))?;
    if !context.host.root {
        return Err(precondition("only a daemon that is root can enter an agent's network").into());
    }
    let grant = enter(&agent).await?;
    let connecting = connect(&grant.spawner, &grant.pidfd, port);
    let connected = match tokio::time::timeout(TO_CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("port {port}: no answer in {} s", TO_CONNECT.as_secs())),
    };
    let stream = connected.map_err(|problem| precondition(format!("agent {}: {problem}", agent.id)))?;
    let (tx, rx) = mpsc::channel(8);
    tokio::spawn(async move {
        carry(stream, input, tx).await;
        // As long as somebody is connected the agent is not idle.
        drop(grant);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
}

type Reply = Result<pb::ForwardReply, Status>;

async fn carry(stream: TcpStream, mut input: Streaming<pb::ForwardRequest>, tx: mpsc::Sender<Reply>) {
    let message = |m| Ok(pb::ForwardReply { message: Some(m) });
    if tx.send(message(Out::Connected(true))).await.is_err() {
        return;
    }
    let (mut from, mut to) = stream.into_split();
    let inwards = async {
        while let Some(Ok(request)) = input.next().await {
            let written = match request.message {
                Some(In::Data(data)) => to.write_all(&data).await,
                Some(In::Closed(_)) => break,
                Some(In::Begin(_)) | None => Ok(()),
            };
            if written.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let outwards = async {
        let mut buffer = vec![0u8; 32 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if tx.send(message(Out::Data(buffer[..n].to_vec()))).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        // What it has not said when the caller has said all, it may still say.
        ((), ()) = async { tokio::join!(inwards, outwards) } => {}
        () = tx.closed() => {}
    }
}
