//! What attacks are aimed at: files, listeners, a process, objects of IPC; and what of it has changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use agent_kernel::sys;
use attacks::Targets;

use super::{Shared, give, own_program};

pub struct World {
    pub targets: Targets,
    pub programs: String,
    pub program: String,
    pub scratch: String,
    top: PathBuf,
    victim_user: u32,
    helper: i32,
    heard: Shared,
    /// How often we have asked the listeners ourselves.
    asked: std::cell::Cell<u32>,
}

/// What can be seen from outside.
#[derive(PartialEq)]
pub struct Look {
    files: Vec<(String, u64, u32, i64)>,
    mounts: String,
    name: String,
    heard: u32,
}

impl World {
    pub fn new(user: u32, host_namespace: u64) -> Self {
        let top = PathBuf::from(format!("/var/lib/gpve-attacks-{}-{user}", std::process::id()));
        let (programs, outside, scratch) = (top.join("programs"), top.join("outside"), top.join("scratch"));
        for directory in [&top, &programs, &outside, &scratch] {
            fs::create_dir_all(directory).expect("a directory");
            give(directory, user, 0o755);
        }
        // Open to everybody: it is the sandbox that has to refuse, not the modes of files.
        give(&outside, user, 0o777);
        give(&scratch, user, 0o777);
        let program = programs.join("gpve-attack");
        fs::copy(own_program("gpve-attack"), &program).expect("the attack program");
        give(&program, 0, 0o755);
        let setuid = programs.join("setuid");
        fs::copy(&program, &setuid).expect("the attack program");
        give(&setuid, 0, 0o4755);
        let tool = outside.join("tool");
        fs::copy(&program, &tool).expect("the attack program");
        give(&tool, 0, 0o755);

        let victim_user = if user == 0 { 701_000 } else { user };
        let heard = Shared::new();
        let tcp =
            std::net::TcpListener::bind("[::]:0").or_else(|_| std::net::TcpListener::bind("127.0.0.1:0")).expect("TCP");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("UDP");
        let name = format!("gpve-attacks-{}-{user}", std::process::id());
        let hidden = |name: &str| {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name).expect("a name")
        };
        let stream = UnixListener::bind_addr(&hidden(&name)).expect("an abstract socket");
        let datagram = UnixDatagram::bind_addr(&hidden(&format!("{name}-datagram"))).expect("an abstract socket");
        let path = outside.join("socket");
        let in_directory = UnixListener::bind(&path).expect("a socket");
        give(&path, user, 0o777);
        let key = 0x6770_0000 + user as i32;
        let queue = name.clone();
        let objects = ipc_objects(key, &queue);
        assert!(objects, "objects of IPC");
        let mut targets = Targets {
            host_mount_namespace: host_namespace,
            outside: outside.to_string_lossy().into_owned(),
            scratch: String::new(),
            victim: 0,
            tcp: tcp.local_addr().expect("a port").port(),
            udp: udp.local_addr().expect("a port").port(),
            abstract_name: name,
            key,
            queue,
            handle: (0, Vec::new()),
            setuid: setuid.to_string_lossy().into_owned(),
            cgroup: own_cgroup(),
        };
        // SAFETY: this program has one thread.
        let helper = unsafe { sys::fork() }.expect("a helper");
        if helper == 0 {
            listen(&tcp, &udp, &stream, &datagram, &in_directory, &heard);
        }
        fs::write(outside.join("canary"), "canary").expect("the canary");
        targets.handle = handle(&outside.join("canary"));
        Self {
            targets,
            programs: programs.to_string_lossy().into_owned(),
            program: program.to_string_lossy().into_owned(),
            scratch: scratch.to_string_lossy().into_owned(),
            top,
            victim_user,
            helper,
            heard,
            asked: std::cell::Cell::new(0),
        }
    }

    /// Everything as it was before the first attack.
    pub fn reset(&mut self) {
        let outside = PathBuf::from(&self.targets.outside);
        for entry in fs::read_dir(&outside).expect("outside").flatten() {
            let name = entry.file_name();
            if name != "canary" && name != "tool" && name != "socket" {
                let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
            }
        }
        fs::write(outside.join("spare"), "spare").expect("a file");
        for name in ["canary", "spare"] {
            give(&outside.join(name), self.victim_user, 0o666);
        }
        give(&outside.join("tool"), self.victim_user, 0o755);
        for entry in fs::read_dir(&self.scratch).expect("scratch").flatten() {
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        }
        // A fresh victim in any case: a signal that the control has sent may still be on its way to the old one.
        let _ = sys::kill(self.targets.victim.max(1), if self.targets.victim == 0 { 0 } else { libc::SIGKILL });
        let _ = sys::wait(self.targets.victim.max(1), 0);
        self.targets.victim = victim(self.victim_user);
    }

    /// What the listeners have heard so far. Whatever was sent to them before has been counted when this returns: they
    /// answer in turn, and the socket by which we ask comes last.
    fn heard(&self) -> u32 {
        use std::io::Read;
        let asked = std::os::unix::net::UnixStream::connect(format!("{}/socket", self.targets.outside));
        asked.and_then(|mut socket| socket.read(&mut [0u8; 1])).expect("the listeners");
        self.asked.set(self.asked.get() + 1);
        self.heard.value() - self.asked.get()
    }

    pub fn victim_lives(&self) -> bool {
        self.targets.victim != 0 && matches!(sys::wait(self.targets.victim, libc::WNOHANG), Ok(None))
    }

    pub fn look(&self) -> Look {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.targets.outside).expect("outside").flatten() {
            let meta = fs::symlink_metadata(entry.path()).expect("a file");
            files.push((entry.file_name().to_string_lossy().into_owned(), meta.size(), meta.mode(), meta.mtime_nsec()));
        }
        files.sort();
        Look {
            files,
            mounts: fs::read_to_string("/proc/self/mountinfo").expect("mounts"),
            name: fs::read_to_string("/proc/sys/kernel/hostname").expect("a name"),
            heard: self.heard(),
        }
    }

    /// What an attack has changed outside.
    pub fn changed(&self, before: &Look) -> Option<String> {
        let now = self.look();
        if !self.victim_lives() {
            return Some("the victim was killed".into());
        }
        for (what, same) in [
            ("files changed", now.files == before.files),
            ("mounts changed", now.mounts == before.mounts),
            ("the host name changed", now.name == before.name),
            ("a listener was reached", now.heard == before.heard),
        ] {
            if !same {
                return Some(what.into());
            }
        }
        None
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in [self.targets.victim, self.helper] {
            let _ = sys::kill(process, libc::SIGKILL);
            let _ = sys::wait(process, 0);
        }
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// A process that sleeps until somebody harms it.
fn victim(user: u32) -> i32 {
    let (ready, tell) = sys::pipe().expect("a pipe");
    // SAFETY: this program has one thread.
    let pid = unsafe { sys::fork() }.expect("a victim");
    if pid == 0 {
        sys::clear_groups().and_then(|()| sys::set_gid(user)).and_then(|()| sys::set_uid(user)).expect("user");
        sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).expect("dumpable");
        sys::default_signals(u64::MAX);
        drop((ready, tell));
        loop {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }
    drop(tell);
    // Until it has changed its user, and has closed its end.
    let _ = sys::read(std::os::fd::AsRawFd::as_raw_fd(&ready), &mut [0u8; 1]);
    pid
}

fn listen(
    tcp: &std::net::TcpListener,
    udp: &std::net::UdpSocket,
    stream: &UnixListener,
    datagram: &UnixDatagram,
    path: &UnixListener,
    heard: &Shared,
) -> ! {
    use std::os::fd::AsRawFd;
    let fds = [tcp.as_raw_fd(), udp.as_raw_fd(), stream.as_raw_fd(), datagram.as_raw_fd(), path.as_raw_fd()];
    let mut polls = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let mut buffer = [0u8; 64];
    loop {
        sys::poll(&mut polls, -1).expect("poll");
        for (at, poll) in polls.iter().enumerate().filter(|(_, poll)| poll.revents != 0) {
            heard.counter().fetch_add(1, Ordering::SeqCst);
            match at {
                0 => drop(tcp.accept()),
                1 => {
                    if let Ok((got, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&buffer[..got], from);
                    }
                }
                2 => drop(stream.accept()),
                3 => drop(datagram.recv(&mut buffer)),
                _ => drop(path.accept()),
            }
            let _ = poll;
        }
    }
}

fn ipc_objects(key: i32, queue: &str) -> bool {
    let name = std::ffi::CString::new(queue).expect("no NUL");
    // SAFETY: plain integers and a live C string.
    unsafe {
        libc::shmget(key, 4096, 0o666 | libc::IPC_CREAT) >= 0
            && libc::msgget(key, 0o666 | libc::IPC_CREAT) >= 0
            && libc::semget(key, 1, 0o666 | libc::IPC_CREAT) >= 0
            && libc::syscall(
                libc::SYS_mq_open,
                name.as_ptr(),
                libc::O_RDWR | libc::O_CREAT,
                0o666,
                std::ptr::null::<u8>(),
            ) >= 0
    }
}

/// The kernel's handle of a file.
fn handle(path: &Path) -> (i32, Vec<u8>) {
    let path = std::ffi::CString::new(path.to_string_lossy().as_bytes()).expect("no NUL");
    let mut handle = [0u8; 136];
    handle[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut mount = 0i32;
    let at = libc::AT_FDCWD;
    // SAFETY: the buffer is a file_handle with room for 128 bytes.
    unsafe { libc::syscall(libc::SYS_name_to_handle_at, at, path.as_ptr(), handle.as_mut_ptr(), &raw mut mount, 0) };
    let length = u32::from_ne_bytes(handle[..4].try_into().expect("four")) as usize;
    let kind = i32::from_ne_bytes(handle[4..8].try_into().expect("four"));
    (kind, handle[8..8 + length.min(128)].to_vec())
}

fn own_cgroup() -> String {
    let layout = agent_kernel::cgroup::Layout::detect();
    let place = layout.places.get(&agent_kernel::cgroup::Controller::Memory);
    place.map(|place| place.own.to_string_lossy().into_owned()).unwrap_or_default()
}
