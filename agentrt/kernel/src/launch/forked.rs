//! Agents that are forked from a program which has all its imports done (a *seed*), instead of executed.
//!
//! ```text
//! launcher --fork--> H: enters the seed's user namespace --clone3 (new namespaces)--> init: root, /proc, ... as always
//!    |                                                                                 |
//!    | descriptors of init's namespaces                                                | pid, and where denials are told
//!    v                                                                                 |
//! seed --vfork--> (enters them) --fork--> main: cgroup, limits, capabilities, Landlock, seccomp, then it goes on
//! ```
//!
//! The seed has no rights on the host, none over its own namespace, and none over agents of other seeds. What lets its
//! child into init's namespaces is that they were made beneath the seed's user namespace by the seed's user, whom the
//! kernel therefore takes for their owner.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::main_process::{self, Confinement};
use super::{Identity, Launch, Launched, await_word, check, map_ids, release, report, root_for, sandbox};
use crate::applied::Applied;
use crate::cgroup::Cgroup;
use crate::error::LaunchError;
use crate::plan::Plan;
use crate::policy::Level;
use crate::seccomp::{self, Rules};
use crate::sys::{self, Errno, Side};

/// The namespaces that an agent's program enters, by their names in /proc/PID/ns: the user namespace first, since it
/// gives the right to enter the others.
const NAMESPACES: [(&str, i32); 7] = [
    ("user", libc::CLONE_NEWUSER),
    ("pid", libc::CLONE_NEWPID),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// How long a seed may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long init may take. It is our own program, and others wait for the launcher meanwhile.
const PATIENCE_MS: i32 = 2_000;

/// The plan of a seed for agents of `plan`: the same root and limits, but the way into new namespaces is open (it has no
/// rights with which it could make any), Landlock is left to its children, whose files are others, and so are denials.
pub fn seed_plan(plan: &Plan) -> Plan {
    let mut seed = plan.clone();
    seed.landlock = crate::plan::LandlockPlan::default();
    seed.filter = seccomp::compile(&Rules::seed());
    seed.record_denials = false;
    seed.network = crate::policy::NetworkMode::None;
    seed.capabilities = 0;
    seed
}

/// What agents are forked from.
pub struct Seed {
    user_namespace: OwnedFd,
    /// Of an agent that waits at a checkpoint: its forks' are beneath it, since nobody enters one that is beside his own.
    processes: Option<OwnedFd>,
    /// First of its ids, on the host.
    first_id: u32,
    /// User and group of its program, within its user namespace.
    owner: (u32, u32),
}

impl Seed {
    /// The seed behind `pid`, which [`super::launch`] has started under a [`seed_plan`] and with this identity.
    pub fn new(pid: i32, plan: &Plan, identity: &Identity) -> Result<Self, LaunchError> {
        let owner = (plan.uid, plan.gid);
        Ok(Self { user_namespace: namespace(pid, "user")?, processes: None, first_id: identity.first_id, owner })
    }

    /// The agent behind the init `pid`, that is forked where it says so: first of its ids, and its user and group inside.
    pub fn agent(pid: i32, first_id: u32, owner: (u32, u32)) -> Result<Self, LaunchError> {
        Ok(Self { user_namespace: namespace(pid, "user")?, processes: Some(namespace(pid, "pid")?), first_id, owner })
    }
}

fn namespace(pid: i32, kind: &str) -> Result<OwnedFd, LaunchError> {
    let path = crate::root::c(format!("/proc/{pid}/ns/{kind}").as_bytes());
    sys::openat(sys::HERE, &path, libc::O_RDONLY, 0)
        .map_err(|errno| LaunchError::new("seed", format!("opening its {kind} namespace"), errno))
}

/// Which of the descriptors that a [`Hand`] is given is the agent's network.
pub const NETWORK: usize = 3;

/// Hands the seed what its child needs: the descriptors of [`Parcel`], in their order. The sandbox stands, and nothing of
/// the agent has run yet.
pub type Hand<'a> = &'a mut dyn FnMut(&[BorrowedFd]) -> std::io::Result<()>;

/// A fork that a seed was told to make, and that is not heard of yet: to be settled or ended.
#[must_use]
pub struct Ordered {
    pid: i32,
    pidfd: OwnedFd,
    word: OwnedFd,
    deadline: Instant,
    applied: Applied,
}

impl Ordered {
    /// Process id of its init.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable when there is word of it.
    pub fn word(&self) -> BorrowedFd<'_> {
        self.word.as_fd()
    }

    /// How long its seed may still take.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Hears what has become of it, and waits for that no longer than its seed may take. When this returns the fork runs,
    /// with every layer in force, or it is gone.
    pub fn settle(self) -> Result<Launched, LaunchError> {
        let heard = sys::poll(
            &mut [libc::pollfd { fd: self.word.as_raw_fd(), events: libc::POLLIN, revents: 0 }],
            self.left().as_millis() as i32,
        );
        let settled = match heard {
            Ok(0) => Err(LaunchError::refused("seed", format!("it has not forked within {} s", PATIENCE.as_secs()))),
            Ok(_) => await_word(&self.word, b'S', -1),
            Err(errno) => Err(LaunchError::new("launcher", "hearing from init", errno)),
        };
        match settled {
            Ok(()) => Ok(Launched { pid: self.pid, pidfd: self.pidfd, applied: self.applied }),
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    /// Does away with it.
    pub fn end(self) {
        end(&self.pidfd);
    }
}

/// Ends a child of ours and reaps it, if nobody has done so before.
fn end(pidfd: &OwnedFd) {
    let _ = sys::pidfd_kill(pidfd.as_raw_fd(), libc::SIGKILL);
    sys::pidfd_reap(pidfd.as_raw_fd());
}

/// Has a seed fork an agent. When this returns the sandbox stands, and the seed has its order.
///
/// The identity's ids lie within those of the seed. `hand` sends descriptors to the seed, which gives them to
/// [`fork_agent`].
pub fn launch_forked(mut launch: Launch, seed: &Seed, hand: Hand) -> Result<Ordered, LaunchError> {
    check(&launch, false)?;
    let plan = &launch.prepared.plan;
    if plan.level != Level::L3 {
        return Err(LaunchError::refused("seed", "agents are forked at level L3 alone"));
    }
    let failed = |what: &'static str| move |errno| LaunchError::new("launcher", what, errno);
    let Some(root) = root_for(&launch)? else {
        return Err(LaunchError::refused("seed", "this kernel cannot copy detached mounts (6.15 can)"));
    };
    // The seed's user may not clone into a cgroup of v2: init moves by itself, through doors that the launcher has opened.
    let doors = launch.cgroup.map(Cgroup::doors).transpose()?.unwrap_or_default();
    let (go_read, go_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let (report_read, report_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let (born_read, born_write) = sys::pipe().map_err(failed("making a pipe"))?;
    let (link, far_link) = sys::socketpair(libc::SOCK_SEQPACKET).map_err(failed("making sockets"))?;

    let visit = crate::network::Visit::begin_if(launch.netns)?;
    // SAFETY: `check` has seen that this process has one thread.
    let helper = unsafe { sys::fork() };
    if helper != Ok(0) {
        visit.end();
    }
    if helper.map_err(failed("making a process"))? == 0 {
        drop((go_write, report_read, born_read, far_link));
        // What other agents have is not to be found in a process that the seed's user owns.
        let mut kept = vec![
            go_read.as_raw_fd(),
            report_write.as_raw_fd(),
            born_write.as_raw_fd(),
            link.as_raw_fd(),
            root.as_raw_fd(),
            seed.user_namespace.as_raw_fd(),
            launch.prepared.proc.as_raw_fd(),
        ];
        kept.extend(seed.processes.as_ref().map(AsRawFd::as_raw_fd));
        kept.extend(doors.iter().map(AsRawFd::as_raw_fd).chain(launch.status).chain(launch.denials));
        kept.extend(launch.hooks.as_ref().map(|hooks| hooks.keep()).unwrap_or_default());
        crate::init::close_all_but(kept);
        let error = match bear(&launch, seed) {
            Ok(Some([midwife, pid])) => {
                let _ = sys::write(born_write.as_raw_fd(), &[midwife.to_le_bytes(), pid.to_le_bytes()].concat());
                sys::exit_now(0)
            }
            Ok(None) => sandbox::run_for_fork(&mut launch, root, &doors, go_read, &report_write, link),
            Err(error) => error,
        };
        report(&report_write, &error);
        sys::exit_now(1)
    }
    let helper = helper.unwrap_or(-1);
    drop((go_read, report_write, born_write, link));
    let mut pids = [0u8; 8];
    let born = sys::read(born_read.as_raw_fd(), &mut pids);
    let [midwife, pid] = [&pids[..4], &pids[4..]].map(|raw| raw.try_into().map(i32::from_le_bytes).unwrap_or(-1));
    let _ = sys::wait(helper, 0);
    if born == Ok(8) && midwife != helper {
        let _ = sys::wait(midwife, 0);
    }
    if born != Ok(8) {
        return Err(await_word(&report_read, b'R', PATIENCE_MS)
            .err()
            .unwrap_or_else(|| LaunchError::refused("seed", "the helper died before there was an init")));
    }
    let pidfd = sys::pidfd_open(pid).map_err(failed("opening init"))?;
    let whole = || -> Result<(), LaunchError> {
        release(&mut launch, pid, &pidfd, &go_write)?;
        await_word(&report_read, b'R', PATIENCE_MS)?;
        let mut parcel = Vec::new();
        for (name, _) in NAMESPACES {
            let path = crate::root::c(format!("{pid}/ns/{name}").as_bytes());
            let opened = sys::openat(launch.prepared.proc.as_raw_fd(), &path, libc::O_RDONLY, 0);
            parcel.push(opened.map_err(failed("opening a namespace of init"))?);
        }
        let mut descriptors: Vec<BorrowedFd> = parcel.iter().map(|fd| sys::borrow(fd.as_raw_fd())).collect();
        descriptors.push(sys::borrow(far_link.as_raw_fd()));
        descriptors.extend(launch.stdio.iter().flatten().map(|fd| sys::borrow(*fd)));
        descriptors.extend(launch.pass.iter().map(|(fd, _)| sys::borrow(*fd)));
        // v2: its parent is in another cgroup, so it moves as with v1.
        let own = launch.cgroup.map(Cgroup::doors).transpose()?.unwrap_or_default();
        descriptors.extend(own.iter().map(|fd| sys::borrow(fd.as_raw_fd())));
        hand(&descriptors).map_err(|error| LaunchError::refused("seed", format!("it takes no order: {error}")))?;
        drop((descriptors, far_link));
        Ok(())
    };
    match whole() {
        Ok(()) => {
            let (deadline, applied) = (Instant::now() + PATIENCE, Applied::of(plan, &launch));
            Ok(Ordered { pid, pidfd, word: report_read, deadline, applied })
        }
        Err(error) => {
            end(&pidfd);
            Err(error)
        }
    }
}

/// In the helper: become the seed's user in its namespace, and bear init, a child of the launcher. Gives the ids of whoever
/// has borne it and of init, as the launcher has them; `None` in init.
fn bear(launch: &Launch, seed: &Seed) -> Result<Option<[i32; 2]>, LaunchError> {
    let failed = |what: &'static str| move |errno| LaunchError::new("seed", what, errno);
    sys::setns(seed.user_namespace.as_raw_fd(), libc::CLONE_NEWUSER as u64)
        .map_err(failed("entering its user namespace"))?;
    if let Some(processes) = &seed.processes {
        sys::setns(processes.as_raw_fd(), libc::CLONE_NEWPID as u64)
            .map_err(failed("entering its namespace of processes"))?;
        // Only who is born from now on is in there.
        // SAFETY: a copy of a process that had one thread.
        if let Side::Parent(..) = unsafe { sys::fork_into(libc::CLONE_PARENT as u64, None) }
            .map_err(failed("making a process in its namespace"))?
        {
            sys::exit_now(0);
        }
    }
    sys::clear_groups().map_err(failed("leaving the launcher's groups"))?;
    sys::set_gid(seed.owner.1).and_then(|()| sys::set_uid(seed.owner.0)).map_err(failed("becoming its user"))?;
    // Else init's maps could not be written: their files would belong to the host's root.
    sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).map_err(failed("showing the helper"))?;
    let namespaces = super::SANDBOX_NAMESPACES | libc::CLONE_PARENT;
    // SAFETY: a copy of a process that had one thread.
    match unsafe { sys::fork_into(namespaces as u64, None) }.map_err(failed("making the namespaces"))? {
        Side::Child => Ok(None),
        Side::Parent(_, pidfd) => {
            let proc = launch.prepared.proc.as_raw_fd();
            let own = sys::own_pid_in(proc).map_err(failed("finding itself"))?;
            let pid = sys::pid_in(proc, pidfd.as_raw_fd()).map_err(failed("finding init"))?;
            map_ids(launch, seed.first_id, pid)?;
            Ok(Some([own, pid]))
        }
    }
}

/// What the seed was handed for one agent.
pub struct Parcel {
    namespaces: Vec<OwnedFd>,
    link: OwnedFd,
    stdio: Vec<OwnedFd>,
    /// Descriptors for the agent beside those, as they were passed.
    pass: Vec<OwnedFd>,
    doors: Vec<OwnedFd>,
}

impl Parcel {
    /// From descriptors as `hand` was given them; `passed` of them are for the agent beside its standard streams.
    pub fn new(mut descriptors: Vec<OwnedFd>, passed: usize) -> Option<Self> {
        let fixed = NAMESPACES.len() + 1 + 3 + passed;
        if descriptors.len() < fixed {
            return None;
        }
        let doors = descriptors.split_off(fixed);
        let pass = descriptors.split_off(NAMESPACES.len() + 1 + 3);
        let stdio = descriptors.split_off(NAMESPACES.len() + 1);
        let link = descriptors.pop()?;
        Some(Self { namespaces: descriptors, link, stdio, pass, doors })
    }
}

/// Which side of [`fork_agent`] we are on.
pub enum Forked {
    /// The seed goes on.
    Seed,
    /// The agent, not confined yet: [`Parcel::put_on`] comes next.
    Agent,
}

/// Fork the calling process (which must have one thread) into the namespaces of a parcel. A seed ignores SIGCHLD, and so
/// has the kernel reap its forks; an agent cannot, and leaves them to its init with `to_init`.
pub fn fork_agent(parcel: &Parcel, to_init: bool) -> Result<Forked, Errno> {
    let mut calls = [[0i64; 2]; NAMESPACES.len()];
    for ((call, namespace), (_, kind)) in calls.iter_mut().zip(&parcel.namespaces).zip(NAMESPACES) {
        *call = [i64::from(namespace.as_raw_fd()), i64::from(kind)];
    }
    // SAFETY: the caller has one thread, and `calls` holds descriptors and kinds of namespaces.
    let pid = unsafe { sys::fork_through(&calls, to_init) }?;
    if pid != 0 && to_init {
        let _ = sys::wait(pid, 0);
    }
    Ok(if pid == 0 { Forked::Agent } else { Forked::Seed })
}

impl Parcel {
    /// In the agent: cgroup, streams, limits, capabilities, Landlock, seccomp, for good. Gives the descriptors that were
    /// passed, numbered from 3 on; every other one is closed. On failure this process has to end at once.
    pub fn put_on(self, plan: &Plan) -> Result<usize, LaunchError> {
        let failed = |layer: &'static str, what: &'static str| move |errno| LaunchError::new(layer, what, errno);
        sys::new_session().map_err(failed("launcher", "starting a session"))?;
        for door in &self.doors {
            sys::write(door.as_raw_fd(), b"0").map_err(failed("cgroup", "moving into the cgroup"))?;
        }
        // Above every target, so that no copy covers another's source.
        let passed = self.pass.len();
        let least = 3 + passed as RawFd + 1;
        let mut sources = Vec::new();
        for fd in self.stdio.iter().chain(&self.pass) {
            sources.push(sys::dup_above(fd.as_raw_fd(), least).map_err(failed("descriptors", "copying a descriptor"))?);
        }
        let link = sys::dup_above(self.link.as_raw_fd(), least + sources.len() as RawFd)
            .map_err(failed("descriptors", "copying a descriptor"))?;
        drop(self);
        for (target, source) in sources.iter().enumerate() {
            sys::dup_to(source.as_raw_fd(), target as RawFd).map_err(failed("descriptors", "placing a descriptor"))?;
        }
        drop(sources);
        let link_at = link.as_raw_fd();
        crate::init::close_all_but((0..3 + passed as RawFd).chain([link_at]).collect());
        let home = plan.workspace.as_ref().filter(|w| w.kind != crate::policy::WorkspaceKind::None);
        let home: CString = home.map_or(c"/".to_owned(), |w| crate::root::c(w.path.as_os_str().as_encoded_bytes()));
        sys::change_directory(&home).map_err(failed("root", "entering the workspace"))?;
        let pid = std::process::id().to_le_bytes();
        sys::write(link_at, &pid).map_err(failed("launcher", "telling init who we are"))?;
        let confinement = Confinement::prepare(plan, true)?;
        let outcome = main_process::put_on_telling(&confinement, Some(link_at));
        // Changed ids made it undumpable; a program that was executed is not.
        let _ = sys::prctl(libc::PR_SET_DUMPABLE, 1, 0);
        drop(confinement);
        outcome?;
        sys::write(link_at, b"k").map_err(failed("launcher", "telling init that we are confined"))?;
        drop(link);
        Ok(passed)
    }
}

/// From raw descriptors that were received and are owned by nobody else.
///
/// # Safety
/// Each must be an open descriptor that nothing else closes.
pub unsafe fn own(descriptors: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: promised by the caller.
    descriptors.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect()
}
