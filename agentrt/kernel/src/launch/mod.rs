//! Starting an agent.
//!
//! ```text
//! launcher --clone3 (new namespaces)--> init: root, /proc, pivot_root, ... --vfork--> main: limits, capabilities,
//!    |                                    |                                           Landlock, seccomp, execve
//!    | uid map, then a byte               | reaps, forwards signals, notes denials
//! ```
//!
//! init is a copy of the launcher (nothing is executed for it), so the launcher has to be small, and to have one thread.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

mod forked;
mod into;
mod l1;
mod main_process;
mod sandbox;

pub use forked::{Forked, Hand, NETWORK, Ordered, Parcel, Seed, fork_agent, launch_forked, own, seed_plan};
pub use into::launch_into;

use crate::applied::Applied;
use crate::cgroup::Cgroup;
use crate::error::LaunchError;
use crate::host::Host;
use crate::init::Hooks;
use crate::network;
use crate::plan::Plan;
use crate::policy::Level;
use crate::root::Recipe;
use crate::sys::{self, Errno, Side};
use crate::workspace::Workspace;

/// Who an agent is outside, and what it is told about where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// First of the agent's user (and group) ids outside; never 0. For a launcher that is not root: its own user id.
    pub first_id: u32,
    /// How many there are; 1 for a launcher that is not root.
    pub ids: u32,
    /// Host name inside.
    pub hostname: String,
    /// 32 hexadecimal digits.
    pub machine_id: String,
}

impl Identity {
    /// An identity for a launcher like this process; root gets `ids` ids from `first_id`, others their own.
    pub fn new(first_id: u32, ids: u32, hostname: &str, machine_id: &str) -> Self {
        let own = sys::ids().0;
        let (first_id, ids) = if own == 0 { (first_id, ids) } else { (own, 1) };
        Self { first_id, ids, hostname: hostname.to_owned(), machine_id: machine_id.to_owned() }
    }

    /// The id outside that `inside` is.
    pub fn outside(&self, inside: u32) -> u32 {
        if self.ids == 1 { self.first_id } else { self.first_id.saturating_add(inside) }
    }
}

/// A plan with everything that agents of it share: opened, read and built once.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) plan: Plan,
    recipe: Option<Recipe>,
    tree: Option<OwnedFd>,
    proc: OwnedFd,
    ignored: u64,
}

