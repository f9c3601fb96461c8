//! The spawner's loop.

use super::launch::{Forking, Launching, Sandboxes};
use super::protocol::{Answer, Ask, MOST_BYTES, Reply, Request, VERSION};
use super::wire;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, listen, socket_with};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a new spawner waits for its first daemon.
const FIRST_MS: u64 = 10_000;
/// Nothing asked for so long: there is time to make something ahead.
const QUIET: Duration = Duration::from_millis(3);

pub fn socket_path(root: &Path, index: u32) -> PathBuf {
    root.join(format!("spawner-{index}.sock"))
}

pub fn lock_path(root: &Path, index: u32) -> PathBuf {
    root.join(format!("spawner-{index}.lock"))
}

struct Server {
    listener: OwnedFd,
    signals: OwnedFd,
    daemon: Option<OwnedFd>,
    children: HashSet<i32>,
    sandboxes: Sandboxes,
    /// Forks that there is no word of yet, by the token of who asked. A seed that hangs is nobody else's loss.
    forking: Vec<(u64, Forking)>,
    buffer: Vec<u8>,
}

/// Runs until there is nothing left to do. `ready` is called when the socket listens.
pub fn run(root: &Path, index: u32, ready: impl FnOnce()) -> Result<(), String> {
    let say = |what: &str, path: &Path, e: io::Error| format!("spawner: {what} {}: {e}", path.display());
    let lock = lock_path(root, index);
    let held = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .map_err(|e| say("cannot open", &lock, e))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| say("another spawner runs, it holds", &lock, e.into()))?;
    let path = socket_path(root, index);
    let listener = listen_on(&path).map_err(|e| say("cannot listen on", &path, e))?;
    let signals = child_signals().map_err(|e| format!("spawner: signalfd: {e}"))?;
    let mut server = Server {
        listener,
        signals,
        daemon: None,
        children: HashSet::new(),
        sandboxes: Sandboxes::new(root),
        forking: Vec::new(),
        buffer: vec![0; MOST_BYTES],
    };
    ready();
    server.serve().map_err(|e| format!("spawner: {e}"))?;
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn listen_on(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))?;
    listen(&socket, 4)?;
    Ok(socket)
}

/// SIGCHLD as a descriptor; SIGPIPE and SIGHUP mean nothing to us.
fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: plain libc calls on a set that lives on this stack; the process has one thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

