//! How a check asks: a program in the sandbox, HTTP or TCP in its network, heartbeats, or progress.

use crate::agent::shared::Shared;
use crate::exec::{self, ExecPlan};
use crate::spawner::client::{CallError, PlanText, Spawner};
use crate::spawner::protocol::{Answer, Ask, Program, Who};
use crate::spec::{Check, Probe};
use crate::{clock, status};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Whom to ask.
pub struct Target {
    pub shared: Arc<Shared>,
    pub pidfd: Option<OwnedFd>,
    pub cgroup: Vec<u8>,
    pub plan: Option<Arc<PlanText>>,
    pub who: Who,
    /// That can enter the agent's sandbox.
    pub spawner: Spawner,
    pub run: u64,
    /// Since its start, or since the end of the last pause.
    pub awake_ms: u64,
}

/// What was used since the check before; None when this host cannot tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub cpu_usec: Option<u64>,
    pub io_bytes: Option<u64>,
}

/// One try. The error is what people read: what was asked, and what came back.
pub async fn probe(target: &Target, check: &Check, progress: Progress) -> Result<(), String> {
    let limit = Duration::from_millis(check.timeout_ms);
    let late = || format!("no answer within {} ms", check.timeout_ms);
    match &check.probe {
        Probe::Exec(argv) => exec_probe(target, argv, limit).await,
        Probe::Tcp { port } => match tokio::time::timeout(limit, connect_to(target, *port)).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err(format!("port {port}: {}", late())),
        },
        Probe::Http { port, path } => match tokio::time::timeout(limit, http(target, *port, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("GET {path} at port {port}: {}", late())),
        },
        Probe::Heartbeat { max_age_ms } => heartbeat(target, *max_age_ms),
        Probe::Progress { min_cpu_ns } => {
            let Some(cpu) = progress.cpu_usec else { return Err("this host does not count CPU time".into()) };
            if cpu * 1_000 >= *min_cpu_ns || progress.io_bytes.unwrap_or(0) > 0 {
                return Ok(());
            }
            Err(format!("no progress: {cpu} us of CPU time and no I/O since the check before"))
        }
    }
}

fn heartbeat(target: &Target, max_age_ms: u64) -> Result<(), String> {
    let beat = std::fs::File::open(target.shared.dir.join("status"))
        .and_then(status::Heartbeat::read)
        .map_err(|e| e.to_string())?;
    let since_beat = clock::boottime_ms().saturating_sub(beat.boottime_ms);
    // A beat from before a pause is not older than the pause is over.
    let age = if beat.run == target.run { since_beat.min(target.awake_ms) } else { target.awake_ms };
    if age <= max_age_ms {
        return Ok(());
    }
    Err(format!("no heartbeat for {age} ms"))
}

async fn exec_probe(target: &Target, argv: &[String], limit: Duration) -> Result<(), String> {
    let (Some(pidfd), Some(plan)) = (&target.pidfd, &target.plan) else {
        return Err("the agent has no process".into());
    };
    let program = Program {
        plan: plan.key,
        who: target.who.clone(),
        cgroup: target.cgroup.clone(),
        argv: argv.to_vec(),
        env: target.shared.spec.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        cwd: target.shared.spec.cwd.clone(),
    };
    let pidfd = pidfd.try_clone().map_err(|e| e.to_string())?;
    let plan = ExecPlan { plan: plan.clone(), pidfd, program, tty: false };
    let null = || {
        std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).map_err(|e| e.to_string())
    };
    let child = exec::spawn(&target.spawner, &target.shared.id, plan, [null()?, null()?, null()?])
        .await
        .map_err(|f| f.message)?;
    match tokio::time::timeout(limit, child.ended()).await {
        Ok(exit) if exit.code == 0 && exit.signal == 0 => Ok(()),
        Ok(exit) if exit.signal > 0 => Err(format!("{} was ended by signal {}", argv[0], exit.signal)),
        Ok(exit) => Err(format!("{} exited with {}", argv[0], exit.code)),
        Err(_) => {
            child.kill();
            Err(format!("{} did not end within {} ms", argv[0], limit.as_millis()))
        }
    }
}

async fn connect_to(target: &Target, port: u16) -> Result<TcpStream, String> {
    match &target.pidfd {
        Some(pidfd) => connect(&target.spawner, pidfd, port).await,
        None => Err("the agent has no process".into()),
    }
}

/// A connection to a port of the network of the agent whose init is behind `pidfd`.
pub async fn connect(spawner: &Spawner, pidfd: &OwnedFd, port: u16) -> Result<TcpStream, String> {
    let pidfd = pidfd.try_clone().map_err(|e| e.to_string())?;
    let socket = match spawner.call(Ask::Socket, vec![pidfd], None).await {
        Ok((Answer::Descriptor, mut fds)) if fds.len() == 1 => fds.remove(0),
        Ok(_) => return Err("the spawner gave no socket".into()),
        Err(CallError::Refused(sentence)) => return Err(sentence),
        Err(CallError::Lost) => return Err("the spawner died".into()),
    };
    // SAFETY: the descriptor was received just now and is owned by nobody else; it is a TCP socket that is not connected.
    let socket = unsafe { TcpSocket::from_raw_fd(socket.into_raw_fd()) };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(address).await.map_err(|e| format!("port {port}: {e}"))
}

async fn http(target: &Target, port: u16, path: &str) -> Result<(), String> {
    let say = |what: String| format!("GET {path} at port {port}: {what}");
    let mut stream = connect_to(target, port).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: gpve-agentrt\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| say(e.to_string()))?;
    let mut head = Vec::new();
    let mut chunk = [0u8; 256];
    while !head.contains(&b'\n') && head.len() < 1024 {
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(n) => head.extend_from_slice(&chunk[..n]),
            Err(e) => return Err(say(e.to_string())),
        }
    }
    match status_of(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(say(format!("status {status}"))),
        None => Err(say("it does not answer in HTTP".into())),
    }
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|b| *b == b'\r' || *b == b'\n').next()?).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::status_of;

    #[test]
    fn statuses() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nX: y\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 500\r\n"), Some(500));
        for junk in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"\xff\xfe\n", b"HTTP/1.1 abc\n"] {
            assert_eq!(status_of(junk), None);
        }
    }
}
