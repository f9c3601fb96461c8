//! The proxy's process: takes listening sockets from the daemon, and serves who connects to them.

use super::agent::Agent;
use super::destination::{Destination, Host, is_internal, is_never};
use super::http::{self, Request};
use super::outward::Outward;
use super::secret::Towards;
use super::{Ask, relay, socks};
use crate::spawner::{protocol::MOST_BYTES, wire};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

/// A client says what it wants within this time.
const TO_ASK: Duration = Duration::from_secs(10);
const TO_CONNECT: Duration = Duration::from_secs(10);
/// The descriptor on which the daemon speaks.
const CONTROL: i32 = 3;

/// Runs until the daemon is gone. `authorities`: whom it trusts where it speaks TLS itself.
pub fn run(authorities: PathBuf) -> Result<(), String> {
    // SAFETY: the daemon has given us this descriptor for our own.
    let control = unsafe { OwnedFd::from_raw_fd(CONTROL) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|e| format!("egress: {e}"))?;
    let served =
        runtime.block_on(serve(control, Arc::new(Outward::new(authorities)))).map_err(|e| format!("egress: {e}"));
    runtime.shutdown_background();
    served
}

async fn serve(control: OwnedFd, outward: Arc<Outward>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&control, true)?;
    let control = crate::ready::watch(control, tokio::io::Interest::READABLE)?;
    let mut agents: HashMap<String, (Arc<Agent>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0u8; MOST_BYTES];
    loop {
        let Some((ask, fds)) = receive(&control, &mut buffer).await? else { return Ok(()) };
        match ask {
            Ask::Serve { agent: id, terms } => {
                let Some(listener) = fds.into_iter().next() else { continue };
                let listener = std::net::TcpListener::from(listener);
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                // A listener that comes again (of a restart) goes on with what was counted.
                let usage = agents.remove(&id).map(|(old, task)| {
                    task.abort();
                    old.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
                });
                let usage = Mutex::new(usage.unwrap_or_default());
                let paid = Mutex::new(Instant::now());
                let agent = Arc::new(Agent { id: id.clone(), terms, outward: outward.clone(), usage, paid });
                let task = tokio::spawn(accept(listener, agent.clone()));
                agents.insert(id, (agent, task));
            }
            Ask::Forget { agent } => {
                if let Some((_, task)) = agents.remove(&agent) {
                    task.abort();
                }
            }
            Ask::Usage { agent } => {
                let usage = agents
                    .get(&agent)
                    .map(|(agent, _)| agent.usage.lock().unwrap_or_else(PoisonError::into_inner).clone());
                let raw = postcard::to_stdvec(&usage.unwrap_or_default()).map_err(io::Error::other)?;
                wire::send(control.as_fd(), &raw, &[])?;
            }
        }
    }
}

