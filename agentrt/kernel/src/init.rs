//! init: process 1 of an agent. It reaps, forwards signals, notes denied calls, and tells how the main program ended.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::{self, Errno};

/// What init does beside its own work; runs within init, which has one thread.
pub trait Hooks {
    /// Descriptors that init keeps open. All others are closed.
    fn keep(&self) -> Vec<RawFd>;
    /// Add what is to be polled.
    fn interest(&mut self, polls: &mut Vec<libc::pollfd>);
    /// Called after each poll, with the entries that [`Hooks::interest`] has added.
    fn ready(&mut self, polls: &[libc::pollfd]);
    /// Milliseconds until [`Hooks::ready`] is to be called at the latest; -1 for no limit.
    fn timeout_ms(&self) -> i32 {
        -1
    }
    /// The main program has ended; called before the record is written.
    fn exited(&mut self, record: &ExitRecord);
}

/// How the main program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// Exit code, where it exited.
    pub code: Option<i32>,
    /// Signal, where one killed it.
    pub signal: Option<i32>,
    /// Denied system calls of the agent that were noted, all together.
    pub denied: u64,
    /// Wall clock at its end, nanoseconds since 1970.
    pub at_ns: u64,
}

impl ExitRecord {
    /// Length as bytes.
    pub const SIZE: usize = 32;
    const MAGIC: u32 = 0x3158_4B41;

    /// As 32 bytes.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let (kind, value) = self.signal.map_or((0u32, self.code.unwrap_or(0)), |signal| (1, signal));
        out[0..4].copy_from_slice(&Self::MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&kind.to_le_bytes());
        out[8..12].copy_from_slice(&value.to_le_bytes());
        out[16..24].copy_from_slice(&self.denied.to_le_bytes());
        out[24..32].copy_from_slice(&self.at_ns.to_le_bytes());
        out
    }

    /// From bytes; `None` where they are no record (yet).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        if word(0)? != Self::MAGIC {
            return None;
        }
        let value = word(8)? as i32;
        let (code, signal) = match word(4)? {
            0 => (Some(value), None),
            1 => (None, Some(value)),
            _ => return None,
        };
        Some(Self { code, signal, denied: long(16)?, at_ns: long(24)? })
    }
}

/// The exit code that stands for a wait status: the code, or 128 and the signal's number.
pub fn code_of(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Letters, digits, dots and dashes, 1 to 64 of them.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

/// The agent's program.
pub(crate) enum Main {
    /// A child of ours.
    Child(i32),
    /// One that came from elsewhere into our pid namespace: its id here, and a descriptor of it.
    Adopted(i32, OwnedFd),
}

impl Main {
    fn pid(&self) -> i32 {
        match self {
            Self::Child(pid) | Self::Adopted(pid, _) => *pid,
        }
    }

    /// Reap whoever has ended; the wait status of the program if it has.
    fn ended(&self, supervisor: bool) -> Option<i32> {
        // A supervisor has one child; process 1 inherits every orphan.
        let whom = if supervisor { self.pid() } else { -1 };
        let mut of_main = None;
        while let Ok(Some((pid, status))) = sys::wait(whom, libc::WNOHANG) {
            if matches!(self, Self::Child(main) if pid == *main) {
                of_main = Some(status);
            }
        }
        match self {
            Self::Child(_) => of_main,
            Self::Adopted(_, pidfd) => sys::pidfd_exit_status(pidfd.as_raw_fd()),
        }
    }
}

/// What [`run`] needs.
pub(crate) struct Init<'a> {
    pub main: Main,
    pub status: Option<(RawFd, u64)>,
    pub denials: Option<RawFd>,
    pub notes: Option<OwnedFd>,
    pub hooks: Option<&'a mut dyn Hooks>,
    /// Not process 1, but the parent, outside, of one more process in a running sandbox.
    pub supervisor: bool,
}

