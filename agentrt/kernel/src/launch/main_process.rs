//! The last steps before `execve`, in the process that becomes the agent's program.
//!
//! It is made by vfork: it runs on memory that it shares with init, which sleeps meanwhile. So everything that needs
//! memory is made ready before ([`Confinement`], [`Program`]), and [`body`] only makes system calls.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Launch;
use crate::error::LaunchError;
use crate::plan::Plan;
use crate::sys::{self, Errno, Instruction, fs};

/// Everything that confines a process, ready to be put on.
pub(crate) struct Confinement<'a> {
    ruleset: Option<OwnedFd>,
    filter: &'a [Instruction],
    note: bool,
    limits: &'a [crate::plan::ResourceLimit],
    keep: u64,
    last_capability: u32,
    /// Bounding set, securebits: they take CAP_SETPCAP, which a user namespace gives (and root has at L1).
    bounded: bool,
    ids: Option<(u32, u32)>,
    groups: bool,
}

impl<'a> Confinement<'a> {
    /// Make ready what a plan says, where its paths are those of the current root.
    pub(crate) fn prepare(plan: &'a Plan, ranged: bool) -> Result<Self, LaunchError> {
        Ok(Self {
            ruleset: ruleset(plan)?,
            filter: &plan.filter,
            note: plan.record_denials,
            limits: &plan.limits,
            keep: plan.capabilities,
            last_capability: plan.last_capability,
            bounded: true,
            ids: ranged.then_some((plan.uid, plan.gid)),
            groups: ranged,
        })
    }

    /// For a process without namespaces of its own: ids outside, and rights only as far as the launcher has them.
    pub(crate) fn bare(plan: &'a Plan, ids: Option<(u32, u32)>) -> Result<Self, LaunchError> {
        let mut confinement = Self::prepare(plan, false)?;
        (confinement.bounded, confinement.groups, confinement.ids) = (ids.is_some(), ids.is_some(), ids);
        Ok(confinement)
    }
}

/// The ruleset of a plan.
fn ruleset(plan: &Plan) -> Result<Option<OwnedFd>, LaunchError> {
    let landlock = &plan.landlock;
    if landlock.files == 0 && landlock.network == 0 && landlock.scoped == 0 {
        return Ok(None);
    }
    let failed = |what: String| move |errno| LaunchError::new("landlock", what, errno);
    let ruleset = sys::landlock_ruleset(landlock.version, landlock.files, landlock.network, landlock.scoped)
        .map_err(failed("making a ruleset".into()))?;
    for (path, access) in if landlock.files == 0 { &[][..] } else { &landlock.paths } {
        let name = crate::root::c(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        let opened = match sys::openat(sys::HERE, &name, libc::O_PATH, 0) {
            Ok(opened) => opened,
            // What is not there cannot be reached; were it made later, it stays denied.
            Err(Errno(libc::ENOENT)) => continue,
            Err(errno) => return Err(failed(format!("opening {}", path.display()))(errno)),
        };
        let mut rights = access.rights() & landlock.files;
        let is_directory =
            sys::stat(opened.as_raw_fd(), c"").is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        if !is_directory {
            rights &= fs::EXECUTE | fs::READ_FILE | fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV;
        }
        sys::landlock_allow_path(ruleset.as_raw_fd(), opened.as_raw_fd(), rights)
            .map_err(failed(format!("allowing {}", path.display())))?;
    }
    for (port, rights) in &landlock.ports {
        sys::landlock_allow_port(ruleset.as_raw_fd(), *port, *rights)
            .map_err(failed(format!("allowing port {port}")))?;
    }
    Ok(Some(ruleset))
}

/// What is executed, and with which descriptors.
pub(crate) struct Program {
    candidates: Vec<CString>,
    _argv: Vec<CString>,
    _env: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    cwd: CString,
    /// Copies of the descriptors, all above every target, and their targets.
    descriptors: Vec<(OwnedFd, RawFd)>,
    first_free: u32,
    tty: bool,
    ignored: u64,
    pub(crate) dies_with_parent: bool,
}

impl Program {
    /// Make ready what `launch` says.
    pub(crate) fn prepare(launch: &Launch) -> Result<Self, LaunchError> {
        let failed = |what: &'static str| move |errno| LaunchError::new("descriptors", what, errno);
        let mut targets: Vec<(RawFd, RawFd)> = launch.pass.clone();
        let null = if launch.stdio.iter().any(Option::is_none) {
            Some(sys::openat(sys::HERE, c"/dev/null", libc::O_RDWR, 0).map_err(failed("opening /dev/null"))?)
        } else {
            None
        };
        for (target, source) in launch.stdio.iter().enumerate() {
            let source = source.or(null.as_ref().map(AsRawFd::as_raw_fd));
            targets.push((source.unwrap_or(-1), target as RawFd));
        }
        let first_free = targets.iter().map(|(_, target)| target + 1).max().unwrap_or(3);
        let mut descriptors = Vec::with_capacity(targets.len());
        for (source, target) in targets {
            let copy = sys::dup_above(source, first_free).map_err(failed("copying a descriptor for the agent"))?;
            descriptors.push((copy, target));
        }
        let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
            words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, env) = (launch.argv.clone(), launch.env.clone());
        let workspace = launch.prepared.plan.workspace.as_ref();
        let home = workspace.filter(|w| w.kind != crate::policy::WorkspaceKind::None);
        let home = home.map_or(c"/".to_owned(), |w| crate::root::c(w.path.as_os_str().as_encoded_bytes()));
        Ok(Self {
            candidates: candidates(&argv, &env),
            argv: pointers(&argv),
            env: pointers(&env),
            _argv: argv,
            _env: env,
            cwd: launch.cwd.clone().unwrap_or(home),
            descriptors,
            first_free: first_free as u32,
            tty: launch.tty,
            ignored: launch.prepared.ignored,
            dies_with_parent: false,
        })
    }
}

