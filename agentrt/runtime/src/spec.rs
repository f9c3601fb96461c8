//! What Create was asked for, checked and with its defaults filled in.

use crate::fault::{Fault, invalid};
use crate::pb;
use crate::state::{RestartPolicy, When};

pub const DEFAULT_GRACE_MS: u64 = 10_000;
const DEFAULT_LOG_BYTES: u64 = 16 << 20;
const DEFAULT_LOG_RATE: u64 = 8 << 20;
const MOST_LOG_BYTES: u64 = 16 << 30;
const LEAST_LOG_BYTES: u64 = 512 << 10;
/// Of argv and env together: what goes to the spawner in one message, and well below what execve takes.
const MOST_ARG_BYTES: usize = 96 << 10;

/// The numbers of a specification that the runtime acts on.
#[derive(Clone, Debug)]
pub struct Settings {
    pub restart: RestartPolicy,
    pub startup: Option<Check>,
    pub readiness: Option<Check>,
    pub liveness: Option<Check>,
    pub log_bytes: u64,
    pub log_rate: u64,
    pub ttl_ms: u64,
    pub ttl_deletes: bool,
    pub idle_ms: u64,
    pub grace_ms: u64,
    pub heartbeat: bool,
    /// It runs only while the host has a lease.
    pub leased: bool,
}

impl Settings {
    /// A check that needs a way into the sandbox, by its place in the specification.
    pub fn check_that_enters(&self) -> Option<&'static str> {
        let checks = [
            ("health.startup", &self.startup),
            ("health.readiness", &self.readiness),
            ("health.liveness", &self.liveness),
        ];
        let enters = |check: &Check| matches!(check.probe, Probe::Exec(_) | Probe::Http { .. } | Probe::Tcp { .. });
        checks.into_iter().find(|(_, check)| check.as_ref().is_some_and(enters)).map(|(place, _)| place)
    }
}

/// What a check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Startup => "startup",
            Kind::Readiness => "readiness",
            Kind::Liveness => "liveness",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Check {
    pub probe: Probe,
    pub period_ms: u64,
    pub timeout_ms: u64,
    pub initial_delay_ms: u64,
    pub failures: u32,
    pub successes: u32,
}

#[derive(Clone, Debug)]
pub enum Probe {
    Exec(Vec<String>),
    Http { port: u16, path: String },
    Tcp { port: u16 },
    Heartbeat { max_age_ms: u64 },
    Progress { min_cpu_ns: u64 },
}

/// Checks an agent's id; it becomes a directory's and a cgroup's name.
pub fn check_id(id: &str) -> Result<(), Fault> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 64 || !id.chars().all(fine) || id.starts_with(['.', '-']) {
        return Err(invalid(format!(
            "id {id:?}: an agent's id has 1 to 64 letters, digits, '-', '_' or '.', and begins with a letter, a digit or '_'"
        )));
    }
    Ok(())
}

/// Checks everything of `spec` but its policy, which the sandbox compiles.
pub fn settings(spec: &pb::AgentSpec) -> Result<Settings, Fault> {
    if spec.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("argv: the program to run is missing"));
    }
    let strings =
        spec.argv.iter().map(|a| ("argv", a)).chain(spec.env.iter().flat_map(|(k, v)| [("env", k), ("env", v)]));
    let mut total = 0;
    for (place, text) in strings {
        if text.contains('\0') {
            return Err(invalid(format!("{place}: {text:?} contains a NUL byte, which no program can be given")));
        }
        total += text.len() + 1;
    }
    if total > MOST_ARG_BYTES {
        return Err(invalid(format!(
            "argv and env: {total} bytes together, and at most {MOST_ARG_BYTES} fit; copy a file in instead"
        )));
    }
    if let Some(name) = spec.env.keys().find(|k| k.is_empty() || k.contains('=')) {
        return Err(invalid(format!("env: {name:?} is no name of a variable")));
    }
    if !spec.cwd.is_empty() && !spec.cwd.starts_with('/') {
        return Err(invalid(format!("cwd: {:?} is not absolute; it is a path inside the sandbox", spec.cwd)));
    }
    let log = spec.log.unwrap_or_default();
    let log_bytes = or(log.max_bytes, DEFAULT_LOG_BYTES);
    if !(LEAST_LOG_BYTES..=MOST_LOG_BYTES).contains(&log_bytes) {
        return Err(invalid(format!(
            "log.max_bytes: {log_bytes} is not between {LEAST_LOG_BYTES} and {MOST_LOG_BYTES}"
        )));
    }
    let health = spec.health.clone().unwrap_or_default();
    let startup = check("health.startup", health.startup)?;
    let readiness = check("health.readiness", health.readiness)?;
    let liveness = check("health.liveness", health.liveness)?;
    let heartbeat = [&startup, &readiness, &liveness]
        .iter()
        .any(|c| matches!(c, Some(Check { probe: Probe::Heartbeat { .. }, .. })));
    Ok(Settings {
        restart: restart(spec.restart.unwrap_or_default())?,
        startup,
        readiness,
        liveness,
        log_bytes,
        log_rate: or(log.max_bytes_per_s, DEFAULT_LOG_RATE),
        ttl_ms: spec.ttl_ms,
        ttl_deletes: spec.ttl_action() == pb::TtlAction::Delete,
        idle_ms: spec.idle_pause_ms,
        grace_ms: or(spec.stop_grace_ms, DEFAULT_GRACE_MS),
        heartbeat,
        leased: spec.leased,
    })
}

fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn restart(r: pb::RestartPolicy) -> Result<RestartPolicy, Fault> {
    use pb::restart_policy::When as W;
    let policy = RestartPolicy {
        when: match r.when() {
            W::Unspecified | W::Never => When::Never,
            W::OnFailure => When::OnFailure,
            W::Always => When::Always,
        },
        max_restarts: r.max_restarts,
        first_delay_ms: or(r.first_delay_ms, 100),
        max_delay_ms: or(r.max_delay_ms, 60_000),
        crash_loop_after: if r.crash_loop_after == 0 { 5 } else { r.crash_loop_after },
        reset_after_ms: or(r.reset_after_ms, 10_000),
    };
    if policy.first_delay_ms > policy.max_delay_ms {
        return Err(invalid(format!(
            "restart: first_delay_ms {} is above max_delay_ms {}",
            policy.first_delay_ms, policy.max_delay_ms
        )));
    }
    Ok(policy)
}

fn check(place: &str, check: Option<pb::HealthCheck>) -> Result<Option<Check>, Fault> {
    use pb::health_check::Probe as P;
    let Some(c) = check else { return Ok(None) };
    let port = |port: u32| {
        u16::try_from(port)
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| invalid(format!("{place}: {port} is no port; ports are 1 to 65535")))
    };
    let period_ms = or(c.period_ms, 10_000);
    let probe = match c.probe {
        None => {
            return Err(invalid(format!("{place}: it has no probe; give one of exec, http, tcp, heartbeat, progress")));
        }
        Some(P::Exec(e)) if e.argv.is_empty() => return Err(invalid(format!("{place}.exec: argv is empty"))),
        Some(P::Exec(e)) => Probe::Exec(e.argv),
        Some(P::Http(h)) => {
            let path = if h.path.is_empty() { String::from("/") } else { h.path };
            if !path.starts_with('/') || path.contains(|c: char| c.is_ascii_control() || c == ' ') {
                return Err(invalid(format!(
                    "{place}.http: path {path:?} does not begin with '/' or has a blank in it"
                )));
            }
            Probe::Http { port: port(h.port)?, path }
        }
        Some(P::Tcp(t)) => Probe::Tcp { port: port(t.port)? },
        Some(P::Heartbeat(h)) if h.max_age_ms == 0 => {
            return Err(invalid(format!("{place}.heartbeat: max_age_ms is missing")));
        }
        Some(P::Heartbeat(h)) => Probe::Heartbeat { max_age_ms: h.max_age_ms },
        Some(P::Progress(p)) => Probe::Progress { min_cpu_ns: or(p.min_cpu_us, 1_000).saturating_mul(1_000) },
    };
    if period_ms < 10 {
        return Err(invalid(format!("{place}: period_ms {period_ms} is below 10")));
    }
    Ok(Some(Check {
        probe,
        period_ms,
        timeout_ms: or(c.timeout_ms, 1_000),
        initial_delay_ms: c.initial_delay_ms,
        failures: c.failure_threshold.max(if c.failure_threshold == 0 { 3 } else { 1 }),
        successes: c.success_threshold.max(1),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> pb::AgentSpec {
        pb::AgentSpec { argv: vec!["/bin/true".into()], ..Default::default() }
    }

    fn says(spec: pb::AgentSpec, text: &str) {
        let fault = settings(&spec).expect_err("refused");
        assert!(fault.message.contains(text), "{}", fault.message);
        assert!(!fault.message.contains('\n'));
    }

    #[test]
    fn defaults() {
        let s = settings(&spec()).expect("fine");
        assert_eq!((s.grace_ms, s.ttl_ms, s.idle_ms, s.restart.when), (DEFAULT_GRACE_MS, 0, 0, When::Never));
    }

    #[test]
    fn each_mistake_is_one_sentence_that_says_where() {
        says(pb::AgentSpec::default(), "argv: the program to run is missing");
        says(pb::AgentSpec { cwd: "work".into(), ..spec() }, "cwd: \"work\"");
        says(pb::AgentSpec { env: [("A=B".to_owned(), String::new())].into(), ..spec() }, "env: \"A=B\"");
        says(pb::AgentSpec { argv: vec!["a\0b".into()], ..spec() }, "NUL");
        says(pb::AgentSpec { argv: vec!["x".repeat(200_000)], ..spec() }, "200001 bytes");
        let health = |c| Some(pb::HealthChecks { liveness: Some(c), ..Default::default() });
        says(
            pb::AgentSpec { health: health(pb::HealthCheck::default()), ..spec() },
            "health.liveness: it has no probe",
        );
        let tcp = pb::health_check::Probe::Tcp(pb::health_check::TcpProbe { port: 70_000 });
        says(
            pb::AgentSpec { health: health(pb::HealthCheck { probe: Some(tcp), ..Default::default() }), ..spec() },
            "70000 is no port",
        );
        let log = pb::LogOptions { max_bytes: 7, ..Default::default() };
        says(pb::AgentSpec { log: Some(log), ..spec() }, "log.max_bytes: 7");
    }

    #[test]
    fn ids_are_names_of_one_directory() {
        for good in ["a", "agent-1", "A_b.c", "_x"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "-rf", "a b", "ä", &"x".repeat(65)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
