//! One instance of a template: made, made an agent, or done away with.

use super::{IDS_OF_INSTANCE, PROGRAM, Settings, Shared};
use crate::agent::{Origin, blocking};
use crate::clock;
use crate::context::Context;
use crate::spawner::client::CallError;
use crate::spawner::protocol::{Answer, Ask, Kind, LaunchAsk, Program, Who};
use crate::store::record::{Instance, Process};
use agent_kernel::Cgroup;
use agent_kernel::archive::Limits;
use agent_kernel::cgroup::Handle;
use agent_kernel::copy::{copy_in, copy_out};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::SendFlags;
use serde_json::json;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

const LOG_BYTES: u64 = 16 << 20;
const LOG_RATE: u64 = 8 << 20;

/// An instance that waits, sandboxed, for its claim.
pub struct Parked {
    pub instance: Instance,
    pub process: Process,
    pub pidfd: OwnedFd,
    pub workspace: Option<OwnedFd>,
    pub cgroup: Handle,
    pub enforced: Vec<String>,
    /// Listens in its network for the egress proxy.
    pub egress: Option<OwnedFd>,
    orders: UnixStream,
}

/// What a launch gives beside the process.
pub(super) struct Born {
    pub process: Process,
    pub pidfd: OwnedFd,
    pub workspace: Option<OwnedFd>,
    pub cgroup: Handle,
    pub enforced: Vec<String>,
    pub egress: Option<OwnedFd>,
    pub orders: UnixStream,
}

