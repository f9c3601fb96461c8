//! The daemon's side of a spawner: one task that owns the connection, starts the spawner when it is gone, and goes on.

use super::protocol::{Answer, Ask, MOST_BYTES, Reply, Request, VERSION};
use super::{server, wire};
use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// Longer than any launch takes on a machine that is not broken.
const ANSWER_MS: u64 = 30_000;

/// A compiled policy on its way to spawners.
#[derive(Debug)]
pub struct PlanText {
    pub key: u64,
    pub json: Vec<u8>,
}

#[derive(Debug)]
pub enum CallError {
    /// The spawner died: whether it did what it was asked is unknown.
    Lost,
    /// It answered: no, and why.
    Refused(String),
}

type Called = Result<(Answer, Vec<OwnedFd>), CallError>;

struct Call {
    body: Ask,
    fds: Vec<OwnedFd>,
    plan: Option<Arc<PlanText>>,
    done: oneshot::Sender<Called>,
}

#[derive(Clone)]
pub struct Spawner {
    calls: mpsc::Sender<Call>,
}

pub struct Config {
    pub root: PathBuf,
    pub index: u32,
    /// The sealed program.
    pub program: Arc<OwnedFd>,
    pub restarts: Arc<AtomicU64>,
}

/// The spawner's program in sealed memory: what runs as /proc/1/exe of an agent can be written to by nobody.
pub fn seal(path: &Path) -> io::Result<OwnedFd> {
    let mut program = File::open(path)?;
    let mut memory = File::from(memfd_create("gpve-spawner", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    io::copy(&mut program, &mut memory)?;
    agent_kernel::sys::seal(memory.as_raw_fd())?;
    Ok(memory.into())
}

impl Spawner {
    /// Connects to the spawner that is there, or starts one. The error is for people: the daemon cannot work without it.
    pub async fn start(config: Config) -> Result<Spawner, String> {
        let link = open(&config).await?;
        let (calls, receiver) = mpsc::channel(256);
        tokio::spawn(run(config, link, receiver));
        Ok(Spawner { calls })
    }

    pub async fn call(&self, body: Ask, fds: Vec<OwnedFd>, plan: Option<Arc<PlanText>>) -> Called {
        let (done, answer) = oneshot::channel();
        if self.calls.send(Call { body, fds, plan, done }).await.is_err() {
            return Err(CallError::Lost);
        }
        match tokio::time::timeout(Duration::from_millis(ANSWER_MS), answer).await {
            Ok(Ok(called)) => called,
            _ => Err(CallError::Lost),
        }
    }
}

/// The one writer and reader of the connection.
struct Link {
    socket: AsyncFd<OwnedFd>,
}

impl Link {
    async fn send(&self, request: &Request, fds: &[OwnedFd]) -> io::Result<()> {
        let raw = postcard::to_stdvec(request).map_err(io::Error::other)?;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        loop {
            let mut guard = self.socket.writable().await?;
            if let Ok(sent) = guard.try_io(|s| wire::send(s, &raw, &fds)) {
                return sent;
            }
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        loop {
            let mut guard = self.socket.readable().await?;
            if let Ok(received) = guard.try_io(|s| wire::receive(s, buffer)) {
                let Some((n, fds)) = received? else { return Ok(None) };
                let reply = postcard::from_bytes(&buffer[..n]).map_err(io::Error::other)?;
                return Ok(Some((reply, fds)));
            }
        }
    }
}

/// Asks in flight: how each is answered, and how it is asked again when the spawner lacks its plan.
type Pending = HashMap<u64, (oneshot::Sender<Called>, Option<Arc<PlanText>>, Option<(Ask, Vec<OwnedFd>)>)>;

async fn run(config: Config, mut link: Link, mut calls: mpsc::Receiver<Call>) {
    let mut buffer = vec![0u8; MOST_BYTES];
    let mut token = 0;
    let mut known = std::collections::HashSet::new();
    let mut pending: Pending = HashMap::new();
    loop {
        let lost = tokio::select! {
            call = calls.recv() => match call {
                None => return,
                Some(call) => {
                    let mut fine = true;
                    if let Some(plan) = &call.plan && known.insert(plan.key) {
                        // Its answer has no one who waits: a plan that does not load is told when it is used.
                        fine = link.send(&Request { token: u64::MAX, body: Ask::Plan { key: plan.key, json: plan.json.clone() } }, &[]).await.is_ok();
                    }
                    token += 1;
                    let request = Request { token, body: call.body };
                    match if fine { link.send(&request, &call.fds).await } else { Err(io::Error::other("lost")) } {
                        Ok(()) => {
                            let again = call.plan.is_some().then_some((request.body, call.fds));
                            pending.insert(token, (call.done, call.plan, again));
                            false
                        }
                        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                            let _ = call.done.send(Err(CallError::Refused(e.to_string())));
                            false
                        }
                        Err(_) => {
                            let _ = call.done.send(Err(CallError::Lost));
                            true
                        }
                    }
                }
            },
            reply = link.receive(&mut buffer) => match reply {
                Ok(Some((Reply { token, body }, fds))) => answered(&link, &mut pending, token, body, fds).await.is_err(),
                _ => true,
            },
        };
        if lost {
            pending.drain().for_each(|(_, (done, ..))| {
                let _ = done.send(Err(CallError::Lost));
            });
            known.clear();
            config.restarts.fetch_add(1, Ordering::Relaxed);
            drop(link);
            link = loop {
                match open(&config).await {
                    Ok(link) => break link,
                    Err(e) => eprintln!("{e}"),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            };
        }
    }
}

async fn answered(link: &Link, pending: &mut Pending, token: u64, body: Answer, fds: Vec<OwnedFd>) -> io::Result<()> {
    let Some((done, plan, again)) = pending.remove(&token) else { return Ok(()) };
    let called = match body {
        Answer::UnknownPlan => {
            if let (Some(plan), Some((ask, beside))) = (&plan, again) {
                link.send(
                    &Request { token: u64::MAX, body: Ask::Plan { key: plan.key, json: plan.json.clone() } },
                    &[],
                )
                .await?;
                let request = Request { token, body: ask };
                link.send(&request, &beside).await?;
                pending.insert(token, (done, None, None));
                return Ok(());
            }
            Err(CallError::Refused("the spawner cannot keep the sandbox's plan".into()))
        }
        Answer::Failed(sentence) => Err(CallError::Refused(sentence)),
        body => Ok((body, fds)),
    };
    let _ = done.send(called);
    Ok(())
}

/// Tries of a hello: a spawner that is just ending takes a connection and hangs up.
const HELLOS: u32 = 100;

/// A connection to the spawner that runs, or to a new one.
async fn open(config: &Config) -> Result<Link, String> {
    let path = server::socket_path(&config.root, config.index);
    let mut said = String::new();
    for _ in 0..HELLOS {
        let socket = match dial(&path) {
            Ok(socket) => socket,
            Err(_) => {
                let (root, index, program) = (config.root.clone(), config.index, config.program.clone());
                tokio::task::spawn_blocking(move || start_process(&root, index, &program))
                    .await
                    .map_err(|e| format!("spawner: {e}"))??;
                continue;
            }
        };
        let socket = crate::ready::watch(socket, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)
            .map_err(|e| format!("spawner: {e}"))?;
        let link = Link { socket };
        match tokio::time::timeout(Duration::from_millis(ANSWER_MS), hello(&link)).await {
            Ok(Ok(Answer::Hello { version: VERSION, .. })) => return Ok(link),
            Ok(Ok(Answer::Hello { version, pid, .. })) => {
                return Err(format!(
                    "spawner: process {pid} speaks version {version} and this daemon {VERSION}; stop all agents, then that process"
                ));
            }
            Ok(Ok(_)) => return Err("spawner: it does not say who it is".into()),
            Ok(Err(e)) => said = e.to_string(),
            Err(_) => return Err(format!("spawner: {} has not answered for {} s", path.display(), ANSWER_MS / 1000)),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("spawner: {} does not answer: {said}", path.display()))
}

async fn hello(link: &Link) -> io::Result<Answer> {
    let mut buffer = vec![0u8; MOST_BYTES];
    link.send(&Request { token: 1, body: Ask::Hello { version: VERSION } }, &[]).await?;
    match link.receive(&mut buffer).await? {
        Some((reply, _)) => Ok(reply.body),
        None => Err(io::Error::other("it hung up")),
    }
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Starts the program from sealed memory and waits until it listens. fork and exec at once: nothing else runs in between.
fn start_process(root: &Path, index: u32, program: &OwnedFd) -> Result<(), String> {
    // The one before must be dead: it might still be in the middle of a launch.
    let lock = server::lock_path(root, index);
    let held = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .map_err(|e| format!("{}: {e}", lock.display()))?;
    flock(&held, FlockOperation::LockExclusive).map_err(|e| format!("{}: {e}", lock.display()))?;
    drop(held);
    let log = root.join(format!("spawner-{index}.log"));
    let errors = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("gpve-spawner")
        .arg(root)
        .arg(index.to_string())
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("spawner: cannot be started: {e}"))?;
    let mut ready = String::new();
    if let Some(mut out) = child.stdout.take() {
        let _ = out.read_to_string(&mut ready);
    }
    if ready == "ready" {
        return Ok(());
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = io::stderr().flush();
    Err(format!("spawner: it did not start: {}", said.trim()))
}
