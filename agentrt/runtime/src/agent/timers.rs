//! What happens by the clock: restarts, the end of a grace, time to live, checks, idleness, a look at the limits.

use super::Agent;
use crate::clock;
use crate::state::{Exit, Reason, State};
use agent_kernel::cgroup::Stats;
use std::sync::atomic::Ordering;

/// How often a running agent's counters are looked at for limits that it ran into.
pub const LOOK_MS: u64 = 10_000;
/// An agent is idle while it uses less than this share of one CPU (in thousandths).
const IDLE_MILLI: u64 = 5;

/// Since when an agent has done nothing.
pub struct Idle {
    since_ms: u64,
    looked_ms: u64,
    cpu_usec: u64,
}

impl Idle {
    pub fn new(now_ms: u64) -> Idle {
        Idle { since_ms: now_ms, looked_ms: now_ms, cpu_usec: 0 }
    }

    pub fn busy(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
        self.looked_ms = now_ms;
    }
}

impl Agent {
    /// Boottime of the next thing to do.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let now = clock::boottime_ms();
        let settings = &self.shared.settings;
        let ttl = || (settings.ttl_ms > 0).then(|| now + settings.ttl_ms.saturating_sub(self.record.active.used_ms()));
        match self.record.state {
            State::Backoff | State::CrashLoop => [self.record.next_start_ms, ttl()].into_iter().flatten().min(),
            State::Stopping => self.record.ending.as_ref().map(|e| e.kill_at_ms),
            State::Running => {
                let run = self.run.as_ref()?;
                let idle = (settings.idle_ms > 0).then(|| run.idle.looked_ms + idle_period(settings.idle_ms));
                [ttl(), run.health.next_ms(self.record.started_up), idle, Some(run.next_look_ms)]
                    .into_iter()
                    .flatten()
                    .min()
            }
            _ => None,
        }
    }

    pub(super) async fn on_timer(&mut self) {
        let now = clock::boottime_ms();
        let ttl = self.shared.settings.ttl_ms;
        let outlived = ttl > 0 && self.record.active.used_ms() >= ttl;
        match self.record.state {
            State::Backoff | State::CrashLoop if outlived => self.expire_at_rest().await,
            State::Backoff | State::CrashLoop if self.record.next_start_ms.is_some_and(|at| at <= now) => {
                self.start(None).await;
            }
            State::Stopping => {
                if let Some(ending) = &mut self.record.ending
                    && ending.kill_at_ms <= now
                {
                    // Again in a second, should even this take its time.
                    ending.kill_at_ms = now + 1_000;
                    self.signal_to_end(true);
                }
            }
            State::Running if outlived => {
                let detail = format!("its time to live of {ttl} ms is over");
                let settings = &self.shared.settings;
                self.end_run(Reason::Ttl, &detail, settings.grace_ms, settings.ttl_deletes, Vec::new());
            }
            State::Running => {
                self.look_at_limits(now);
                self.run_checks(now);
                self.look_for_idleness(now).await;
            }
            _ => {}
        }
    }

    async fn expire_at_rest(&mut self) {
        self.record.doomed = self.shared.settings.ttl_deletes;
        self.end_at_rest(Exit::new(Reason::Ttl, "its time to live is over")).await;
    }

    /// It waits for its next start, which does not come.
    pub(super) async fn end_at_rest(&mut self, exit: Exit) {
        self.record.next_start_ms = None;
        self.record.last_exit = Some(exit.clone());
        self.record.active.hold();
        let detail = exit.detail.clone();
        self.commit(State::Exited, "exited", &detail, Some(exit), Vec::new());
        self.remove_cgroup().await;
    }

    fn look_at_limits(&mut self, now: u64) {
        let due = self.run.as_ref().is_some_and(|r| r.next_look_ms <= now);
        if !due {
            return;
        }
        let stats = self.cgroup().and_then(|c| c.stats().ok());
        if let Some(run) = &mut self.run {
            run.next_look_ms = now + LOOK_MS;
        }
        let new = self.note_limits(stats.as_ref());
        if !new.is_empty() {
            self.commit(
                self.record.state,
                "limit-hit",
                &format!("it ran into its limits on {}", new.join(", ")),
                None,
                Vec::new(),
            );
        }
    }

    /// Notes limits that were run into since the run began; returns those that were not noted before.
    pub(super) fn note_limits(&mut self, stats: Option<&Stats>) -> Vec<&'static str> {
        let (Some(run), Some(now)) = (&mut self.run, stats) else { return Vec::new() };
        let rose = |field: fn(&Stats) -> Option<u64>| field(now).unwrap_or(0) > field(&run.before).unwrap_or(0);
        let hits = [
            ("memory", rose(|s| s.oom_kills)),
            ("pids", rose(|s| s.refused_forks)),
            ("cpu", rose(|s| s.throttled_usec)),
        ];
        let mut new = Vec::new();
        for (name, hit) in hits {
            if hit && !run.limits_hit.iter().any(|known| known == name) {
                run.limits_hit.push(name.to_owned());
                new.push(name);
            }
        }
        new
    }

    async fn look_for_idleness(&mut self, now: u64) {
        let idle_ms = self.shared.settings.idle_ms;
        let Some(run) = &self.run else { return };
        if idle_ms == 0 || now < run.idle.looked_ms + idle_period(idle_ms) {
            return;
        }
        let cpu = self.cgroup().and_then(|c| c.stats().ok()).and_then(|s| s.cpu_usec);
        let sessions = self.shared.sessions.load(Ordering::Relaxed);
        let Some(run) = &mut self.run else { return };
        let passed = now - run.idle.looked_ms;
        run.idle.looked_ms = now;
        let Some(cpu) = cpu else { return };
        let used = cpu.saturating_sub(run.idle.cpu_usec);
        run.idle.cpu_usec = cpu;
        if sessions > 0 || used > passed * IDLE_MILLI {
            run.idle.since_ms = now;
        } else if now - run.idle.since_ms >= idle_ms
            && let Err(fault) = self.pause("idle", None).await
        {
            eprintln!("{fault}");
        }
    }
}

/// How often to look whether an agent is idle: often enough to pause it not much later than asked.
fn idle_period(idle_ms: u64) -> u64 {
    (idle_ms / 4).clamp(50, 5_000)
}
