//! What the spawner does with the Agent Kernel: plans prepared once, agents launched, programs added, workspaces held.

use super::files::Files;
use super::keep::Keep;
use super::network::{Lender, in_network, proxy_socket, tcp_socket};
use super::program::{c_string, environment, identity, open_cgroup, set};
use super::protocol::{Answer, Kind, LaunchAsk, Who};
use crate::{process, status};
use agent_kernel::archive::Limits;
use agent_kernel::image::{Digest, Store};
use agent_kernel::launch::NETWORK;
use agent_kernel::policy::Root;
use agent_kernel::{Host, Identity, Launch, Launched, Ordered, Plan, Prepared, Seed, Workspace, launch, launch_forked};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Prepared plans that are kept; the least recently used goes.
const KEPT_PLANS: usize = 64;
/// First user id outside of the first agent's range, and how many each agent has.
pub const FIRST_ID: u32 = 0x2000_0000;
pub const IDS: u32 = 0x1_0000;
/// Ranges before the ids of 32 bits (and those that others use at their end) are used up.
pub const MOST_SLOTS: u32 = 0x5000;
/// The descriptor on which a program waits for orders.
const ORDERS_FD: i32 = 3;
/// The descriptor on which an agent that may be forked is told to.
const FORKS_FD: i32 = 4;
/// The descriptor on which an agent's program sends heartbeats.
const HEARTBEAT_FD: i32 = 3;

pub struct Sandboxes {
    /// Where images are unpacked, by digest.
    images: PathBuf,
    host: Option<Host>,
    pub(super) plans: HashMap<u64, (Prepared, u64)>,
    pub(super) used: u64,
    networks: Lender,
    workspaces: HashMap<String, Workspace>,
    seeds: HashMap<String, Held>,
    pub(super) keep: Keep,
}

/// A seed that runs, or an agent that may be forked, and the socket on which it takes orders.
struct Held {
    seed: Seed,
    orders: OwnedFd,
    /// It takes orders now: a seed always, an agent at a checkpoint, as it says.
    takes_orders: bool,
}

impl Held {
    fn takes_orders(&mut self) -> bool {
        let mut said = [0u8; 16];
        let heard = rustix::net::recv(&self.orders, &mut said[..], rustix::net::RecvFlags::DONTWAIT);
        self.takes_orders |= !self.takes_orders && matches!(heard, Ok((1.., _)));
        self.takes_orders
    }
}

/// What it takes to fork an agent that is not there yet.
struct Forkable {
    orders: OwnedFd,
    first_id: u32,
    owner: (u32, u32),
}

/// What comes of a launch.
pub enum Launching {
    Answered(Answer, Vec<OwnedFd>),
    /// A seed was told to fork: the answer comes when there is word of it, and nobody waits for it here.
    Ordered(Forking),
}

/// A fork that there is no word of yet.
pub struct Forking {
    pub ordered: Ordered,
    agent: String,
    orders: Option<OwnedFd>,
    egress: Option<OwnedFd>,
    forkable: Option<Forkable>,
}

/// The same, to those who make it.
enum Made {
    Born(Born),
    Ordered(Forking),
}

/// What a launched process is known by.
struct Born {
    pid: i32,
    start_ticks: u64,
    pidfd: OwnedFd,
    enforced: Vec<String>,
    /// The far end of what it waits on.
    orders: Option<OwnedFd>,
    /// Listens in its network.
    egress: Option<OwnedFd>,
}

impl Sandboxes {
    pub fn new(root: &Path) -> Sandboxes {
        Sandboxes {
            images: images(root),
            host: None,
            plans: HashMap::new(),
            used: 0,
            networks: Lender::new(),
            workspaces: HashMap::new(),
            seeds: HashMap::new(),
            keep: Keep::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.workspaces.is_empty() && self.seeds.is_empty() && self.keep.is_empty()
    }

    /// A child of ours has ended, and was reaped.
    pub fn ended(&mut self, pid: i32) {
        self.networks.give_back(pid);
    }

    /// Whether there is something to make ahead when nobody asks for anything.
    pub fn has_spare_work(&self) -> bool {
        self.networks.wants_more()
    }

    /// Makes a piece of it.
    pub fn work_ahead(&mut self) {
        self.networks.fill();
    }

    pub fn workspaces(&self) -> usize {
        self.workspaces.len()
    }

    fn host(&mut self) -> &Host {
        self.host.get_or_insert_with(Host::probe)
    }

    pub fn define(&mut self, key: u64, json: &[u8]) -> Result<(), String> {
        let plan: Plan = serde_json::from_slice(json).map_err(|e| format!("the sandbox's plan cannot be read: {e}"))?;
        let host = self.host().clone();
        let image = image_of(&self.images, &plan)?;
        let prepared = Prepared::new(&plan, &host, image.as_deref()).map_err(|e| e.to_string())?;
        if self.plans.len() >= KEPT_PLANS
            && let Some(oldest) = self.plans.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            self.plans.remove(&oldest);
        }
        self.used += 1;
        self.plans.insert(key, (prepared, self.used));
        Ok(())
    }