/// A message as the template's program reads them.
pub(super) fn framed(message: &serde_json::Value) -> Vec<u8> {
    let body = message.to_string().into_bytes();
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// A program that is to wait for orders.
pub(super) struct Wanted {
    pub who: Who,
    /// As its cgroup and its workspace are called.
    pub name: String,
    pub dir: PathBuf,
    pub kind: Kind,
}

/// Starts it, in a cgroup of its own.
pub(super) async fn launch(
    context: &Context,
    shared: &Shared,
    settings: &Settings,
    wanted: Wanted,
) -> Result<Born, String> {
    let Wanted { who, name, dir, kind } = wanted;
    let (text, plan) = if kind == Kind::Seed { &settings.seed } else { &settings.plan };
    make_directory(&dir)?;
    let leaf = context.cgroup_parent.join(&name);
    let cgroup = Cgroup::create(&context.host.cgroups, &leaf, &plan.cgroup).map_err(|e| e.to_string())?;
    let handle = cgroup.handle();
    let ask = LaunchAsk {
        lease: None,
        agent: name.clone(),
        dir: dir.to_string_lossy().into_owned(),
        run: 1,
        program: Program {
            plan: text.key,
            who,
            cgroup: serde_json::to_vec(&handle).unwrap_or_default(),
            argv: [&settings.python, "-I", "-c", PROGRAM].map(String::from).to_vec(),
            env: shared.spec.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            cwd: String::new(),
        },
        log_bytes: LOG_BYTES,
        log_rate: LOG_RATE,
        stdin: false,
        heartbeat: false,
        kind,
    };
    let spawner = context.spawner_of(&shared.name);
    let answer = spawner.call(Ask::Launch(Box::new(ask)), Vec::new(), Some(text.clone())).await;
    let problem = match answer {
        Ok((Answer::Launched { pid, start_ticks, enforced, beside: [workspace, egress, _] }, fds)) => {
            let process = Process { pid, start_ticks, boot_id: clock::boot_id().to_owned() };
            let mut fds = fds.into_iter();
            let pidfd = fds.next();
            let workspace = if workspace { fds.next() } else { None };
            let egress = if egress { fds.next() } else { None };
            if let (Some(orders), Some(pidfd)) = (fds.next().map(UnixStream::from), pidfd) {
                return Ok(Born { process, pidfd, workspace, cgroup: handle, enforced, egress, orders });
            }
            "the spawner gave no descriptors".to_owned()
        }
        Ok(_) => "the spawner answered something else than was asked".to_owned(),
        Err(CallError::Refused(sentence)) => sentence,
        Err(CallError::Lost) => "the spawner died".to_owned(),
    };
    remove(context, &shared.name, &name, dir, handle).await;
    Err(problem)
}

fn make_directory(dir: &Path) -> Result<(), String> {
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(dir);
    made.map_err(|e| format!("{}: {e}", dir.display()))
}

/// Ends whatever is left of an instance or a seed, and removes it.
pub(super) async fn remove(context: &Context, template: &str, name: &str, dir: PathBuf, cgroup: Handle) {
    let gone = blocking(move || match Cgroup::open(&cgroup) {
        Ok(cgroup) => cgroup.kill().and_then(|()| cgroup.remove()),
        Err(_) => Ok(()),
    });
    if let Ok(Err(e)) = gone.await {
        eprintln!("instance {name}: {e}");
    }
    let _ = context.spawner_of(template).call(Ask::Forget { agent: name.to_owned() }, Vec::new(), None).await;
    let _ = blocking(move || std::fs::remove_dir_all(dir)).await;
}

/// Waits until a program has its imports done, or says why it has not.
pub(super) async fn ready(orders: &UnixStream, milliseconds: u64) -> Result<(), String> {
    let copy = orders.try_clone().and_then(|copy| {
        copy.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(copy)
    });
    let mut stream = copy.map_err(|e| e.to_string())?;
    let mut said = [0u8; 2048];
    let answer = match tokio::time::timeout(Duration::from_millis(milliseconds), stream.read(&mut said)).await {
        Err(_) => Err(format!("its imports were not done within {milliseconds} ms")),
        Ok(Err(e)) => Err(e.to_string()),
        Ok(Ok(0)) => Err("its program ended before its imports were done".into()),
        Ok(Ok(n)) if &said[..n] == b"ready" => Ok(()),
        Ok(Ok(n)) => Err(String::from_utf8_lossy(&said[..n]).replace('\n', " ")),
    };
    let _ = orders.set_nonblocking(false);
    answer
}

/// The message that a program needs first.
pub(super) fn config(context: &Context, shared: &Shared, settings: &Settings, fork: bool) -> Vec<u8> {
    framed(&json!({
        "imports": shared.spec.imports,
        "setup": shared.spec.setup,
        "fork": fork,
        "library": context.seed_library,
        "plan": String::from_utf8_lossy(&settings.plan.0.json),
        "checkpoints": settings.plan.1.checkpoints,
    }))
}

/// Makes an instance that waits.
pub(super) async fn make(
    context: Arc<Context>,
    shared: Arc<Shared>,
    settings: Settings,
    first_id: u32,
) -> Result<Parked, String> {
    let fork = !shared.spec.no_fork;
    let kind = if fork { Kind::Fork { seed: seed_name(&shared.name) } } else { Kind::Waiting };
    let wanted = wanted(&context, &shared, first_id, kind);
    let (name, dir) = (wanted.name.clone(), wanted.dir.clone());
    let born = launch(&context, &shared, &settings, wanted).await?;
    let instance = Instance { name: name.clone(), template: shared.name.clone(), first_id, ids: IDS_OF_INSTANCE };
    let Born { process, pidfd, workspace, cgroup, enforced, egress, orders } = born;
    if !fork {
        let told = (&orders).write_all(&config(&context, &shared, &settings, false)).map_err(|e| e.to_string());
        let settled = match told {
            Ok(()) => ready(&orders, settings.ready_ms).await,
            Err(e) => Err(e),
        };
        if let Err(problem) = settled {
            remove(&context, &shared.name, &name, dir, cgroup).await;
            return Err(problem);
        }
    }
    Ok(Parked { instance, process, pidfd, workspace, cgroup, enforced, egress, orders })
}

/// Forks an agent that waits at a checkpoint: an instance that waits, with a copy of its workspace.
pub async fn fork(
    context: &Arc<Context>,
    shared: &Shared,
    settings: &Settings,
    origin: &Origin,
) -> Result<Parked, String> {
    let Wanted { who, name, dir, kind } =
        wanted(context, shared, origin.instance.first_id, Kind::Fork { seed: origin.instance.name.clone() });
    // Before anything else: by it a daemon after this one knows what there is to forget.
    make_directory(&dir)?;
    let (text, plan) = &settings.plan;
    let identity = crate::spawner::program::identity(&who);
    let owner = (identity.outside(plan.uid), identity.outside(plan.gid));
    let ask = Ask::Workspace { agent: name.clone(), plan: text.key, who: who.clone(), make: true };
    let made = match context.spawner_of(&shared.name).call(ask, Vec::new(), Some(text.clone())).await {
        Ok((Answer::Descriptor, mut fds)) if fds.len() == 1 => Ok(fds.remove(0)),
        Err(CallError::Refused(sentence)) => Err(sentence),
        _ => Err("the spawner gave no workspace".into()),
    };
    let copied = match (made, origin.workspace.try_clone()) {
        (Ok(to), Ok(from)) => blocking(move || copy_places(&from, &to, owner)).await.unwrap_or_else(|f| Err(f.message)),
        (Err(problem), _) => Err(problem),
        (_, Err(e)) => Err(e.to_string()),
    };
    if let Err(problem) = copied {
        let _ = context.spawner_of(&shared.name).call(Ask::Forget { agent: name }, Vec::new(), None).await;
        let _ = blocking(move || std::fs::remove_dir_all(dir)).await;
        return Err(problem);
    }
    let instance = Instance { name: name.clone(), ..origin.instance.clone() };
    let born = launch(context, shared, settings, Wanted { who, name, dir, kind }).await?;
    shared.has(instance.first_id);
    let Born { process, pidfd, workspace, cgroup, enforced, egress, orders } = born;
    Ok(Parked { instance, process, pidfd, workspace, cgroup, enforced, egress, orders })
}

/// Copies what an agent has written, place by place, as its owner's.
fn copy_places(from: &OwnedFd, to: &OwnedFd, owner: (u32, u32)) -> Result<(), String> {
    for place in ["workspace", "tmp", "shm"] {
        let (read, write) = std::io::pipe().map_err(|e| format!("a pipe: {e}"))?;
        let copied = std::thread::scope(|scope| {
            let out = scope.spawn(|| copy_out(from.as_fd(), Path::new(place), write, &Limits::default()));
            let taken = copy_in(to.as_fd(), owner, Path::new(place), read, &Limits::default());
            // Why nothing more came says more than that nothing more came.
            out.join().map_or_else(|_| Err(None), |out| out.map_err(Some)).and(taken.map_err(Some))
        });
        copied.map_err(|e| {
            format!("its workspace, {place}: {}", e.map_or("a worker failed".into(), |e| e.to_string()))
        })?;
    }
    Ok(())
}

/// Lets an instance that has heard what to be begin. Once more does nothing: it has closed its end by then.
pub fn go(orders: BorrowedFd<'_>) -> std::io::Result<()> {
    match rustix::net::send(orders, b"g", SendFlags::NOSIGNAL) {
        Ok(_) | Err(rustix::io::Errno::PIPE) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A new name, host name and machine id.
fn wanted(context: &Context, shared: &Shared, first_id: u32, kind: Kind) -> Wanted {
    let unique = crate::random::id();
    let name = format!("{}.{}", shared.name, &unique[2..]);
    let machine_id = crate::random::bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    let who = Who { hostname: unique, machine_id, first_id, ids: IDS_OF_INSTANCE };
    let dir = context.root.join("parked").join(&name);
    Wanted { who, name, dir, kind }
}

/// What a template's seed is called among instances.
pub(super) fn seed_name(template: &str) -> String {
    format!("{template}.seed")
}

impl Parked {
    /// Whether it still waits.
    pub fn alive(&self) -> bool {
        let mut polls = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut polls, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    pub fn dir(&self, context: &Context) -> PathBuf {
        context.root.join("parked").join(&self.instance.name)
    }

    /// Tells it what to be. It waits on, for [`go`]: also where this daemon dies meanwhile, for the spawner has the socket too.
    pub fn order(&self, claim: &serde_json::Value) -> std::io::Result<()> {
        (&self.orders).write_all(&framed(claim))
    }

    /// It is an agent, whoever dies from now on.
    pub fn go(&self) -> std::io::Result<()> {
        go(self.orders.as_fd())
    }

    /// Does away with it.
    pub async fn discard(self, context: &Context, shared: &Shared) {
        let dir = self.dir(context);
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), rustix::process::Signal::KILL);
        remove(context, &self.instance.template, &self.instance.name, dir, self.cgroup).await;
        shared.freed(self.instance.first_id);
    }
}
