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
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

mod forked;
mod into;
mod l1;
mod main_process;
pub mod request;
mod sandbox;

pub use forked::{Forked, Hand, NETWORK, Ordered, Parcel, Seed, fork_agent, launch_forked, own, seed_plan};
pub use into::launch_into;
pub use request::{Launch, OnCloned, Prepared};

use crate::applied::Applied;
use crate::cgroup::Cgroup;
use crate::error::LaunchError;
use crate::identity::Identity;
use crate::network;
use crate::plan::Plan;
use crate::policy::Level;
use crate::sys::{self, Errno, Side};
use crate::workspace::Workspace;

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
