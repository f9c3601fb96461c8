//! What a launcher is asked for: a prepared plan, a command, and what it gets on its way.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use crate::cgroup::Cgroup;
use crate::error::LaunchError;
use crate::host::Host;
use crate::identity::Identity;
use crate::init::Hooks;
use crate::plan::Plan;
use crate::policy::Level;
use crate::root::Recipe;
use crate::sys;
use crate::workspace::Workspace;

/// A plan with everything that agents of it share: opened, read and built once.
#[derive(Debug)]
pub struct Prepared {
    pub(super) plan: Plan,
    pub(super) recipe: Option<Recipe>,
    pub(super) tree: Option<OwnedFd>,
    pub(super) proc: OwnedFd,
    pub(super) ignored: u64,
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