/// Look after an agent until its main program ends. Never returns: ends this process with the program's code.
pub(crate) fn run(init: Init) -> ! {
    let Init { main, status, denials, mut notes, mut hooks, supervisor } = init;
    let signals = sys::signalfd();
    let mut kept: Vec<RawFd> = [status.map(|(fd, _)| fd), denials].into_iter().flatten().collect();
    kept.extend(signals.as_ref().ok().map(AsRawFd::as_raw_fd));
    kept.extend(notes.as_ref().map(AsRawFd::as_raw_fd));
    if let Main::Adopted(_, pidfd) = &main {
        kept.push(pidfd.as_raw_fd());
    }
    kept.extend(hooks.as_ref().map(|hooks| hooks.keep()).unwrap_or_default());
    close_all_but(kept);
    // What is left to do needs no rights but that of passing signals on.
    const CAP_KILL: u64 = 1 << 5;
    let _ = sys::set_capabilities(CAP_KILL).or_else(|_| sys::set_capabilities(0));
    let _ = sys::no_new_privileges();

    let mut noted = 0u64;
    let mut polls: Vec<libc::pollfd> = Vec::new();
    loop {
        if let Some(status_of_main) = main.ended(supervisor) {
            let signal = libc::WIFSIGNALED(status_of_main).then(|| libc::WTERMSIG(status_of_main));
            let code = signal.is_none().then(|| libc::WEXITSTATUS(status_of_main));
            let record = ExitRecord { code, signal, denied: noted, at_ns: now_ns() };
            if let Some(hooks) = hooks.as_mut() {
                hooks.exited(&record);
            }
            if let Some((to, offset)) = status {
                tell(to, offset, &record);
            }
            sys::exit_now(code_of(status_of_main));
        }
        polls.clear();
        let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        polls.push(entry(signals.as_ref().map_or(-1, AsRawFd::as_raw_fd)));
        polls.push(entry(notes.as_ref().map_or(-1, AsRawFd::as_raw_fd)));
        polls.push(entry(if let Main::Adopted(_, pidfd) = &main { pidfd.as_raw_fd() } else { -1 }));
        let mut limit = if signals.is_ok() { -1 } else { 100 };
        if let Some(hooks) = hooks.as_mut() {
            hooks.interest(&mut polls);
            limit = hooks.timeout_ms();
        }
        if sys::poll(&mut polls, limit).is_err() {
            continue;
        }
        if polls[0].revents != 0 {
            forward_signals(polls[0].fd, main.pid());
        }
        if polls[1].revents & libc::POLLIN != 0 {
            noted += u64::from(answer_denial(polls[1].fd, denials));
        } else if polls[1].revents != 0 {
            // Nobody is left under the filter: polled again, it would say so without end.
            notes = None;
        }
        if polls[2].revents != 0 && sys::pidfd_exit_status(polls[2].fd).is_none() {
            // Ended, and not reaped yet by whoever is its parent: the kernel tells how only then.
            let _ = sys::poll(&mut [], 1);
        }
        if let Some(hooks) = hooks.as_mut() {
            hooks.ready(&polls[3..]);
        }
    }
}

/// Close every descriptor that is not listed.
pub(crate) fn close_all_but(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    kept.dedup();
    let mut next = 0u32;
    for fd in kept {
        if fd as u32 > next {
            let _ = sys::close_range(next, fd as u32 - 1, 0);
        }
        next = fd as u32 + 1;
    }
    let _ = sys::close_range(next, u32::MAX, 0);
}

fn forward_signals(fd: RawFd, main: i32) {
    let mut info = [0u8; 128];
    while sys::read(fd, &mut info) == Ok(128) {
        let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        match signal {
            libc::SIGCHLD => {}
            // To the whole session of the program: it leads one.
            libc::SIGTSTP | libc::SIGCONT | libc::SIGWINCH => drop(sys::kill(-main, signal)),
            _ => drop(sys::kill(main, signal)),
        }
    }
}

/// Answer one denied call with EPERM, after counting it.
fn answer_denial(listener: RawFd, denials: Option<RawFd>) -> bool {
    const RECEIVE: u64 = 0xC050_2100;
    const SEND: u64 = 0xC018_2101;
    // seccomp_notif is 80 bytes: id, pid, flags, then the number at 16; seccomp_notif_resp is 24.
    let mut call = [0u64; 10];
    // SAFETY: `call` has the size that the request wants, and is zeroed as the kernel demands.
    if unsafe { libc::ioctl(listener, RECEIVE as _, call.as_mut_ptr()) } < 0 {
        return false;
    }
    let number = call[2] as u32;
    if let Some(file) = denials.filter(|_| number < 1024) {
        count(file, number);
    }
    let answer = [call[0], 0, u64::from((-libc::EPERM) as u32)];
    // SAFETY: `answer` is laid out as seccomp_notif_resp: id, value, error, flags.
    unsafe { libc::ioctl(listener, SEND as _, answer.as_ptr()) };
    true
}

/// Add one to the counter of a call. init alone writes the file.
fn count(file: RawFd, number: u32) {
    let (mut bytes, at) = ([0u8; 4], i64::from(number) * 4);
    // SAFETY: `bytes` is live and four bytes long in both calls.
    unsafe {
        libc::pread(file, bytes.as_mut_ptr().cast(), 4, at);
        let next = u32::from_le_bytes(bytes).saturating_add(1).to_le_bytes();
        libc::pwrite(file, next.as_ptr().cast(), 4, at);
    }
}

fn tell(to: RawFd, offset: u64, record: &ExitRecord) {
    let bytes = record.to_bytes();
    // SAFETY: `bytes` is live and of this size.
    let written = unsafe { libc::pwrite(to, bytes.as_ptr().cast(), bytes.len(), offset as i64) };
    if written < 0 && Errno::last().0 == libc::ESPIPE {
        let _ = sys::write(to, &bytes);
    }
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}
