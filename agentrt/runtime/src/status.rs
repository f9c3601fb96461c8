//! The status file of an agent: what its init (and, once, the spawner) tells the daemon, which may be away just then.
//!
//! Four sections at fixed places, each written by one writer with one pwrite, little endian. It lives on disk but says
//! nothing after the host was restarted: its record carries the pid and start time, and the daemon asks the kernel.

use rustix::io::{pread, pwrite};
use std::io;
use std::os::fd::AsFd;

const LAUNCHED: u64 = 0;
const EXIT: u64 = 64;
const HEARTBEAT: u64 = 128;
const LOG: u64 = 192;

/// Written by the spawner before anything of the agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Launched {
    /// Number of the run; a record of another run means nothing to this one.
    pub run: u64,
    pub pid: u64,
    /// Field 22 of /proc/PID/stat: pid and start time together name a process within one boot.
    pub start_ticks: u64,
    /// Pid of the spawner that launched it, for people who look.
    pub spawner: u64,
}

/// Written by init after the program ended, before init ends itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub run: u64,
    /// The wait status, as wait(2) has it.
    pub wait_status: u64,
    pub boottime_ms: u64,
    /// [`BY_ITSELF`] or [`BY_LEASE`]; 0: not written yet.
    pub set: u64,
}

/// Not ended by init.
pub const BY_ITSELF: u64 = 1;
/// Ended by init: the lease of the host was over.
pub const BY_LEASE: u64 = 2;

/// Written by init at each heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub run: u64,
    pub count: u64,
    pub boottime_ms: u64,
    pub _spare: u64,
}

/// Written by init after each frame of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Position behind the last whole frame.
    pub end: u64,
    /// Bytes that the agent wrote, dropped ones included.
    pub written: u64,
    pub dropped: u64,
    pub _spare: u64,
}

macro_rules! section {
    ($type:ident, $at:expr, $($field:ident),+) => {
        impl $type {
            pub fn read(file: impl AsFd) -> io::Result<$type> {
                let mut raw = [0u8; 32];
                let n = pread(file, &mut raw[..], $at)?;
                let mut words = raw.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes")));
                let value = $type { $($field: words.next().expect("four words")),+ };
                Ok(if n < 32 { $type::default() } else { value })
            }

            pub fn write(&self, file: impl AsFd) -> io::Result<()> {
                let mut raw = [0u8; 32];
                for (slot, word) in raw.chunks_exact_mut(8).zip([$(self.$field),+]) {
                    slot.copy_from_slice(&word.to_le_bytes());
                }
                if pwrite(file, &raw, $at)? != 32 {
                    return Err(io::Error::other("the status file took a part of a record"));
                }
                Ok(())
            }
        }
    };
}

section!(Launched, LAUNCHED, run, pid, start_ticks, spawner);
section!(Ended, EXIT, run, wait_status, boottime_ms, set);
section!(Heartbeat, HEARTBEAT, run, count, boottime_ms, _spare);
section!(Log, LOG, end, written, dropped, _spare);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_do_not_touch_each_other_and_a_short_file_reads_as_nothing() {
        let path = std::env::temp_dir().join(format!("gpve-status-{}", std::process::id()));
        let file =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("a file");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(Ended::read(&file).expect("read"), Ended::default());
        let l = Launched { run: 1, pid: 2, start_ticks: 3, spawner: 4 };
        let e = Ended { run: 5, wait_status: 6, boottime_ms: 7, set: 1 };
        let h = Heartbeat { run: 8, count: 9, boottime_ms: 10, _spare: 0 };
        let g = Log { end: 11, written: 12, dropped: 13, _spare: 0 };
        g.write(&file).expect("written");
        h.write(&file).expect("written");
        e.write(&file).expect("written");
        l.write(&file).expect("written");
        assert_eq!(Launched::read(&file).expect("read"), l);
        assert_eq!(Ended::read(&file).expect("read"), e);
        assert_eq!(Heartbeat::read(&file).expect("read"), h);
        assert_eq!(Log::read(&file).expect("read"), g);
    }
}