/// Where the command may lie: itself, or in each directory of `PATH`.
fn candidates(argv: &[CString], env: &[CString]) -> Vec<CString> {
    let Some(command) = argv.first() else {
        return Vec::new();
    };
    if command.as_bytes().contains(&b'/') {
        return vec![command.clone()];
    }
    let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/usr/bin:/bin");
    path.split(|byte| *byte == b':')
        .filter(|directory| directory.starts_with(b"/"))
        .map(|directory| crate::root::c(&[directory, b"/", command.as_bytes()].concat()))
        .collect()
}

/// Where [`body`] failed; told by number, since it cannot make text.
#[derive(Clone, Copy)]
struct Failure {
    layer: &'static str,
    what: &'static str,
    index: usize,
    errno: Errno,
}

/// Start the program: its process id, and the descriptor on which denied calls are told.
pub(crate) fn start(confinement: &Confinement, program: &Program) -> Result<(i32, Option<OwnedFd>), LaunchError> {
    let failed = |what: &'static str| move |errno| LaunchError::new("launcher", what, errno);
    let stack = sys::Stack::new(64 << 10).map_err(failed("mapping a stack"))?;
    let notes = if confinement.note {
        Some(sys::socketpair(libc::SOCK_DGRAM).map_err(failed("making sockets"))?)
    } else {
        None
    };
    let sender = notes.as_ref().map(|(_, sender)| sender.as_raw_fd());
    let mut failure: Option<Failure> = None;
    let mut run = || -> i32 {
        failure = Some(body(confinement, program, sender));
        127
    };
    // SAFETY: `body` makes system calls alone, on memory that was made before, and ends in execve or exit.
    let pid = unsafe { sys::vfork_on(&stack, &mut run) }.map_err(failed("making the main process"))?;
    if let Some(failure) = failure {
        let _ = sys::wait(pid, 0);
        return Err(told(failure, confinement, program));
    }
    let listener = match notes {
        Some((receiver, _)) => match receive_descriptor(receiver.as_raw_fd(), libc::MSG_DONTWAIT) {
            Ok(listener) => Some(listener),
            // Killed on the way there: whoever reaps it will say so, and nothing can be denied any more.
            Err(Errno(libc::EAGAIN)) => None,
            Err(errno) => return Err(failed("receiving the filter's descriptor")(errno)),
        },
        None => None,
    };
    Ok((pid, listener))
}