    pub fn launch(&mut self, ask: &LaunchAsk, fds: Vec<OwnedFd>) -> Launching {
        if !self.plans.contains_key(&ask.program.plan) {
            return Launching::Answered(Answer::UnknownPlan, Vec::new());
        }
        let (answer, fds) = match self.try_launch(ask, fds) {
            Ok(Made::Ordered(forking)) => return Launching::Ordered(forking),
            Ok(Made::Born(born)) => self.launched(&ask.agent, born),
            Err(sentence) => (Answer::Failed(sentence), Vec::new()),
        };
        Launching::Answered(answer, fds)
    }

    /// There is word of a fork, or its time is over.
    pub fn settle(&mut self, forking: Forking) -> (Answer, Vec<OwnedFd>) {
        let Forking { ordered, agent, orders, egress, forkable } = forking;
        let settled = ordered.settle().map_err(|e| e.to_string());
        if let (Ok(launched), Some(Forkable { orders, first_id, owner })) = (&settled, forkable)
            && let Ok(seed) = Seed::agent(launched.pid, first_id, owner)
        {
            self.seeds.insert(agent.clone(), Held { seed, orders, takes_orders: false });
        }
        match settled.and_then(|launched| Ok(Born { egress, ..born(launched, orders)? })) {
            Ok(born) => {
                self.keep.orders(&agent, born.orders.as_ref());
                self.launched(&agent, born)
            }
            Err(sentence) => (Answer::Failed(sentence), Vec::new()),
        }
    }

    fn launched(&self, agent: &str, born: Born) -> (Answer, Vec<OwnedFd>) {
        let Born { pid, start_ticks, pidfd, enforced, orders, egress } = born;
        let top = self.workspaces.get(agent).and_then(|w| w.top().try_clone_to_owned().ok());
        let beside = [top.is_some(), egress.is_some(), orders.is_some()];
        let fds = [Some(pidfd), top, egress, orders].into_iter().flatten().collect();
        (Answer::Launched { pid, start_ticks, enforced, beside }, fds)
    }

