//! What an agent's init does beside reaping: pumps output into the log, takes heartbeats, records the end.

use crate::lease::Watch;
use crate::logs::writer::Writer;
use crate::logs::{CHUNK, Stream};
use crate::{clock, status};
use agent_kernel::init::{ExitRecord, Hooks};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// The most that is read from a pipe after the program ended; more than a pipe holds.
const DRAIN: usize = 4 << 20;

pub struct AgentHooks {
    pub run: u64,
    pub status: OwnedFd,
    pub log: Writer,
    pub log_fds: Vec<RawFd>,
    /// Read ends, non-blocking; None once the other end is closed by all.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub heartbeat: Option<OwnedFd>,
    /// Write end of the program's standard input: held, so that it stays open while nobody is attached.
    pub stdin: Option<OwnedFd>,
    /// Until when the agent may run; None where it may for ever.
    pub lease: Option<Watch>,
    pub lease_over: bool,
    pub beats: u64,
    pub buffer: Vec<u8>,
}

enum Pumped {
    Some,
    Empty,
    Closed,
}

impl AgentHooks {
    fn pump(&mut self, stream: Stream) -> Pumped {
        let pipe = if stream == Stream::Stdout { &self.stdout } else { &self.stderr };
        let Some(pipe) = pipe else { return Pumped::Closed };
        match rustix::io::read(pipe, &mut self.buffer[..]) {
            Ok(0) => Pumped::Closed,
            Ok(n) => {
                self.log.write(stream, &self.buffer[..n]);
                Pumped::Some
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Pumped::Empty,
            Err(_) => Pumped::Closed,
        }
    }

    fn beat(&mut self) {
        let Some(pipe) = &self.heartbeat else { return };
        match rustix::io::read(pipe, &mut self.buffer[..]) {
            Ok(0) => self.heartbeat = None,
            Ok(n) => {
                self.beats += n as u64;
                let beat = status::Heartbeat {
                    run: self.run,
                    count: self.beats,
                    boottime_ms: clock::boottime_ms(),
                    _spare: 0,
                };
                let _ = beat.write(&self.status);
            }
            Err(_) => {}
        }
    }
}

fn rung(lease: &Watch, polls: &[libc::pollfd]) -> bool {
    polls.iter().any(|p| p.fd == lease.timer.as_raw_fd() && p.revents != 0)
}

impl Hooks for AgentHooks {
    fn keep(&self) -> Vec<RawFd> {
        let mut fds = self.log_fds.clone();
        fds.push(self.status.as_raw_fd());
        fds.extend(self.lease.iter().flat_map(|lease| [lease.file.as_raw_fd(), lease.timer.as_raw_fd()]));
        fds.extend(
            [&self.stdout, &self.stderr, &self.heartbeat, &self.stdin].into_iter().flatten().map(AsRawFd::as_raw_fd),
        );
        fds
    }

    fn interest(&mut self, polls: &mut Vec<libc::pollfd>) {
        let timer = self.lease.as_ref().map(|lease| &lease.timer);
        for fd in [&self.stdout, &self.stderr, &self.heartbeat].into_iter().flatten().chain(timer) {
            polls.push(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        }
    }

    fn ready(&mut self, polls: &[libc::pollfd]) {
        let ready = |fd: &Option<OwnedFd>| {
            fd.as_ref().is_some_and(|fd| polls.iter().any(|p| p.fd == fd.as_raw_fd() && p.revents != 0))
        };
        if self.lease.as_ref().is_some_and(|lease| rung(lease, polls) && lease.is_over()) {
            self.lease_over = true;
            // SAFETY: no pointers. To process 1 of an agent, -1 is everybody else in there.
            unsafe { libc::kill(-1, libc::SIGKILL) };
        }
        let (out, err, beat) = (ready(&self.stdout), ready(&self.stderr), ready(&self.heartbeat));
        if out && matches!(self.pump(Stream::Stdout), Pumped::Closed) {
            self.stdout = None;
        }
        if err && matches!(self.pump(Stream::Stderr), Pumped::Closed) {
            self.stderr = None;
        }
        if beat {
            self.beat();
        }
    }

    fn exited(&mut self, record: &ExitRecord) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..DRAIN / CHUNK {
                if !matches!(self.pump(stream), Pumped::Some) {
                    break;
                }
            }
        }
        self.log.note_drops();
        let wait_status = record.signal.unwrap_or_else(|| record.code.unwrap_or(0) << 8);
        let ended = status::Ended {
            run: self.run,
            wait_status: wait_status as u64,
            boottime_ms: clock::boottime_ms(),
            set: if self.lease_over { status::BY_LEASE } else { status::BY_ITSELF },
        };
        let _ = ended.write(&self.status);
    }
}
