//! Attacks on quotas. The control takes the same amount, and gets it.

use crate::{Outcome, Targets, c, errno, open, outcome, raw};

const MIB: usize = 1 << 20;

fn touch(bytes: usize) -> Outcome {
    // SAFETY: a fresh anonymous mapping of this size, which is written once a page.
    unsafe {
        let base = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if base == libc::MAP_FAILED {
            return Err(errno());
        }
        for at in (0..bytes).step_by(4096) {
            base.cast::<u8>().add(at).write_volatile(1);
        }
    }
    Ok(())
}
pub fn heap(_: &Targets) -> Outcome {
    touch(192 * MIB)
}
pub fn memory_file(_: &Targets) -> Outcome {
    let fd = raw!(libc::SYS_memfd_create, c"hoard".as_ptr(), 0);
    fill(fd as i32, 192)
}
pub fn shared_memory(_: &Targets) -> Outcome {
    let id = raw!(libc::SYS_shmget, 0, 192 * MIB, 0o600 | libc::IPC_CREAT);
    if id < 0 {
        return Err(errno());
    }
    // SAFETY: a fresh segment of this size, removed at once so that it ends with us.
    unsafe {
        let base = libc::shmat(id as i32, std::ptr::null(), 0);
        libc::shmctl(id as i32, libc::IPC_RMID, std::ptr::null_mut());
        if base as isize == -1 {
            return Err(errno());
        }
        for at in (0..192 * MIB).step_by(4096) {
            base.cast::<u8>().add(at).write_volatile(1);
        }
    }
    Ok(())
}
pub fn pipes(_: &Targets) -> Outcome {
    let block = [0u8; 65536];
    // 400 pipes of 1 MiB each, as far as one gets: 192 MiB in all is the success.
    let mut kept = 0usize;
    for _ in 0..400 {
        let mut ends = [0i32; 2];
        outcome(raw!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_NONBLOCK))?;
        raw!(libc::SYS_fcntl, ends[1], 1031, MIB);
        while raw!(libc::SYS_write, ends[1], block.as_ptr(), block.len()) > 0 {
            kept += block.len();
        }
        if kept > 192 * MIB {
            return Ok(());
        }
    }
    Err(libc::EMFILE)
}
pub fn sockets(_: &Targets) -> Outcome {
    let block = [0u8; 65536];
    let mut kept = 0usize;
    for _ in 0..2000 {
        let mut ends = [0i32; 2];
        outcome(raw!(
            libc::SYS_socketpair,
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK,
            0,
            ends.as_mut_ptr()
        ))?;
        for end in ends {
            loop {
                let sent = raw!(libc::SYS_write, end, block.as_ptr(), block.len());
                if sent <= 0 {
                    break;
                }
                kept += sent as usize;
            }
        }
        if kept > 192 * MIB {
            return Ok(());
        }
    }
    Err(libc::EMFILE)
}
fn fill(fd: i32, mib: usize) -> Outcome {
    let block = vec![0u8; MIB];
    for _ in 0..mib {
        let written = raw!(libc::SYS_write, fd, block.as_ptr(), block.len());
        if written != MIB as i64 {
            return Err(if written < 0 { errno() } else { libc::ENOSPC });
        }
    }
    Ok(())
}
pub fn disk(t: &Targets) -> Outcome {
    let path = format!("{}/hoard-{}", t.scratch, std::process::id());
    let filled = open(&path, libc::O_CREAT | libc::O_WRONLY).and_then(|fd| fill(fd, 96));
    raw!(libc::SYS_unlinkat, libc::AT_FDCWD, c(&path).as_ptr(), 0);
    filled
}
pub fn disk_in_tmp(t: &Targets) -> Outcome {
    let place = if t.scratch == "/workspace" { "/dev/shm" } else { &t.scratch };
    let path = format!("{place}/hoard-{}", std::process::id());
    let filled = open(&path, libc::O_CREAT | libc::O_WRONLY).and_then(|fd| fill(fd, 96));
    raw!(libc::SYS_unlinkat, libc::AT_FDCWD, c(&path).as_ptr(), 0);
    filled
}
pub fn inodes(t: &Targets) -> Outcome {
    let directory = format!("{}/many-{}", t.scratch, std::process::id());
    let result = std::fs::create_dir(&directory).map_err(|e| e.raw_os_error().unwrap_or(0)).and_then(|()| {
        (0..3000).try_for_each(|number| {
            let fd = open(&format!("{directory}/{number}"), libc::O_CREAT | libc::O_WRONLY)?;
            outcome(raw!(libc::SYS_close, fd))
        })
    });
    let _ = std::fs::remove_dir_all(&directory);
    result
}
pub fn processes(_: &Targets) -> Outcome {
    let mut children = Vec::new();
    let result = (0..300).try_for_each(|_| match raw!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
        -1 => Err(errno()),
        0 => {
            raw!(libc::SYS_pause);
            std::process::exit(0)
        }
        child => {
            children.push(child);
            Ok(())
        }
    });
    for child in children {
        raw!(libc::SYS_kill, child, libc::SIGKILL);
        raw!(libc::SYS_wait4, child, 0, 0, 0);
    }
    result
}
pub fn descriptors(_: &Targets) -> Outcome {
    // As many as the hard limit of the control's shell lets one have.
    let mut limit = [0u64; 2];
    outcome(raw!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, std::ptr::null::<u8>(), limit.as_mut_ptr()))?;
    let raised = [limit[1], limit[1]];
    outcome(raw!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, raised.as_ptr(), std::ptr::null::<u8>()))?;
    for _ in 0..2000 {
        outcome(raw!(libc::SYS_dup, 0))?;
    }
    Ok(())
}
pub fn big_message_queue(_: &Targets) -> Outcome {
    let attributes = [0i64, 10, 8192, 0, 0, 0, 0, 0];
    for number in 0..16 {
        let name = c(&format!("attack-{}-{number}", std::process::id()));
        let made = raw!(libc::SYS_mq_open, name.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, attributes.as_ptr());
        let refused = errno();
        raw!(libc::SYS_mq_unlink, name.as_ptr());
        if made < 0 {
            return Err(refused);
        }
    }
    Ok(())
}
