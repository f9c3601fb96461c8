//! Records as messages.

use crate::agent::{Shared, blocking};
use crate::context::Context;
use crate::fault::Fault;
use crate::state::{Exit, Reason, State};
use crate::store::record::Event;
use crate::{clock, pb, process, status};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl State {
    pub fn to_pb(self) -> pb::State {
        match self {
            State::Created => pb::State::Created,
            State::Starting => pb::State::Starting,
            State::Running => pb::State::Running,
            State::Paused => pb::State::Paused,
            State::Stopping => pb::State::Stopping,
            State::Backoff => pb::State::Backoff,
            State::CrashLoop => pb::State::CrashLoop,
            State::Exited => pb::State::Exited,
            State::Deleting => pb::State::Deleting,
        }
    }

    pub fn from_pb(state: pb::State) -> Option<State> {
        State::ALL.into_iter().find(|s| s.to_pb() == state)
    }
}

impl Reason {
    pub fn to_pb(self) -> pb::ExitReason {
        match self {
            Reason::Exited => pb::ExitReason::Exited,
            Reason::Signal => pb::ExitReason::Signal,
            Reason::Oom => pb::ExitReason::Oom,
            Reason::Limit => pb::ExitReason::Limit,
            Reason::Policy => pb::ExitReason::Policy,
            Reason::Health => pb::ExitReason::Health,
            Reason::Stopped => pb::ExitReason::Stopped,
            Reason::Ttl => pb::ExitReason::Ttl,
            Reason::StartFailed => pb::ExitReason::StartFailed,
            Reason::HostRestarted => pb::ExitReason::HostRestarted,
            Reason::Killed => pb::ExitReason::Killed,
            Reason::Lease => pb::ExitReason::Lease,
        }
    }
}

pub fn exit(exit: &Exit) -> pb::Exit {
    pb::Exit {
        reason: exit.reason.to_pb() as i32,
        code: exit.code,
        signal: exit.signal,
        detail: exit.detail.clone(),
        at_unix_ms: exit.at_unix_ms,
        limits_hit: exit.limits_hit.clone(),
    }
}

pub fn event(event: &Event) -> pb::Event {
    pb::Event {
        seq: event.seq,
        agent: event.agent.clone(),
        revision: event.rev,
        kind: event.kind.clone(),
        state: event.state.to_pb() as i32,
        exit: event.exit.as_ref().map(exit),
        detail: event.detail.clone(),
        at_unix_ms: event.at_unix_ms,
        request_id: event.requests.first().map(|r| r.id.clone()).unwrap_or_default(),
    }
}

pub fn agent(agent: &Shared, full: bool) -> pb::Agent {
    let record = agent.record();
    let now = clock::boottime_ms();
    let settings = &agent.settings;
    let spec = full.then(|| (*agent.spec).clone());
    pb::Agent {
        state: record.state.to_pb() as i32,
        ready: record.ready,
        spec,
        pid: record.process.as_ref().map_or(0, |p| p.pid),
        restarts: record.restarts,
        failures_in_row: record.in_row,
        last_exit: record.last_exit.as_ref().map(exit),
        created_unix_ms: record.created_unix_ms,
        started_unix_ms: record.started_unix_ms,
        ttl_left_ms: if settings.ttl_ms == 0 { 0 } else { settings.ttl_ms.saturating_sub(record.active.used_ms()) },
        next_start_in_ms: record.next_start_ms.map_or(0, |at| at.saturating_sub(now)),
        pause_cause: record.pause_cause,
        enforced: record.enforced,
        labels: agent.spec.labels.clone(),
        argv: agent.spec.argv.clone(),
        revision: record.rev,
        forked_from: record.forked_from,
        template: record.instance.as_ref().map(|i| i.template.clone()).unwrap_or_default(),
        limits: Some(pb::Limits {
            memory_bytes: record.limits.memory_bytes,
            cpu_milli: record.limits.cpu_milli,
            pids: record.limits.pids,
        }),
        id: record.id,
    }
}