    fn try_launch(&mut self, ask: &LaunchAsk, fds: Vec<OwnedFd>) -> Result<Made, String> {
        let program = &ask.program;
        let identity = identity(&program.who);
        if let (Some(top), Some((prepared, _))) = (fds.into_iter().next(), self.plans.get(&program.plan))
            && !self.workspaces.contains_key(&ask.agent)
        {
            let held = Workspace::held(top, prepared.plan(), &identity).map_err(|e| e.to_string())?;
            self.workspaces.insert(ask.agent.clone(), held);
        }
        self.make_workspace(&ask.agent, program.plan, &identity)?;
        self.used += 1;
        let (prepared, used) = self.plans.get_mut(&program.plan).ok_or("the plan is gone")?;
        *used = self.used;
        let cgroup = open_cgroup(&program.cgroup)?;
        let files = Files::open(ask)?;
        let mut env = environment(&program.env)?;
        // An agent of a seed enters a network that is its init's own: there the socket is made once it stands.
        let by_proxy = !prepared.plan().egress.rules.is_empty();
        let (network, mut egress) = match ask.kind {
            Kind::Agent | Kind::Waiting if by_proxy => {
                let (network, socket) = self.networks.with_proxy(prepared.plan())?;
                (Some(network), Some(socket))
            }
            Kind::Agent | Kind::Waiting => (self.networks.take(prepared.plan()), None),
            Kind::Seed | Kind::Fork { .. } => (None, None),
        };
        let mut pass = Vec::new();
        let orders = if ask.kind == Kind::Agent { None } else { Some(orders_socket()?) };
        if let Some((_, theirs)) = &orders {
            pass.push((theirs.as_raw_fd(), ORDERS_FD));
        }
        let may_fork = prepared.plan().checkpoints && matches!(ask.kind, Kind::Fork { .. });
        let (forks, their_forks) = may_fork.then(orders_socket).transpose()?.unzip();
        if let Some(theirs) = &their_forks {
            pass.push((theirs.as_raw_fd(), FORKS_FD));
        }
        let passed = pass.len() as u8;
        if let Some(beat) = &files.heartbeat_write {
            env.push(c_string(&format!("GPVE_HEARTBEAT_FD={HEARTBEAT_FD}"))?);
            pass.push((beat.as_raw_fd(), HEARTBEAT_FD));
        }
        let mut wanted = Launch::new(prepared, &identity, &[]);
        set(&mut wanted, program, env)?;
        wanted.stdio = [
            files.stdin_read.as_ref().map(AsRawFd::as_raw_fd),
            Some(files.stdout.as_raw_fd()),
            Some(files.stderr.as_raw_fd()),
        ];
        wanted.pass = pass;
        wanted.netns = network.as_ref().map(|network| network.as_fd().as_raw_fd());
        wanted.workspace = self.workspaces.get(&ask.agent);
        wanted.cgroup = cgroup.as_ref();
        wanted.denials = Some(files.denials.as_raw_fd());
        let mut hooks = files.hooks;
        let status = hooks.status.try_clone().map_err(|e| format!("{}/status: {e}", ask.dir))?;
        wanted.hooks = Some(&mut hooks);
        // Written down before anything of the agent runs: from then on a new daemon finds it, whoever dies.
        let mut record = |pid: i32, _: BorrowedFd<'_>| {
            let (start_ticks, _) = process::start_ticks(pid).ok_or_else(|| io::Error::other("it is not in /proc"))?;
            let launched =
                status::Launched { run: ask.run, pid: pid as u64, start_ticks, spawner: u64::from(std::process::id()) };
            launched.write(&status)
        };
        wanted.on_cloned = Some(&mut record);
        let ours = orders.as_ref().map(|(ours, _)| ours.try_clone()).transpose().map_err(|e| e.to_string())?;
        let launched = match &ask.kind {
            Kind::Agent | Kind::Waiting => launch(wanted),
            Kind::Seed => {
                wanted.shares_processes = true;
                launch(wanted)
            }
            Kind::Fork { seed } => {
                let held = self.seeds.get_mut(seed).ok_or_else(|| format!("{seed}, which would be forked, is gone"))?;
                if !held.takes_orders() {
                    return Err(not_at_a_checkpoint());
                }
                wanted.stdio[0] = Some(files.null.as_raw_fd());
                let orders = &held.orders;
                let ordered = launch_forked(wanted, &held.seed, &mut |fds| {
                    if by_proxy {
                        egress = Some(in_network(fds[NETWORK], proxy_socket).map_err(io::Error::other)?);
                    }
                    super::wire::order(orders, passed, fds)
                });
                let ordered = ordered.map_err(|e| e.to_string())?;
                let owner = (prepared.plan().uid, prepared.plan().gid);
                let forkable = forks.map(|orders| Forkable { orders, first_id: identity.first_id, owner });
                let agent = ask.agent.clone();
                return Ok(Made::Ordered(Forking { ordered, agent, orders: ours, egress, forkable }));
            }
        };
        let launched = launched.map_err(|e| e.to_string())?;
        if let Some(network) = network {
            self.networks.lend(launched.pid, network);
        }
        if let (Kind::Seed, Some((ours, _))) = (&ask.kind, orders) {
            let plan = prepared.plan();
            let seed = Seed::new(launched.pid, plan, &identity).map_err(|e| e.to_string())?;
            self.seeds.insert(ask.agent.clone(), Held { seed, orders: ours, takes_orders: true });
        }
        if ask.kind == Kind::Waiting {
            self.keep.orders(&ask.agent, ours.as_ref());
        }
        Ok(Made::Born(Born { egress, ..born(launched, ours)? }))
    }

    /// Root makes workspaces apart from the agent, so that they outlive its restarts; others cannot.
    fn make_workspace(&mut self, agent: &str, key: u64, identity: &Identity) -> Result<(), String> {
        if !self.host().root || self.workspaces.contains_key(agent) {
            return Ok(());
        }
        let (prepared, _) = self.plans.get(&key).ok_or("the plan is gone")?;
        if prepared.plan().workspace.is_some() {
            let workspace = Workspace::create(prepared.plan(), identity).map_err(|e| e.to_string())?;
            self.workspaces.insert(agent.to_owned(), workspace);
        }
        Ok(())
    }

    /// A TCP socket in the network of the agent behind the pidfd: made there, used here.
    pub fn socket(&mut self, fds: Vec<OwnedFd>) -> Result<OwnedFd, String> {
        let pidfd = fds.into_iter().next().ok_or("no pidfd came with it")?;
        in_network(pidfd.as_fd(), tcp_socket)
    }

    /// The top of an agent's workspace.
    pub fn workspace(&mut self, agent: &str, plan: u64, who: &Who, make: bool) -> (Answer, Vec<OwnedFd>) {
        if !self.plans.contains_key(&plan) {
            return (Answer::UnknownPlan, Vec::new());
        }
        let made = if make { self.make_workspace(agent, plan, &identity(who)) } else { Ok(()) };
        let top = made.and_then(|()| {
            let workspace = self
                .workspaces
                .get(agent)
                .ok_or_else(|| format!("agent {agent} has no workspace while it does not run"))?;
            workspace.top().try_clone_to_owned().map_err(|e| format!("the workspace of agent {agent}: {e}"))
        });
        match top {
            Ok(top) => (Answer::Descriptor, vec![top]),
            Err(sentence) => (Answer::Failed(sentence), Vec::new()),
        }
    }

    /// Whether an agent waits to be forked.
    pub fn at_checkpoint(&mut self, agent: &str) -> Result<(), String> {
        let held = self.seeds.get_mut(agent).ok_or("the spawner that could have forked it has died")?;
        if held.takes_orders() { Ok(()) } else { Err(not_at_a_checkpoint()) }
    }

    /// Lets an agent that waits go on.
    pub fn go_on(&mut self, agent: &str) -> Result<(), String> {
        let Some(held) = self.seeds.get_mut(agent) else { return Ok(()) };
        held.takes_orders = false;
        super::wire::go_on(&held.orders).map_err(|e| format!("it does not hear that it may go on: {e}"))
    }

    pub fn forget(&mut self, agent: &str) {
        self.workspaces.remove(agent);
        self.keep.forget(agent);
        self.seeds.remove(agent);
    }
}

