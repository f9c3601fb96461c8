//! The lease of a host: until when its leased agents may run, also when nobody is left to end them.
//!
//! A cluster that cannot reach a host runs that host's agents elsewhere once the host's lease is over; so they must not run
//! here any longer, whichever processes have died. The lease is eight bytes in a file that only the daemon writes. Each
//! leased agent's init has the file open and a timer set, and ends the agent when the time has come and was not put off.

use crate::clock;
use crate::fault::{Fault, precondition};
use rustix::fs::{Mode, OFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the lease of a daemon's root stands.
pub fn path(root: &Path) -> PathBuf {
    root.join("lease")
}

/// The host has a lease until then (boottime), or for as long as it had already.
pub fn extend(root: &Path, until_ms: u64) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path(root), flags, Mode::from_raw_mode(0o600))?;
    // A time of another boot says nothing in this one. The time goes last: with it the record is whole.
    if !of_this_boot(&file) {
        rustix::io::pwrite(&file, &0u64.to_le_bytes(), 0)?;
        rustix::io::pwrite(&file, clock::boot_id().as_bytes(), 8)?;
    }
    if until_ms > until(&file)? {
        rustix::io::pwrite(&file, &until_ms.to_le_bytes(), 0)?;
    }
    Ok(())
}

/// Refused where the host has no lease now.
pub fn check(root: &Path, agent: &str) -> Result<(), Fault> {
    let file = rustix::fs::open(path(root), OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
    let held =
        file.is_ok_and(|file| of_this_boot(&file) && until(&file).is_ok_and(|until| until > clock::boottime_ms()));
    let why = "runs only while this host has a lease, which is over: extend it first (ExtendLease)";
    if held { Ok(()) } else { Err(precondition(format!("agent {agent} {why}"))) }
}

fn until(file: impl AsFd) -> io::Result<u64> {
    let mut bytes = [0; 8];
    let got = rustix::io::pread(file, &mut bytes[..], 0)?;
    Ok(if got == 8 { u64::from_le_bytes(bytes) } else { 0 })
}

fn of_this_boot(file: impl AsFd) -> bool {
    let mut bytes = vec![0; clock::boot_id().len()];
    rustix::io::pread(file, &mut bytes[..], 8).is_ok_and(|_| bytes == clock::boot_id().as_bytes())
}

/// The lease as an init sees it: a file to read, and a timer that goes off when it may be over.
pub struct Watch {
    pub file: OwnedFd,
    pub timer: OwnedFd,
}

impl Watch {
    pub fn open(path: &Path) -> io::Result<Watch> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        let watch = Watch { file, timer };
        if watch.is_over() { Err(io::Error::other("the lease of this host is over")) } else { Ok(watch) }
    }

    /// Whether the lease is over. If it is not, the timer is set to its end, which may have been put off.
    pub fn is_over(&self) -> bool {
        // What cannot be known is over: nobody else would end the agent.
        let until = until(&self.file).unwrap_or(0);
        until <= clock::boottime_ms() || self.set(until).is_err()
    }

    fn set(&self, until_ms: u64) -> io::Result<()> {
        // Zero would disarm it.
        let at = until_ms.max(1);
        let it_value = Timespec { tv_sec: (at / 1000) as i64, tv_nsec: (at % 1000 * 1_000_000) as _ };
        let spec = Itimerspec { it_interval: Timespec::default(), it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn rings(watch: &Watch, within_ms: i32) -> bool {
        let mut polls = [libc::pollfd { fd: watch.timer.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: one entry, which lives.
        unsafe { libc::poll(polls.as_mut_ptr(), 1, within_ms) == 1 }
    }

    #[test]
    fn a_lease_is_extended_never_shortened_and_of_one_boot() {
        let root = std::env::temp_dir().join(format!("gpve-lease-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a directory");
        let now = clock::boottime_ms();
        assert!(check(&root, "a").is_err_and(|fault| fault.message.contains("lease")));
        extend(&root, now + 60_000).expect("extended");
        extend(&root, now + 5).expect("nothing to do");
        assert!(check(&root, "a").is_ok());
        let bytes = std::fs::read(path(&root)).expect("the file");
        assert_eq!(bytes[..8], (now + 60_000).to_le_bytes());
        let mut other = bytes;
        other[8] ^= 1;
        std::fs::write(path(&root), other).expect("written");
        assert!(check(&root, "a").is_err());
        extend(&root, now + 30_000).expect("extended");
        assert!(check(&root, "a").is_ok());
        std::fs::remove_dir_all(&root).expect("removed");
    }

    #[test]
    fn a_watch_rings_at_the_end_and_goes_on_where_it_was_put_off() {
        let root = std::env::temp_dir().join(format!("gpve-watch-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a directory");
        extend(&root, clock::boottime_ms() + 50).expect("extended");
        let watch = Watch::open(&path(&root)).expect("a watch");
        assert!(!rings(&watch, 0));
        extend(&root, clock::boottime_ms() + 200).expect("extended");
        assert!(rings(&watch, 5_000) && !watch.is_over());
        assert!(rings(&watch, 5_000) && watch.is_over());
        std::fs::remove_dir_all(&root).expect("removed");
    }
}
