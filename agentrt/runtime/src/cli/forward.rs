//! A port of this host that leads to one of an agent.

use super::client::{Client, said};
use crate::pb;
use clap::Args;
use pb::forward_reply::Message as Out;
use pb::forward_request::{Begin, Message as In};
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[derive(Args)]
pub struct Forward {
    /// Agent
    id: String,
    /// The port on which it listens
    port: u16,
    /// Where to listen here; port 0 takes a free one, and prints it
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub async fn forward(client: &mut Client, args: Forward) -> Result<ExitCode, String> {
    let listener = TcpListener::bind(args.listen).await.map_err(|e| format!("{}: {e}", args.listen))?;
    println!("{}", listener.local_addr().map_err(|e| e.to_string())?);
    loop {
        let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
        let (mut client, begin) = (client.clone(), Begin { id: args.id.clone(), port: u32::from(args.port) });
        tokio::spawn(async move {
            if let Err(problem) = one(&mut client, begin, stream).await {
                eprintln!("gpve-agentrt: {problem}");
            }
        });
    }
}

async fn one(client: &mut Client, begin: Begin, stream: TcpStream) -> Result<(), String> {
    let message = |m| pb::ForwardRequest { message: Some(m) };
    let (tx, rx) = mpsc::channel(8);
    tx.send(message(In::Begin(begin))).await.map_err(|e| e.to_string())?;
    let mut replies = client.forward(ReceiverStream::new(rx)).await.map_err(said)?.into_inner();
    let (mut from, mut to) = stream.into_split();
    let sending = tokio::spawn(async move {
        let mut buffer = vec![0u8; 32 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if tx.send(message(In::Data(buffer[..n].to_vec()))).await.is_err() {
                return;
            }
        }
        let _ = tx.send(message(In::Closed(true))).await;
        // The call is ours as long as this end of it lives: until the agent has said all.
        tx.closed().await;
    });
    while let Some(reply) = replies.message().await.map_err(said)? {
        if let Some(Out::Data(data)) = reply.message {
            to.write_all(&data).await.map_err(|e| e.to_string())?;
        }
    }
    sending.abort();
    to.shutdown().await.map_err(|e| e.to_string())
}