fn not_at_a_checkpoint() -> String {
    "it is not at a checkpoint (its program calls gpve_agent.checkpoint())".into()
}

/// The directory of a daemon's images.
pub fn images(root: &Path) -> PathBuf {
    root.join("images")
}

/// Where the image of a plan was unpacked, if its root is one.
pub fn image_of(images: &Path, plan: &Plan) -> Result<Option<PathBuf>, String> {
    let Root::Image(text) = &plan.root else { return Ok(None) };
    let digest = Digest::parse(text)?;
    let store = Store::open(images, Limits::default()).map_err(|e| e.to_string())?;
    let found = store.root(&digest);
    let missing =
        || format!("root.image: {text} is not in {}; import it first (gpve-agentrt image import)", images.display());
    found.map(Some).ok_or_else(missing)
}

fn born(launched: Launched, orders: Option<OwnedFd>) -> Result<Born, String> {
    // The process is our child and not reaped: its pid is its own.
    let (start_ticks, _) = process::start_ticks(launched.pid).ok_or("the agent's process cannot be found in /proc")?;
    let layers =
        launched.applied.layers.iter().map(|(layer, what)| {
            if what.is_empty() { format!("{layer}: none kept") } else { format!("{layer}: {what}") }
        });
    let missing = launched.applied.missing.iter().map(|m| format!("not applied: {:?}: {}", m.layer, m.why));
    Ok(Born {
        pid: launched.pid,
        start_ticks,
        enforced: layers.chain(missing).collect(),
        pidfd: launched.pidfd,
        orders,
        egress: None,
    })
}

/// Ours and theirs.
fn orders_socket() -> Result<(OwnedFd, OwnedFd), String> {
    let kind = SocketType::STREAM;
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(|e| format!("a socket: {e}"))
}