pub async fn stats(context: &Arc<Context>, ids: &[String]) -> Result<pb::StatsReply, Fault> {
    let wanted: Vec<Arc<Shared>> = if ids.is_empty() {
        context.agents().values().filter(|a| a.state().has_processes()).cloned().collect()
    } else {
        ids.iter().map(|id| context.agent(id)).collect::<Result<_, _>>()?
    };
    let own = context.clone();
    let mut reply = blocking(move || {
        let context = own;
        let stats = wanted.iter().map(|agent| one(&context, agent)).collect();
        let daemon = pb::DaemonStats {
            resident_bytes: resident_bytes(),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64),
            agents: context.agents().len() as u64,
            spawner_restarts: context.spawner_restarts.load(Ordering::Relaxed),
        };
        pb::StatsReply { stats, daemon: Some(daemon) }
    })
    .await?;
    for stats in &mut reply.stats {
        let usage = context.egress.usage(&stats.id).await;
        (stats.egress_bytes_in, stats.egress_bytes_out) = (usage.bytes_in, usage.bytes_out);
        stats.egress_connections = usage.connections;
        stats.egress_denials = usage.denied;
    }
    Ok(reply)
}

fn one(context: &Context, agent: &Shared) -> pb::Stats {
    let cgroup = process::open_cgroup(
        &context.host.cgroups,
        &context.cgroup_parent.join(agent.record().instance.map_or_else(|| agent.id.clone(), |i| i.name)),
    );
    let used = cgroup.and_then(|c| c.stats().ok()).unwrap_or_default();
    let file = File::open(agent.dir.join("status")).ok();
    let log = file.as_ref().and_then(|f| status::Log::read(f).ok()).unwrap_or_default();
    let beats = file.as_ref().and_then(|f| status::Heartbeat::read(f).ok()).unwrap_or_default();
    let hits = [
        ("memory", used.oom_kills.unwrap_or(0)),
        ("pids", used.refused_forks.unwrap_or(0)),
        ("cpu", used.throttled_usec.unwrap_or(0)),
        ("log", log.dropped),
    ];
    pb::Stats {
        id: agent.id.clone(),
        cpu_ns: used.cpu_usec.unwrap_or(0) * 1_000,
        memory_bytes: used.memory_bytes.unwrap_or(0),
        memory_peak_bytes: used.memory_peak_bytes.unwrap_or(0),
        pids: used.processes.unwrap_or(0),
        io_read_bytes: used.read_bytes.unwrap_or(0),
        io_write_bytes: used.written_bytes.unwrap_or(0),
        oom_kills: used.oom_kills.unwrap_or(0),
        limit_hits: hits
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(k, n)| (k.to_owned(), n))
            .collect::<BTreeMap<_, _>>(),
        log_bytes: log.written,
        log_dropped_bytes: log.dropped,
        heartbeats: beats.count,
        denials: denials(agent),
        ..Default::default()
    }
}

fn denials(agent: &Shared) -> BTreeMap<String, u64> {
    let counts = std::fs::read(agent.dir.join("denials")).unwrap_or_default();
    agent_kernel::report::denials_by_name(&counts)
        .into_iter()
        .map(|(name, count)| (name.to_string(), count.into()))
        .collect()
}

fn resident_bytes() -> u64 {
    let pages =
        std::fs::read_to_string("/proc/self/statm").ok().and_then(|s| s.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

pub fn info(context: &Context) -> pb::InfoReply {
    let host = &context.host;
    let mut enforceable = vec![
        format!("landlock ABI {}", host.landlock),
        format!("user namespaces: {}", host.user_namespaces),
        format!("denials told: {}", host.notify),
        format!("cgroups: {}", host.cgroups.kind()),
    ];
    enforceable.extend(
        host.cgroups.places.iter().map(|(c, p)| format!("cgroup {c:?}: {:?} at {}", p.version, p.own.display())),
    );
    pb::InfoReply {
        version: env!("CARGO_PKG_VERSION").into(),
        boot_id: clock::boot_id().into(),
        enforceable,
        root: context.root.display().to_string(),
        last_event: context.journal.last(),
        first_event: context.journal.first(),
    }
}
