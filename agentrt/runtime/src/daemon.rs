//! The daemon: one per directory, one at a time.

use crate::context::Context;
use crate::pb::runtime_service_server::RuntimeServiceServer;
use crate::plans::Plans;
use crate::service::Service;
use crate::spawner::client::{Config, Spawner, seal};
use crate::store::journal::Journal;
use crate::store::requests::{Requests, fingerprint};
use crate::{adopt, logs};
use agent_kernel::Host;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};

pub struct Options {
    pub root: PathBuf,
    pub socket: PathBuf,
    /// The spawner's program.
    pub spawner: PathBuf,
    pub spawners: u32,
    /// Users beside root and the daemon's own that are served.
    pub allowed: Vec<u32>,
    /// What a template's program loads, to be forked from.
    pub seed_library: PathBuf,
    pub egress: crate::egress::client::Options,
}

/// The most connections at once, and calls at once of each.
const CONNECTIONS: usize = 512;
const CALLS: usize = 128;
/// Copies at once, of all callers.
const COPIES: usize = 6;

/// Runs until SIGTERM or SIGINT. Agents live on.
pub fn run(options: Options) -> Result<(), String> {
    let lock = prepare(&options.root)?;
    // One thread: what a start costs is the kernel's work in spawner and init; every hop to another thread here comes on top.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(16)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .map_err(|e| format!("the daemon's threads cannot be started: {e}"))?;
    let result = runtime.block_on(serve(options));
    runtime.shutdown_background();
    drop(lock);
    result
}

/// The directory, and the lock that says that it is ours.
fn prepare(root: &Path) -> Result<File, String> {
    let say = |what: &str, path: &Path, e: std::io::Error| format!("{what} {}: {e}", path.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root.join("agents"))
        .map_err(|e| say("cannot make", root, e))?;
    let path = root.join("daemon.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| say("cannot open", &path, e))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("another daemon serves {} (it holds {})", root.display(), path.display()))?;
    // Orphans of a dead spawner come to us to be reaped, not to the host's init.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| format!("prctl: {e}"))?;
    // One file for each agent's pidfd, at the least.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    Ok(lock)
}

async fn serve(options: Options) -> Result<(), String> {
    reap_orphans()?;
    let program =
        seal(&options.spawner).map_err(|e| format!("the spawner's program {}: {e}", options.spawner.display()))?;
    let (program, restarts) = (Arc::new(program), Arc::default());
    let mut spawners = Vec::new();
    for index in 0..options.spawners {
        let config = Config {
            root: options.root.clone(),
            index,
            program: Arc::clone(&program),
            restarts: Arc::clone(&restarts),
        };
        spawners.push(Spawner::start(config).await?);
    }
    let (journal, recovered) =
        Journal::open(&options.root.join("events")).map_err(|e| format!("{}/events: {e}", options.root.display()))?;
    let own_name = fingerprint(options.root.as_os_str().as_encoded_bytes()) & 0xffff_ffff;
    let context = Arc::new(Context {
        root: options.root.clone(),
        host: Host::probe(),
        cgroup_parent: PathBuf::from(format!("gpve-agents-{own_name:08x}")),
        journal,
        requests: Requests::default(),
        spawners,
        spawner_restarts: restarts,
        plans: Plans::default(),
        follow: logs::follow::Watcher::new().map_err(|e| format!("inotify: {e}"))?,
        copies: Arc::new(tokio::sync::Semaphore::new(COPIES)),
        agents: Default::default(),
        templates: Default::default(),
        seed_library: options.seed_library.clone(),
        egress: crate::egress::client::Egress::new(options.egress),
        taken: Default::default(),
    });
    let found = adopt::adopt_all(&context, recovered).map_err(|e| format!("{}: {e}", options.root.display()))?;
    crate::template::adopt_all(&context).await.map_err(|e| format!("{}/templates: {e}", options.root.display()))?;
    let listener = listen(&options.socket)?;
    let looked_after = context.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            looked_after.egress.look().await;
        }
    });
    eprintln!("gpve-agentrt: {} agents found; serving {}", found.agents, options.socket.display());
    let mut term = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut int = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    let allowed = options.allowed;
    let check = move |request: Request<()>| match request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred)
    {
        Some(peer) if peer.uid() == 0 || peer.uid() == own || allowed.contains(&peer.uid()) => Ok(request),
        Some(peer) => Err(Status::permission_denied(format!(
            "user {} is not served by this daemon (see --allow-user)",
            peer.uid()
        ))),
        None => Err(Status::permission_denied("the daemon cannot tell who is asking")),
    };
    let service = RuntimeServiceServer::with_interceptor(Service { context: context.clone() }, check);
    let connections = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let incoming = UnixListenerStream::new(listener).filter_map(move |stream| {
        // Beyond the bound a connection is closed at once: memory stays bounded, who is served stays served.
        let permit = connections.clone().try_acquire_owned().ok()?;
        Some(stream.map(|stream| crate::connection::Held::new(stream, permit)))
    });
    let serving = Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .max_concurrent_streams(Some(CALLS as u32))
        .initial_connection_window_size(Some(1 << 20))
        .initial_stream_window_size(Some(256 << 10))
        .add_service(service)
        .serve_with_incoming(incoming);
    let result = tokio::select! {
        result = serving => result.map_err(|e| format!("{}: {e}", options.socket.display())),
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    };
    let _ = std::fs::remove_file(&options.socket);
    crate::template::end_all(&context).await;
    context.tidy();
    result
}

/// Reaps spawners that ended, and what a dead spawner left to us.
fn reap_orphans() -> Result<(), String> {
    let mut children = signal(SignalKind::child()).map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one int. Nothing else in this process waits for children.
            while unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } > 0 {}
            if children.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}

fn listen(path: &Path) -> Result<UnixListener, String> {
    let say = |e: std::io::Error| format!("cannot listen on {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(say)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(say(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(say)?;
    // Who may connect is decided by who they are, not by the file: the kernel tells.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(say)?;
    Ok(listener)
}
