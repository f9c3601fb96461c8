//! The files and pipes of a run: its status, its log, its streams.

use super::init::AgentHooks;
use super::protocol::LaunchAsk;
use crate::logs::{CHUNK, SEGMENTS, segment_name, writer::Writer};
use crate::{lease, status};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// What a run needs of the host's files and pipes.
pub(super) struct Files {
    pub(super) hooks: AgentHooks,
    pub(super) denials: OwnedFd,
    pub(super) stdin_read: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) heartbeat_write: Option<OwnedFd>,
    pub(super) null: OwnedFd,
}

impl Files {
    pub(super) fn open(ask: &LaunchAsk) -> Result<Files, String> {
        Self::try_open(ask).map_err(|e| format!("the files in {} cannot be made: {e}", ask.dir))
    }

    fn try_open(ask: &LaunchAsk) -> io::Result<Files> {
        let dir = Path::new(&ask.dir);
        let file = |name: &str| -> io::Result<OwnedFd> {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Ok(rustix::fs::open(dir.join(name), flags, Mode::from_raw_mode(0o600))?)
        };
        let status = file("status")?;
        status::Launched::default().write(&status)?;
        status::Ended::default().write(&status)?;
        status::Heartbeat::default().write(&status)?;
        let mut segments = Vec::with_capacity(SEGMENTS);
        for i in 0..SEGMENTS {
            segments.push(file(&segment_name(i))?);
        }
        let log_fds = segments.iter().map(AsRawFd::as_raw_fd).chain([status.as_raw_fd()]).collect();
        let Ok(segments) = <[OwnedFd; SEGMENTS]>::try_from(segments) else { unreachable!("as many as were asked for") };
        let log_status = status.try_clone()?;
        let mut log_fds: Vec<i32> = log_fds;
        log_fds.push(log_status.as_raw_fd());
        let log = Writer::open(segments, log_status, ask.log_bytes, ask.log_rate)?;
        let (stdout_read, stdout) = half_blocking()?;
        let (stderr_read, stderr) = half_blocking()?;
        let (heartbeat_read, heartbeat_write) = if ask.heartbeat {
            let (read, write) = half_blocking()?;
            // The program must never hang because nobody counts its beats.
            rustix::io::ioctl_fionbio(&write, true)?;
            (Some(read), Some(write))
        } else {
            (None, None)
        };
        let (stdin_read, stdin) = if ask.stdin { stdin_fifo(dir)? } else { (None, None) };
        let hooks = AgentHooks {
            run: ask.run,
            status,
            log,
            log_fds,
            stdout: Some(stdout_read),
            stderr: Some(stderr_read),
            heartbeat: heartbeat_read,
            stdin,
            lease: ask.lease.as_ref().map(|path| lease::Watch::open(Path::new(path))).transpose()?,
            lease_over: false,
            beats: 0,
            buffer: vec![0; CHUNK],
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Files { hooks, denials: file("denials")?, stdin_read, stdout, stderr, heartbeat_write, null })
    }
}

/// A pipe whose read end does not block.
fn half_blocking() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// A FIFO that the daemon writes to whenever somebody is attached; init holds it open in between.
fn stdin_fifo(dir: &Path) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let path = dir.join("stdin");
    match rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let held = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let read = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    Ok((Some(read), Some(held)))
}