/// The same in a process of its own (a copy of the launcher), which may allocate; returns only what failed.
pub(super) fn body_with_report(confinement: &Confinement, program: &Program) -> LaunchError {
    told(body(confinement, program, None), confinement, program)
}

fn told(failure: Failure, confinement: &Confinement, program: &Program) -> LaunchError {
    let Failure { layer, what, index, errno } = failure;
    let detail = match what {
        "setting the limit" => confinement.limits.get(index).map(|limit| limit.key.clone()),
        "executing" => program._argv.first().map(|command| command.to_string_lossy().into_owned()),
        "entering the directory" => Some(program.cwd.to_string_lossy().into_owned()),
        _ => None,
    };
    let what = detail.map_or(what.to_owned(), |detail| format!("{what} {detail}"));
    LaunchError { layer: layer.to_owned(), what, errno: (errno.0 != 0).then_some(errno) }
}

/// System calls alone: no allocation, no locks. Returns only when something failed.
fn body(confinement: &Confinement, program: &Program, notes: Option<RawFd>) -> Failure {
    macro_rules! step {
        ($layer:literal, $what:literal, $call:expr) => {
            step!($layer, $what, $call, 0)
        };
        ($layer:literal, $what:literal, $call:expr, $index:expr) => {
            match $call {
                Ok(value) => value,
                Err(errno) => return Failure { layer: $layer, what: $what, index: $index, errno },
            }
        };
    }
    step!("launcher", "starting a session", sys::new_session());
    sys::default_signals(program.ignored);
    step!("launcher", "unblocking signals", sys::unblock_signals());
    for (copy, target) in &program.descriptors {
        step!("descriptors", "placing a descriptor", sys::dup_to(copy.as_raw_fd(), *target));
    }
    if program.tty {
        step!("descriptors", "making descriptor 0 the terminal of the session", sys::take_terminal(0));
    }
    const CLOSE_ON_EXEC: u32 = 4;
    step!("descriptors", "closing the others", sys::close_range(program.first_free, u32::MAX, CLOSE_ON_EXEC));
    step!("root", "entering the directory", sys::change_directory(&program.cwd));
    if !step!("root", "looking where the directory is", sys::directory_is_reachable()) {
        return Failure { layer: "root", what: "the directory is not beneath the root", index: 0, errno: Errno(0) };
    }
    for (index, limit) in confinement.limits.iter().enumerate() {
        step!("limits", "setting the limit", sys::set_limit(0, limit.resource, limit.value), index);
    }
    let confined = credentials_and_filters(confinement, notes);
    if program.dies_with_parent {
        // After the ids have changed: that clears it.
        step!(
            "launcher",
            "tying the program to its supervisor",
            sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
        );
    }
    confined.map_or_else(
        |failure| failure,
        |()| {
            let mut errno = Errno(libc::ENOENT);
            for candidate in &program.candidates {
                // SAFETY: both arrays were made from live C strings and end in a null pointer.
                let refused = unsafe { sys::execve(candidate, program.argv.as_ptr(), program.env.as_ptr()) };
                if refused.0 != libc::ENOENT {
                    errno = refused;
                }
            }
            Failure { layer: "exec", what: "executing", index: 0, errno }
        },
    )
}

