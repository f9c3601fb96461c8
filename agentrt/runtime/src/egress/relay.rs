//! Bytes between an agent and whom it may talk to, counted and held to a rate.

use super::agent::Agent;
use super::http::{Body, Chunks};
use super::secret::Veil;
use super::tls::{Hello, hello};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connection on which nothing moves for this long is closed.
const SILENCE: Duration = Duration::from_secs(600);
const CHUNK: usize = 32 << 10;
/// A ClientHello is held back until it is whole; beyond this it is none.
const LARGEST_HELLO: usize = 32 << 10;

/// Everything after a CONNECT. `early` was read already. TLS is let through only to the name that was asked for.
pub async fn tunnel(
    client: TcpStream,
    server: TcpStream,
    early: Vec<u8>,
    name: Option<&str>,
    agent: &Agent,
) -> io::Result<()> {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = upwards(from_client, to_server, early, name, agent);
    let down = downwards(from_server, to_client, Veil::default(), agent);
    both(up, down).await
}

/// One plain request: its head, its body, then the answer until the server has said all.
pub async fn request(
    client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    head: Vec<u8>,
    early: Vec<u8>,
    body: Body,
    veil: Veil,
    agent: &Agent,
) -> io::Result<()> {
    server.write_all(&head).await?;
    let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), tokio::io::split(server));
    let up = async {
        let mut ending = Ending::new(body);
        let mut bytes = early;
        loop {
            let (taken, done) = ending.take(&bytes).map_err(io::Error::other)?;
            agent.sent(taken).await;
            to_server.write_all(&bytes[..taken]).await?;
            to_server.flush().await?;
            if done {
                // What follows would be another request, perhaps to somebody else: nobody reads it.
                return io::Result::Ok(());
            }
            bytes = vec![0; CHUNK];
            let n = read(&mut from_client, &mut bytes).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(n);
        }
    };
    let down = downwards(from_server, to_client, veil, agent);
    let (_, answer) = tokio::join!(up, down);
    answer
}

enum Ending {
    Left(u64),
    Chunks(Chunks),
}

impl Ending {
    fn new(body: Body) -> Ending {
        match body {
            Body::Length(n) => Ending::Left(n),
            Body::Chunked => Ending::Chunks(Chunks::default()),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), String> {
        match self {
            Ending::Left(left) => {
                let n = (*left).min(bytes.len() as u64);
                *left -= n;
                Ok((n as usize, *left == 0))
            }
            Ending::Chunks(chunks) => chunks.take(bytes),
        }
    }
}

/// Both ways until one breaks, or both have ended.
async fn both(up: impl Future<Output = io::Result<()>>, down: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::pin!(up, down);
    tokio::select! {
        done = &mut up => { done?; down.await }
        done = &mut down => { done?; up.await }
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<usize> {
    tokio::time::timeout(SILENCE, from.read(buffer)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn upwards(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut held: Vec<u8>,
    name: Option<&str>,
    agent: &Agent,
) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    // An address was asked for: any name may stand behind it.
    let mut checked = name.is_none();
    loop {
        if !checked {
            match hello(&held) {
                Hello::Unfinished if held.len() <= LARGEST_HELLO => {}
                Hello::Silent => checked = true,
                Hello::Named(named) if name.is_some_and(|n| named.eq_ignore_ascii_case(n.as_bytes())) => checked = true,
                Hello::Named(named) => {
                    let named = String::from_utf8_lossy(&named[..named.len().min(80)]).escape_debug().to_string();
                    agent.deny(&format!("{} as {named}", name.unwrap_or_default()));
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                Hello::Broken | Hello::Unfinished => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        if checked && !held.is_empty() {
            agent.sent(held.len()).await;
            to.write_all(&std::mem::take(&mut held)).await?;
        }
        let n = read(&mut from, &mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        held.extend_from_slice(&buffer[..n]);
    }
}

async fn downwards(
    mut from: impl AsyncRead + Unpin,
    mut to: OwnedWriteHalf,
    mut veil: Veil,
    agent: &Agent,
) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    loop {
        let n = read(&mut from, &mut buffer).await?;
        if n == 0 {
            to.write_all(&veil.rest()).await?;
            return to.shutdown().await;
        }
        agent.fetched(n).await;
        to.write_all(&veil.pass(&buffer[..n])).await?;
    }
}
