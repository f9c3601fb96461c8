//! A terminal for a program in a sandbox: made in the agent's own /dev/pts, so that `tty` inside names it.

use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What devpts says that it is.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// The side of a terminal that is not the program's.
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// A terminal in the sandbox of the process `init`, which the caller has made sure (by a pidfd) that it still is; and
    /// the program's side of it, which belongs to `owner`.
    pub fn open(init: i32, owner: (u32, u32)) -> io::Result<(Terminal, OwnedFd)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{init}/root"), flags, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let ours = openat2(root, "dev/pts/ptmx", flags, Mode::empty(), resolve)?;
        if fstatfs(&ours)?.f_type as i64 != DEVPTS_MAGIC {
            return Err(io::Error::other("/dev/pts inside is no devpts"));
        }
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        rustix::fs::fchown(&theirs, Some(uid), Some(gid))?;
        let ours = crate::ready::watch(ours, Interest::READABLE | Interest::WRITABLE)?;
        Ok((Terminal(ours), theirs))
    }

    /// Tells the program how large its window is; 0 leaves it unknown.
    pub fn resize(&self, rows: u32, cols: u32) {
        let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let size = Winsize { ws_row: cells(rows), ws_col: cells(cols), ws_xpixel: 0, ws_ypixel: 0 };
        let _ = tcsetwinsize(&self.0, size);
    }

    /// Reads what the program wrote; 0 at the end, which a terminal has when nobody has its other side open any more.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(read) => return read,
                Err(_) => {}
            }
        }
    }

    /// Types something.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd, data)?)) {
                data = &data[written?..];
            }
        }
        Ok(())
    }
}