/// Ids, capabilities, Landlock, seccomp, in the order in which each still may be done.
fn credentials_and_filters(confinement: &Confinement, notes: Option<RawFd>) -> Result<(), Failure> {
    macro_rules! step {
        ($layer:literal, $what:literal, $call:expr) => {
            $call.map_err(|errno| Failure { layer: $layer, what: $what, index: 0, errno })?
        };
    }
    if confinement.bounded {
        // No root by number: NOROOT, NO_SETUID_FIXUP, both locked.
        step!("capabilities", "locking securebits", sys::prctl(libc::PR_SET_SECUREBITS, 0x0F, 0));
        step!(
            "capabilities",
            "dropping the bounding set",
            sys::bound_capabilities(confinement.keep, confinement.last_capability)
        );
    }
    if confinement.groups {
        step!("identity", "leaving groups", sys::clear_groups());
    }
    if let Some((uid, gid)) = confinement.ids {
        step!("identity", "setting the group", sys::set_gid(gid));
        step!("identity", "setting the user", sys::set_uid(uid));
    }
    step!("capabilities", "dropping capabilities", sys::set_capabilities(confinement.keep));
    for capability in (0..=confinement.last_capability).filter(|c| confinement.keep & (1 << c) != 0) {
        const RAISE: u64 = 2;
        step!("capabilities", "keeping a capability", sys::prctl(libc::PR_CAP_AMBIENT, RAISE, u64::from(capability)));
    }
    step!("seccomp", "giving up new privileges", sys::no_new_privileges());
    if let Some(ruleset) = &confinement.ruleset {
        step!("landlock", "restricting the process", sys::landlock_restrict(ruleset.as_raw_fd()));
    }
    let listener = step!("seccomp", "installing the filter", sys::install_filter(confinement.filter, confinement.note));
    if let (Some(listener), Some(to)) = (listener, notes) {
        step!("seccomp", "handing over the filter's descriptor", send_descriptor(to, listener.as_raw_fd()));
        drop(listener);
    }
    Ok(())
}

/// Put a confinement on the calling thread itself.
pub(crate) fn put_on(confinement: &Confinement) -> Result<(), LaunchError> {
    put_on_telling(confinement, None)
}

/// The same; where denied calls are told is sent over the socket `notes`.
pub(super) fn put_on_telling(confinement: &Confinement, notes: Option<RawFd>) -> Result<(), LaunchError> {
    for limit in confinement.limits {
        sys::set_limit(0, limit.resource, limit.value)
            .map_err(|errno| LaunchError::new("limits", format!("setting the limit {}", limit.key), errno))?;
    }
    credentials_and_filters(confinement, notes)
        .map_err(|failure| LaunchError::new(failure.layer, failure.what, failure.errno))
}

#[repr(C, align(8))]
struct Control([u8; 24]);

fn message(byte: &mut u8, part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    part.iov_base = std::ptr::from_mut(byte).cast();
    part.iov_len = 1;
    // SAFETY: an all-zero msghdr is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = 24;
    header
}

fn send_descriptor(to: RawFd, fd: RawFd) -> sys::Result<()> {
    let (mut byte, mut control) = (0u8, Control([0; 24]));
    control.0[..8].copy_from_slice(&20u64.to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    control.0[16..20].copy_from_slice(&fd.to_ne_bytes());
    let mut part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let header = message(&mut byte, &mut part, &mut control);
    // SAFETY: the header points to live values of this frame.
    if unsafe { libc::sendmsg(to, &raw const header, libc::MSG_NOSIGNAL) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

pub(super) fn receive_descriptor(from: RawFd, flags: i32) -> sys::Result<OwnedFd> {
    let (mut byte, mut control) = (0u8, Control([0; 24]));
    let mut part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut header = message(&mut byte, &mut part, &mut control);
    // SAFETY: the header points to live values of this frame.
    let got = unsafe { libc::recvmsg(from, &raw mut header, libc::MSG_CMSG_CLOEXEC | flags) };
    if got < 0 {
        return Err(Errno::last());
    }
    let fd = RawFd::from_ne_bytes([control.0[16], control.0[17], control.0[18], control.0[19]]);
    if header.msg_controllen < 20 || fd < 0 {
        return Err(Errno(libc::EBADF));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
