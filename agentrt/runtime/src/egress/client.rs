//! The daemon's side of the proxy: starts its process when the first agent needs it, and again when it dies.

use super::secret::Secret;
use super::{Ask, Limits, Terms, Usage};
use crate::spawner::{protocol::MOST_BYTES, wire};
use agent_kernel::plan::EgressPlan;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// How long the proxy may take to tell a usage.
const PATIENCE: Duration = Duration::from_secs(2);

struct State {
    control: Option<AsyncFd<OwnedFd>>,
    /// All that is served: kept, so that a proxy that dies loses nothing.
    served: HashMap<String, (Terms, OwnedFd)>,
}

/// The proxy, whether it runs or not.
pub struct Egress {
    options: Options,
    state: Mutex<State>,
}

/// What holds for all agents.
#[derive(Clone)]
pub struct Options {
    pub limits: Limits,
    /// Certificates of the authorities that the proxy trusts where it speaks TLS itself (PEM).
    pub authorities: PathBuf,
}

impl Egress {
    pub fn new(options: Options) -> Egress {
        Egress { options, state: Mutex::new(State { control: None, served: HashMap::new() }) }
    }

    /// Serves what connects to `listener`, as an agent's plan says, and with its secrets.
    pub async fn serve(
        &self,
        agent: &str,
        plan: &EgressPlan,
        secrets: Vec<Secret>,
        listener: OwnedFd,
    ) -> io::Result<()> {
        let limits = self.options.limits.narrowed(plan);
        let terms = Terms { rules: plan.rules.iter().cloned().collect(), limits, secrets };
        let mut state = self.state.lock().await;
        state.served.insert(agent.to_owned(), (terms, listener));
        if state.control.is_some() && state.say_serve(agent).is_ok() {
            return Ok(());
        }
        state.start(&self.options)
    }

    pub async fn forget(&self, agent: &str) {
        let mut state = self.state.lock().await;
        if state.served.remove(agent).is_some() {
            let _ = state.say(&Ask::Forget { agent: agent.to_owned() }, None);
        }
    }

    /// What an agent has used so far; nothing where it has no egress.
    pub async fn usage(&self, agent: &str) -> Usage {
        let mut state = self.state.lock().await;
        if !state.served.contains_key(agent) {
            return Usage::default();
        }
        let ask = Ask::Usage { agent: agent.to_owned() };
        if state.say(&ask, None).is_err() {
            let _ = state.start(&self.options);
            return Usage::default();
        }
        match tokio::time::timeout(PATIENCE, state.hear()).await {
            Ok(Ok(usage)) => usage,
            _ => {
                // An answer that comes later would be taken for that of another question.
                state.control = None;
                Usage::default()
            }
        }
    }

    /// Starts the proxy again where it has died.
    pub async fn look(&self) {
        let mut state = self.state.lock().await;
        let dead = state.control.as_ref().is_none_or(|control| {
            let mut byte = [0u8; 1];
            let peeked = rustix::net::recv(
                control,
                &mut byte[..],
                rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
            );
            matches!(peeked, Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET))
        });
        if dead && !state.served.is_empty() {
            let _ = state.start(&self.options);
        }
    }
}

impl State {
    fn say(&self, ask: &Ask, fd: Option<&OwnedFd>) -> io::Result<()> {
        let Some(control) = &self.control else { return Err(io::ErrorKind::NotConnected.into()) };
        let raw = postcard::to_stdvec(ask).map_err(io::Error::other)?;
        let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
        wire::send(control.get_ref(), &raw, &fds)
    }

    fn say_serve(&self, agent: &str) -> io::Result<()> {
        let Some((terms, listener)) = self.served.get(agent) else { return Ok(()) };
        self.say(&Ask::Serve { agent: agent.to_owned(), terms: terms.clone() }, Some(listener))
    }

    async fn hear(&self) -> io::Result<Usage> {
        let Some(control) = &self.control else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut buffer = vec![0u8; MOST_BYTES];
        loop {
            let mut guard = control.readable().await?;
            if let Ok(received) = guard.try_io(|s| wire::receive(s, &mut buffer)) {
                let (n, _) = received?.ok_or(io::ErrorKind::UnexpectedEof)?;
                return postcard::from_bytes(&buffer[..n]).map_err(io::Error::other);
            }
        }
    }

    fn start(&mut self, options: &Options) -> io::Result<()> {
        self.control = None;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("gpve-egress-proxy")
            .arg("egress-proxy")
            .arg(&options.authorities)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let socket = theirs.as_raw_fd();
        // SAFETY: dup2 alone, which may be called between fork and exec; the socket lives until the program was executed.
        unsafe {
            command.pre_exec(move || if libc::dup2(socket, 3) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
        }
        command.spawn()?;
        self.control = Some(crate::ready::watch(ours, tokio::io::Interest::READABLE)?);
        for agent in self.served.keys() {
            self.say_serve(agent)?;
        }
        Ok(())
    }
}