impl Prepared {
    /// Prepare a plan. `image` is where its image was unpacked, if it has one.
    pub fn new(plan: &Plan, host: &Host, image: Option<&Path>) -> Result<Self, LaunchError> {
        const PROC_SUPER_MAGIC: i64 = 0x9fa0;
        let opened = sys::openat(sys::HERE, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0);
        let proc = opened.map_err(|errno| LaunchError::new("launcher", "opening /proc", errno))?;
        if sys::filesystem_magic(proc.as_raw_fd()) != Ok(PROC_SUPER_MAGIC) {
            return Err(LaunchError::refused("launcher", "/proc is no procfs: nothing is written to it"));
        }
        let (mut recipe, mut tree) = (None, None);
        if plan.level > Level::L1 {
            let made = Recipe::new(plan, image)?;
            if host.root && detached_trees_can_be_copied() {
                tree = Some(made.build(None)?);
            }
            recipe = Some(made);
        }
        Ok(Self { plan: plan.clone(), recipe, tree, proc, ignored: sys::ignored_signals() })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// Kernels before 6.15 copy and fill mounts only where they are attached.
fn detached_trees_can_be_copied() -> bool {
    let probe = || -> sys::Result<()> {
        let tmpfs = sys::Filesystem::open(c"tmpfs")?.mount(0)?;
        sys::mkdirat(tmpfs.as_raw_fd(), c"x", 0o755)?;
        let copy = sys::clone_tree(tmpfs.as_raw_fd(), c"x", false)?;
        let whole = sys::clone_tree(tmpfs.as_raw_fd(), c"", true)?;
        sys::attach(copy.as_raw_fd(), whole.as_raw_fd(), c"x")
    };
    probe().is_ok()
}

/// Told of a process that has been made: its id and a descriptor of it.
pub type OnCloned<'a> = &'a mut dyn FnMut(i32, BorrowedFd) -> std::io::Result<()>;

/// One agent to start.
pub struct Launch<'a> {
    /// Its plan, prepared.
    pub prepared: &'a Prepared,
    /// The command. A first word without a slash is looked for in `PATH` of `env`, inside.
    pub argv: Vec<CString>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<CString>,
    /// Where it starts, inside; the workspace where not given.
    pub cwd: Option<CString>,
    /// Standard input, output and error; /dev/null where not given.
    pub stdio: [Option<RawFd>; 3],
    /// More descriptors: which of ours becomes which of the agent's (3 and above).
    pub pass: Vec<(RawFd, RawFd)>,
    /// Who it is.
    pub identity: &'a Identity,
    /// The writable part; one is made where not given.
    pub workspace: Option<&'a Workspace>,
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// A ready-made network namespace, instead of a fresh one (L3).
    pub netns: Option<RawFd>,
    /// Where init writes the [`crate::init::ExitRecord`]: a pipe, or a regular file (written at its start).
    pub status: Option<RawFd>,
    /// A file in which init counts denied calls: 32 bits each, little-endian, at four times the call's number.
    pub denials: Option<RawFd>,
    /// Where in `status` the record is written, if that is a file.
    pub status_offset: u64,
    /// Descriptor 0 becomes the controlling terminal of the program's session.
    pub tty: bool,
    /// The agent ends when the launcher does.
    pub dies_with_launcher: bool,
    /// It shares the launcher's pid namespace, and has no /proc: for a seed ([`Seed`]), whose forks get namespaces of
    /// their own, beside it and not beneath.
    pub shares_processes: bool,
    /// What init does beside its own work.
    pub hooks: Option<&'a mut dyn Hooks>,
    /// Called in the launcher when the process exists and has its ids, before anything of the agent runs. Where it
    /// fails, or the launcher dies before, the process ends without having run anything.
    pub on_cloned: Option<OnCloned<'a>>,
}

impl<'a> Launch<'a> {
    /// A command with nothing but what is needed.
    pub fn new(prepared: &'a Prepared, identity: &'a Identity, argv: &[&str]) -> Self {
        let text = |words: &[&str]| words.iter().filter_map(|word| CString::new(*word).ok()).collect();
        Self {
            prepared,
            argv: text(argv),
            env: text(&["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/workspace", "LANG=C.UTF-8"]),
            cwd: None,
            stdio: [None; 3],
            pass: Vec::new(),
            identity,
            workspace: None,
            cgroup: None,
            netns: None,
            status: None,
            denials: None,
            status_offset: 0,
            tty: false,
            dies_with_launcher: false,
            shares_processes: false,
            hooks: None,
            on_cloned: None,
        }
    }
}

/// An agent that runs: its main program has been executed.
#[derive(Debug)]
pub struct Launched {
    /// Process id of its init, as the launcher sees it. (At L1, of the program itself.)
    pub pid: i32,
    /// A descriptor of that process.
    pub pidfd: OwnedFd,
    /// What is truly enforced.
    pub applied: Applied,
}

impl Launched {
    /// Wait for its end (the launcher is its parent): the exit code, or 128 and the signal's number.
    pub fn wait(&self) -> Result<i32, Errno> {
        let Some((_, status)) = sys::wait(self.pid, 0)? else {
            return Err(Errno(libc::ECHILD));
        };
        Ok(crate::init::code_of(status))
    }
}

/// Refuse what would go wrong later, before anything is made.
fn check(launch: &Launch, executes: bool) -> Result<(), LaunchError> {
    let plan = &launch.prepared.plan;
    if executes && launch.argv.first().is_none_or(|first| first.is_empty()) {
        return Err(LaunchError::refused("exec", "the command is empty"));
    }
    let identity = launch.identity;
    if identity.first_id == 0 || identity.ids == 0 || identity.first_id.checked_add(identity.ids).is_none() {
        let what =
            format!("ids {} and {} more would reach the host's root or wrap around", identity.first_id, identity.ids);
        return Err(LaunchError::refused("identity", what));
    }
    if identity.ids > 1 && (plan.uid >= identity.ids || plan.gid >= identity.ids) {
        let what = format!("uid {} or gid {} inside is outside the range of {} ids", plan.uid, plan.gid, identity.ids);
        return Err(LaunchError::refused("identity", what));
    }
    if !crate::init::is_plain_name(&identity.hostname) {
        let what = format!("{:?} is no host name", identity.hostname);
        return Err(LaunchError::refused("identity", what));
    }
    if identity.machine_id.len() != 32 || !identity.machine_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(LaunchError::refused("identity", "the machine id is not 32 hexadecimal digits"));
    }
    for (_, target) in &launch.pass {
        if !(3..256).contains(target) {
            return Err(LaunchError::refused("descriptors", format!("{target} is not between 3 and 255")));
        }
    }
    if launch.cgroup.is_none() && !plan.cgroup.controllers().is_empty() {
        return Err(LaunchError::refused("cgroup", "the plan sets limits by cgroup, and no cgroup was given"));
    }
    let threads = std::fs::metadata("/proc/self/task").map_or(0, |meta| std::os::unix::fs::MetadataExt::nlink(&meta));
    if threads > 3 {
        let what = format!("the launcher has {} threads, and must have one: start agents from a spawner", threads - 2);
        return Err(LaunchError::refused("launcher", what));
    }
    Ok(())
}

