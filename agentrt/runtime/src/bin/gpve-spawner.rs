//! The spawner's program: `gpve-spawner ROOT INDEX`, started by the daemon from sealed memory.

use std::io::Write;
use std::os::fd::AsRawFd;

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    let index = args.get(2).and_then(|i| i.to_str()).and_then(|i| i.parse().ok());
    let (Some(root), Some(index)) = (args.get(1), index) else {
        eprintln!("usage: gpve-spawner ROOT INDEX (the daemon starts it)");
        std::process::exit(2);
    };
    let ready = || {
        let _ = rustix::process::setsid();
        let _ = std::io::stdout().write_all(b"ready");
        let _ = std::io::stdout().flush();
        // The end of the pipe is what the daemon waits for.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            // SAFETY: both descriptors are open; 1 is ours alone.
            unsafe { libc::dup2(null.as_raw_fd(), 1) };
        }
    };
    if let Err(e) = agentrt::spawner::server::run(std::path::Path::new(root), index, ready) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