async fn receive(control: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<Option<(Ask, Vec<OwnedFd>)>> {
    loop {
        let mut guard = control.readable().await?;
        if let Ok(received) = guard.try_io(|s| wire::receive(s, buffer)) {
            let Some((n, fds)) = received? else { return Ok(None) };
            return Ok(Some((postcard::from_bytes(&buffer[..n]).map_err(io::Error::other)?, fds)));
        }
    }
}

/// Takes connections as long as there is room for them; the rest waits in the kernel's queue.
async fn accept(listener: TcpListener, agent: Arc<Agent>) {
    let room = Arc::new(Semaphore::new(agent.terms.limits.connections));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                agent.usage.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
                let agent = agent.clone();
                tasks.spawn(async move {
                    let _ = one(client, &agent).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Why a client does not get where it wants to.
struct Denied {
    /// As it is counted.
    what: String,
    /// For whoever reads it inside.
    sentence: String,
    /// By the policy, and not by the world outside.
    by_policy: bool,
}

async fn one(mut client: TcpStream, agent: &Agent) -> io::Result<()> {
    let mut first = [0u8; 1];
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(TO_ASK, client.peek(&mut first)).await.map_err(late)??;
    if first[0] == 5 {
        let asked = timeout(TO_ASK, socks::request(&mut client)).await.map_err(late)??;
        let reached = match asked {
            Ok(to) => reach(&to, agent).await.map(|server| (to, server)),
            Err(problem) => Err(malformed(problem)),
        };
        return match reached {
            Ok((to, server)) => {
                socks::reply(&mut client, socks::SUCCEEDED).await?;
                relay::tunnel(client, server, Vec::new(), name_of(&to), agent).await
            }
            Err(denied) => {
                let code = if denied.by_policy { socks::DENIED } else { socks::UNREACHABLE };
                note(agent, &denied);
                socks::reply(&mut client, code).await
            }
        };
    }
    let head = timeout(TO_ASK, http::read_head(&mut client)).await.map_err(late)??;
    let asked = head.and_then(|(head, rest)| Ok((http::parse(&head)?, rest)));
    let denied = match asked {
        Err(problem) => malformed(problem),
        Ok((Request::Connect(to), rest)) => match reach(&to, agent).await {
            Ok(server) => {
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                return relay::tunnel(client, server, rest, name_of(&to), agent).await;
            }
            Err(denied) => denied,
        },
        Ok((Request::Plain { to, head, body }, rest)) => {
            let towards = Towards::new(&agent.terms.secrets, &to);
            match towards_server(&to, head, &towards, agent).await {
                Ok((Server::Open(server), head)) => {
                    return relay::request(client, server, head, rest, body, towards.veil(), agent).await;
                }
                Ok((Server::Tls(server), head)) => {
                    return relay::request(client, *server, head, rest, body, towards.veil(), agent).await;
                }
                Err(denied) => denied,
            }
        }
    };
    note(agent, &denied);
    let status = match (denied.by_policy, denied.what.as_str()) {
        (_, "(malformed)") => "400 Bad Request",
        (true, _) => "403 Forbidden",
        (false, _) => "502 Bad Gateway",
    };
    client.write_all(&http::refusal(status, &denied.sentence)).await?;
    client.shutdown().await?;
    // What it still sends is read and dropped, so that it comes to read the answer.
    let mut rest = [0u8; 4096];
    while let Ok(Ok(1..)) = timeout(Duration::from_secs(1), client.read(&mut rest)).await {}
    Ok(())
}

/// Whom a plain request goes to.
enum Server {
    Open(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects for a plain request, by TLS where its secrets want that, and puts secrets into its head when all is well.
async fn towards_server(
    to: &Destination,
    head: Vec<u8>,
    towards: &Towards<'_>,
    agent: &Agent,
) -> Result<(Server, Vec<u8>), Denied> {
    let denied = |sentence: String| Denied { what: to.to_string(), sentence, by_policy: false };
    let server = reach(to, agent).await?;
    let server = if towards.tls {
        let spoken = timeout(TO_CONNECT, agent.outward.speak(server, &to.host)).await;
        let spoken = spoken.unwrap_or_else(|_| Err("no TLS in time".into()));
        Server::Tls(Box::new(spoken.map_err(|problem| denied(format!("{to} cannot be reached: {problem}")))?))
    } else {
        Server::Open(server)
    };
    Ok((server, towards.reveal(head).map_err(denied)?))
}

fn note(agent: &Agent, denied: &Denied) {
    if denied.by_policy {
        agent.deny(&denied.what);
    }
}

fn malformed(problem: String) -> Denied {
    Denied { what: "(malformed)".into(), sentence: problem, by_policy: true }
}

fn name_of(to: &Destination) -> Option<&str> {
    match &to.host {
        Host::Name(name) => Some(name),
        Host::Address(_) => None,
    }
}

/// Connects: allowed by name, resolved once, and connected to an address that was looked at.
async fn reach(to: &Destination, agent: &Agent) -> Result<TcpStream, Denied> {
    let policy = |sentence: String| Denied { what: to.to_string(), sentence, by_policy: true };
    let world = |sentence: String| Denied { what: to.to_string(), sentence, by_policy: false };
    if !to.allowed(&agent.terms.rules) {
        return Err(policy(format!("{to} is not in the policy; to allow it: network.egress = [\"{to}\"]")));
    }
    let addresses: Vec<IpAddr> = match &to.host {
        // Listed by its very address: whoever wrote the policy knows where that is.
        Host::Address(address) if is_never(*address) => {
            return Err(policy(format!("{to} is an address that is never reached")));
        }
        Host::Address(address) => vec![*address],
        Host::Name(name) => {
            let found = timeout(TO_CONNECT, tokio::net::lookup_host((name.as_str(), to.port))).await;
            let found: Vec<IpAddr> = match found {
                Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
                Ok(Err(e)) => return Err(world(format!("{name} cannot be resolved: {e}"))),
                Err(_) => return Err(world(format!("{name} cannot be resolved in time"))),
            };
            let outside: Vec<IpAddr> = found.iter().copied().filter(|address| !is_internal(*address)).collect();
            if outside.is_empty() && !found.is_empty() {
                return Err(policy(format!("{name} leads to an internal address, and no name may")));
            }
            outside
        }
    };
    let mut problem = "it has no address".to_owned();
    for address in addresses {
        match timeout(TO_CONNECT, TcpStream::connect(SocketAddr::new(address, to.port))).await {
            Ok(Ok(server)) => {
                let _ = server.set_nodelay(true);
                return Ok(server);
            }
            Ok(Err(e)) => problem = e.to_string(),
            Err(_) => problem = "no answer in time".into(),
        }
    }
    Err(world(format!("{to} cannot be reached: {problem}")))
}