/// Start an agent. When this returns, its program has been executed with every layer in force.
pub fn launch(mut launch: Launch) -> Result<Launched, LaunchError> {
    check(&launch, true)?;
    let plan = &launch.prepared.plan;
    if plan.level == Level::L1 {
        return l1::launch(&mut launch);
    }
    let failed = |what: &'static str| move |errno| LaunchError::new("launcher", what, errno);
    let root = root_for(&launch)?;
    let doors = launch.cgroup.map(Cgroup::own_doors).transpose()?.unwrap_or_default();
    let unified = launch.cgroup.and_then(Cgroup::unified);
    let (go_read, go_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let (report_read, report_write) = sys::pipe().map_err(failed("making a pipe"))?;

    // The network namespace takes longest: the child makes it itself, while we write its maps.
    let mut namespaces = SANDBOX_NAMESPACES;
    if launch.shares_processes {
        namespaces &= !libc::CLONE_NEWPID;
    }
    // A namespace that the launcher owns cannot be entered from within the agent's user namespace: so the launcher enters
    // it for the time of the clone.
    let visit = network::Visit::begin_if(launch.netns)?;
    // SAFETY: `check` has seen that this process has one thread.
    let side = unsafe { sys::fork_into(namespaces as u64, unified) };
    if !matches!(side, Ok(Side::Child)) {
        visit.end();
    }
    match side.map_err(|errno| LaunchError::new("namespaces", "making the namespaces", errno))? {
        Side::Child => {
            drop((go_write, report_read));
            let outcome = sandbox::run(&mut launch, root, &doors, go_read, &report_write);
            // Only a failure comes back.
            report(&report_write, &outcome);
            sys::exit_now(1)
        }
        Side::Parent(pid, pidfd) => {
            drop((go_read, report_write, doors, root));
            let mapped = map_ids(&launch, 0, pid);
            let started = mapped.and_then(|()| {
                release(&mut launch, pid, &pidfd, &go_write)?;
                await_word(&report_read, b'S', -1)
            });
            match started {
                Ok(()) => Ok(Launched { pid, pidfd, applied: Applied::of(plan, &launch) }),
                Err(error) => {
                    let _ = sys::pidfd_kill(pidfd.as_raw_fd(), libc::SIGKILL);
                    let _ = sys::wait(pid, 0);
                    Err(error)
                }
            }
        }
    }
}

/// All that a sandbox has but those that are made later, in the child: network and cgroup.
const SANDBOX_NAMESPACES: i32 =
    libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// An agent's root with its workspace, where it can be made here: what needs our own rights is made by us, and handed to
/// the child by descriptor.
fn root_for(launch: &Launch) -> Result<Option<OwnedFd>, LaunchError> {
    let Some(tree) = &launch.prepared.tree else {
        return Ok(None);
    };
    let copy = sys::clone_tree(tree.as_raw_fd(), c"", true)
        .map_err(|errno| LaunchError::new("launcher", "copying the root", errno))?;
    let own_workspace;
    let workspace = match launch.workspace {
        Some(given) => given,
        None => {
            own_workspace = Workspace::create(&launch.prepared.plan, launch.identity)?;
            &own_workspace
        }
    };
    if let (Some(upper), Some(recipe)) = (workspace.upper()?, &launch.prepared.recipe) {
        let proc = launch.prepared.proc.as_raw_fd();
        crate::overlay::attach(recipe, copy.as_raw_fd(), upper.as_raw_fd(), launch.identity, proc)?;
    }
    workspace.attach(copy.as_raw_fd())?;
    if launch.workspace.is_none() {
        // Ours goes into the tree whole, where the agent's /proc will cover it: to drop it would mean to wait until the
        // whole kernel has forgotten it. (Last: overlays want it detached.)
        workspace.hide(copy.as_raw_fd())?;
    }
    Ok(Some(copy))
}

/// Let a process run that waits to be let.
fn release(launch: &mut Launch, pid: i32, pidfd: &OwnedFd, go: &OwnedFd) -> Result<(), LaunchError> {
    if let Some(tell) = launch.on_cloned.as_mut()
        && let Err(error) = tell(pid, pidfd.as_fd())
    {
        return Err(LaunchError::refused("launcher", format!("the process could not be recorded: {error}")));
    }
    sys::write(go.as_raw_fd(), b"g").map_err(|errno| LaunchError::new("launcher", "waking the child", errno))?;
    Ok(())
}

/// Wait to be let run; whoever's launcher dies before has nothing to run for.
fn await_release(go: &OwnedFd) -> Result<(), LaunchError> {
    let mut byte = [0u8; 1];
    if sys::read(go.as_raw_fd(), &mut byte) == Ok(1) {
        return Ok(());
    }
    Err(LaunchError::refused("launcher", "the launcher died"))
}

/// Put a plan of level L1 on this very process.
pub(crate) fn confine_self(plan: &Plan, ids: Option<(u32, u32)>) -> Result<(), LaunchError> {
    let confinement = main_process::Confinement::bare(plan, ids)?;
    main_process::put_on(&confinement)
}

/// Write the user and group maps of a child that has just been made. `base` is where the ids begin on the host that our
/// user namespace has as 0.
fn map_ids(launch: &Launch, base: u32, pid: i32) -> Result<(), LaunchError> {
    let identity = launch.identity;
    let plan = &launch.prepared.plan;
    let proc = launch.prepared.proc.as_raw_fd();
    let write = |file: &str, value: &str| {
        let path = CString::new(format!("{pid}/{file}")).unwrap_or_default();
        sys::write_file(proc, &path, value.as_bytes())
            .map_err(|errno| LaunchError::new("identity", format!("writing {value:?} to the child's {file}"), errno))
    };
    if identity.ids > 1 {
        let map = format!("0 {} {}", identity.first_id.saturating_sub(base), identity.ids);
        write("uid_map", &map)?;
        write("gid_map", &map)
    } else {
        // Without rights, one id can be mapped: our own.
        write("setgroups", "deny")?;
        write("uid_map", &format!("{} {} 1", plan.uid, identity.first_id))?;
        write("gid_map", &format!("{} {} 1", plan.gid, sys::ids().1))
    }
}

/// A failure on its way from the child: errno (0: none), length of the layer's name, layer, what.
fn report(to: &OwnedFd, error: &LaunchError) {
    let mut bytes = vec![b'F'];
    bytes.extend(error.errno.map_or(0, |errno| errno.0).to_le_bytes());
    bytes.push(error.layer.len().min(255) as u8);
    bytes.extend(error.layer.bytes().take(255));
    bytes.extend(error.what.bytes().take(2048));
    let _ = sys::write(to.as_raw_fd(), &bytes);
}

/// Wait for a word of init (`S`: its program runs), or for the failure. -1 milliseconds is for ever.
fn await_word(from: &OwnedFd, word: u8, milliseconds: i32) -> Result<(), LaunchError> {
    let failed = |errno| LaunchError::new("launcher", "hearing from init", errno);
    let mut polls = [libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    if milliseconds >= 0 && sys::poll(&mut polls, milliseconds).map_err(failed)? == 0 {
        return Err(LaunchError::refused("launcher", format!("no word of init for {milliseconds} ms")));
    }
    let mut bytes = [0u8; 4096];
    let got = sys::read(from.as_raw_fd(), &mut bytes[..1]).map_err(failed)?;
    if bytes[..got] == [word] {
        return Ok(());
    }
    let more = if got == 0 { 0 } else { sys::read(from.as_raw_fd(), &mut bytes[1..]).unwrap_or(0) };
    Err(parse_report(&bytes[..got + more]))
}

/// What [`report`] has written.
fn parse_report(bytes: &[u8]) -> LaunchError {
    match bytes {
        [b'F', a, b, c, d, n, rest @ ..] if rest.len() >= usize::from(*n) => {
            let errno = i32::from_le_bytes([*a, *b, *c, *d]);
            let (layer, what) = rest.split_at(usize::from(*n));
            LaunchError {
                layer: String::from_utf8_lossy(layer).into_owned(),
                what: String::from_utf8_lossy(what).trim_end_matches('\0').to_owned(),
                errno: (errno != 0).then_some(Errno(errno)),
            }
        }
        _ => LaunchError::refused("launcher", "init died before the program was executed"),
    }
}
