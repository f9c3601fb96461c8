//! The spawner's loop.

use super::launch::Sandboxes;
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

/// How long a new spawner waits for its first daemon.
const FIRST_MS: i64 = 10_000;

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
            let first = rustix::time::Timespec { tv_sec: FIRST_MS / 1000, tv_nsec: 0 };
            let timeout = if served_one { None } else { Some(&first) };
            let source = self.daemon.as_ref().unwrap_or(&self.listener);
            let mut polls = [PollFd::new(source, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut polls, timeout) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let (on_source, on_signal) = (!polls[0].revents().is_empty(), !polls[1].revents().is_empty());
            if on_signal {
                let mut raw = [0u8; 128 * 8];
                let _ = rustix::io::read(&self.signals, &mut raw[..]);
                self.reap();
            }
            if on_source && self.daemon.is_some() {
                if !self.answer_one() {
                    self.daemon = None;
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
        let (answer, descriptors) = self.answer(request.body, fds);
        self.tell(&Reply { token: request.token, body: answer }, &descriptors)
    }

    fn answer(&mut self, ask: Ask, fds: Vec<OwnedFd>) -> (Answer, Vec<OwnedFd>) {
        let fail = |sentence: String| (Answer::Failed(sentence), Vec::new());
        match ask {
            Ask::Hello { .. } => {
                let workspaces = self.sandboxes.workspaces() as u32;
                (Answer::Hello { version: VERSION, pid: std::process::id() as i32, workspaces }, Vec::new())
            }
            Ask::Plan { key, json } => match self.sandboxes.define(key, &json) {
                Ok(()) => (Answer::Done, Vec::new()),
                Err(e) => fail(e),
            },
            Ask::Launch(ask) => self.adopt(|sandboxes| sandboxes.launch(&ask, fds)),
            Ask::Exec(ask) => self.adopt(|sandboxes| sandboxes.exec(&ask, fds)),
            Ask::Socket => match self.sandboxes.socket(fds) {
                Ok(fd) => (Answer::Descriptor, vec![fd]),
                Err(e) => fail(e),
            },
            Ask::Workspace { agent, plan, who, make } => self.sandboxes.workspace(&agent, plan, &who, make),
            Ask::Keep { agent } => self.sandboxes.keep(agent, fds),
            Ask::Kept { agent } => self.sandboxes.kept(&agent),
            Ask::Forget { agent } => {
                self.sandboxes.forget(&agent);
                (Answer::Done, Vec::new())
            }
        }
    }

    /// Notes the child that came of it.
    fn adopt(&mut self, work: impl FnOnce(&mut Sandboxes) -> (Answer, Vec<OwnedFd>)) -> (Answer, Vec<OwnedFd>) {
        let (answer, fds) = work(&mut self.sandboxes);
        if let Answer::Launched { pid, .. } | Answer::Started { pid, .. } = answer {
            self.children.insert(pid);
        }
        (answer, fds)
    }

    fn tell(&self, reply: &Reply, descriptors: &[OwnedFd]) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        let Ok(raw) = postcard::to_stdvec(reply) else { return false };
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
        }
    }
}