impl Server {
    fn serve(&mut self) -> io::Result<()> {
        let mut served_one = false;
        loop {
            self.reap();
            if self.daemon.is_none() && served_one && self.children.is_empty() && self.sandboxes.is_empty() {
                return Ok(());
            }
            let first = (!served_one).then(|| Duration::from_millis(FIRST_MS));
            let spare = (served_one && self.sandboxes.has_spare_work()).then_some(QUIET);
            let waits = self.forking.iter().map(|(_, forking)| forking.ordered.left());
            let soonest = waits.chain(first).chain(spare).min();
            let timeout = soonest.map(|left| rustix::time::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let source = self.daemon.as_ref().unwrap_or(&self.listener);
            let mut polls = vec![PollFd::new(source, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            polls.extend(self.forking.iter().map(|(_, f)| PollFd::from_borrowed_fd(f.ordered.word(), PollFlags::IN)));
            match poll(&mut polls, timeout.as_ref()) {
                Ok(0) if !served_one => return Ok(()),
                Ok(0) if spare.is_some() => self.sandboxes.work_ahead(),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let (on_source, on_signal) = (!polls[0].revents().is_empty(), !polls[1].revents().is_empty());
            let heard: Vec<bool> = polls[2..].iter().map(|poll| !poll.revents().is_empty()).collect();
            self.settle(&heard);
            if on_signal {
                let mut raw = [0u8; 128 * 8];
                let _ = rustix::io::read(&self.signals, &mut raw[..]);
                self.reap();
            }
            if on_source && self.daemon.is_some() {
                if !self.answer_one() {
                    self.daemon = None;
                    // Nobody waits for what is not born yet.
                    for (_, forking) in self.forking.drain(..) {
                        self.children.remove(&forking.ordered.pid());
                        forking.ordered.end();
                    }
                }
            } else if on_source {
                self.daemon = Some(acceptfrom_with(&self.listener, SocketFlags::CLOEXEC).map(|(fd, _)| fd)?);
                served_one = true;
            }
        }
    }

    /// Receives and answers one request; false when the daemon is gone.
    fn answer_one(&mut self) -> bool {
        let Some(daemon) = self.daemon.as_ref() else { return false };
        let (n, fds) = match wire::receive(daemon, &mut self.buffer) {
            Ok(Some(packet)) => packet,
            Ok(None) => return false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => return false,
        };
        let Ok(request) = postcard::from_bytes::<Request>(&self.buffer[..n]) else {
            // Another build's words: nothing after it could be understood either.
            return false;
        };
        match self.answer(request.body, fds) {
            Launching::Answered(answer, descriptors) => {
                if let Answer::Launched { pid, .. } | Answer::Started { pid, .. } = answer {
                    self.children.insert(pid);
                }
                self.tell(request.token, answer, &descriptors)
            }
            Launching::Ordered(forking) => {
                self.children.insert(forking.ordered.pid());
                self.forking.push((request.token, forking));
                true
            }
        }
    }

    /// Answers who waits for forks that have been heard of, or that are late.
    fn settle(&mut self, heard: &[bool]) {
        let mut heard = heard.iter();
        let due = |(_, forking): &mut (u64, Forking)| {
            heard.next().is_some_and(|heard| *heard) || forking.ordered.left().is_zero()
        };
        let settled: Vec<_> = self.forking.extract_if(.., due).collect();
        for (token, forking) in settled {
            let pid = forking.ordered.pid();
            let (answer, descriptors) = self.sandboxes.settle(forking);
            if !matches!(answer, Answer::Launched { .. }) {
                // It was reaped when it was ended.
                self.children.remove(&pid);
            }
            self.tell(token, answer, &descriptors);
        }
    }

    fn answer(&mut self, ask: Ask, fds: Vec<OwnedFd>) -> Launching {
        let fail = |sentence: String| (Answer::Failed(sentence), Vec::new());
        let (answer, descriptors) = match ask {
            Ask::Launch(ask) => return self.sandboxes.launch(&ask, fds),
            Ask::Hello { .. } => {
                let workspaces = self.sandboxes.workspaces() as u32;
                (Answer::Hello { version: VERSION, pid: std::process::id() as i32, workspaces }, Vec::new())
            }
            Ask::Plan { key, json } => match self.sandboxes.define(key, &json) {
                Ok(()) => (Answer::Done, Vec::new()),
                Err(e) => fail(e),
            },
            Ask::Exec(ask) => self.sandboxes.exec(&ask, fds),
            Ask::Socket => match self.sandboxes.socket(fds) {
                Ok(fd) => (Answer::Descriptor, vec![fd]),
                Err(e) => fail(e),
            },
            Ask::Workspace { agent, plan, who, make } => self.sandboxes.workspace(&agent, plan, &who, make),
            Ask::Checkpoint { agent } => match self.sandboxes.at_checkpoint(&agent) {
                Ok(()) => (Answer::Done, Vec::new()),
                Err(e) => fail(e),
            },
            Ask::GoOn { agent } => match self.sandboxes.go_on(&agent) {
                Ok(()) => (Answer::Done, Vec::new()),
                Err(e) => fail(e),
            },
            Ask::Keep { agent } => self.sandboxes.keep.secrets(agent, fds),
            Ask::Kept { agent } => self.sandboxes.keep.kept_secrets(&agent),
            Ask::Orders { agent } => self.sandboxes.keep.kept_orders(&agent),
            Ask::Forget { agent } => {
                self.sandboxes.forget(&agent);
                (Answer::Done, Vec::new())
            }
        };
        Launching::Answered(answer, descriptors)
    }

    /// Answers a request; false when the daemon is gone.
    fn tell(&self, token: u64, body: Answer, descriptors: &[OwnedFd]) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        let Ok(raw) = postcard::to_stdvec(&Reply { token, body }) else { return false };
        let fds: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        wire::send(daemon, &raw, &fds).is_ok()
    }

    /// Reaps every child that has ended.
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one int.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            self.children.remove(&pid);
            self.sandboxes.ended(pid);
        }
    }
}
