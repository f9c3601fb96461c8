//! Starting a run: plan, cgroup, launch; and taking up a run that is there already.

use super::{Agent, Await, Grant, Run, blocking, health, timers};
use crate::fault::{Fault, precondition};
use crate::spawner::client::{CallError, PlanText, Spawner};
use crate::spawner::launch::{FIRST_ID, IDS, MOST_SLOTS};
use crate::spawner::protocol::{Answer, Ask, Kind, LaunchAsk, Program, Who};
use crate::state::{Exit, Reason, State};
use crate::store::record::Process;
use crate::store::requests::{Outcome, Ticket, fingerprint};
use crate::{clock, lease, status};
use agent_kernel::cgroup::{Cgroup, Handle};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// Launches that are tried when spawners die beneath them.
const TRIES: u32 = 3;

impl Agent {
    /// Starts a run. With a ticket somebody asked for it and is told; without, a restart is due.
    pub(super) async fn start(&mut self, ticket: Option<Ticket>) {
        let lease = self.check_lease();
        if lease.is_err() && ticket.is_none() {
            return self.end_at_rest(Exit::new(Reason::Lease, "the lease of its host was over")).await;
        }
        let loaded = self.load_plan();
        let (plan, _) = match lease.and(self.check_secrets()).and(loaded) {
            Ok(plan) => plan,
            Err(fault) => match ticket {
                Some(ticket) => return ticket.end(Outcome::Failed(fault)),
                // The host has changed since Create: something that the policy names is gone.
                None => return self.start_failed(&fault.message),
            },
        };
        if self.record.run > 0 && ticket.is_none() {
            self.record.restarts += 1;
        }
        self.record.run += 1;
        self.record.process = None;
        self.record.next_start_ms = None;
        self.record.ending = None;
        self.record.started_up = self.shared.settings.startup.is_none();
        self.record.enforced.clear();
        self.record.pause_cause.clear();
        self.record.active.run();
        let note = ticket.as_ref().and_then(|t| t.note(None));
        if let Some(ticket) = ticket {
            self.record.in_row = 0;
            self.wait_for(ticket, Await::Running);
        }
        self.commit(State::Starting, "starting", "", None, note.into_iter().collect());
        self.launch(plan).await;
    }

    /// Refused where the agent needs a lease that the host does not have.
    pub(super) fn check_lease(&self) -> Result<(), Fault> {
        if self.shared.settings.leased { lease::check(&self.context.root, &self.record.id) } else { Ok(()) }
    }

    /// From the state Starting on: also the way of a daemon that finds an agent half started.
    pub(super) async fn launch(&mut self, plan: Arc<PlanText>) {
        let mut lost = 0;
        let failed = loop {
            let cgroup = match self.make_cgroup().await {
                Ok(cgroup) => cgroup,
                Err(sentence) => break sentence,
            };
            let before = cgroup.as_ref().and_then(|c| c.stats().ok()).unwrap_or_default();
            let handle = cgroup.as_ref().map(Cgroup::handle);
            match self.ask_to_launch(plan.clone(), handle.as_ref()).await {
                Ok((process, pidfd, enforced)) => match crate::ready::watch_process(pidfd) {
                    Ok(pidfd) => {
                        self.record.process = Some(process);
                        self.record.enforced = enforced;
                        self.began(Some(pidfd), handle, before);
                        let outcome = self.done();
                        let notes = self.notes_of(Await::Running, &outcome);
                        self.record.open.clear();
                        self.commit(State::Running, "running", "", None, notes);
                        return self.end_waiting(Await::Running, &outcome);
                    }
                    Err(e) => break format!("the agent's process cannot be watched: {e}"),
                },
                Err(CallError::Refused(sentence)) => break sentence,
                Err(CallError::Lost) if lost + 1 < TRIES => {
                    // The spawner died in the middle of it. What it may have started is ended, then it is tried anew.
                    lost += 1;
                    self.end_remains().await;
                }
                Err(CallError::Lost) => break format!("the spawner died {TRIES} times while it built the sandbox"),
            }
        };
        self.end_remains().await;
        self.start_failed(&failed);
    }

    /// Takes note of a run's beginning.
    pub(super) fn began(
        &mut self,
        pidfd: Option<AsyncFd<OwnedFd>>,
        cgroup: Option<Handle>,
        before: agent_kernel::cgroup::Stats,
    ) {
        self.record.started_unix_ms = clock::unix_ms();
        self.record.started_ms = clock::boottime_ms();
        let now = clock::boottime_ms();
        self.run = Some(Run {
            pidfd,
            cgroup,
            health: health::Checks::new(&self.shared.settings, now),
            before,
            limits_hit: Vec::new(),
            idle: timers::Idle::new(now),
            next_look_ms: now + timers::LOOK_MS,
        });
    }

    async fn ask_to_launch(
        &mut self,
        plan: Arc<PlanText>,
        cgroup: Option<&Handle>,
    ) -> Result<(Process, OwnedFd, Vec<String>), CallError> {
        self.keep_secrets().await.map_err(|fault| CallError::Refused(fault.message))?;
        let spec = &self.shared.spec;
        let ask = LaunchAsk {
            agent: self.record.id.clone(),
            dir: self.shared.dir.to_string_lossy().into_owned(),
            run: self.record.run,
            program: Program {
                plan: plan.key,
                who: self.who(),
                cgroup: cgroup.and_then(|c| serde_json::to_vec(c).ok()).unwrap_or_default(),
                argv: spec.argv.clone(),
                env: self.environment(),
                cwd: spec.cwd.clone(),
            },
            log_bytes: self.shared.settings.log_bytes,
            log_rate: self.shared.settings.log_rate,
            stdin: spec.stdin,
            heartbeat: self.shared.settings.heartbeat,
            lease: self.shared.settings.leased.then(|| lease::path(&self.context.root).to_string_lossy().into_owned()),
            kind: Kind::Agent,
        };
        let spawner = self.spawner().clone();
        let workspace = self.workspace.as_ref().and_then(|top| top.try_clone().ok());
        match spawner.call(Ask::Launch(Box::new(ask)), workspace.into_iter().collect(), Some(plan)).await? {
            (Answer::Launched { pid, start_ticks, enforced, beside: [workspace, egress, _] }, fds) => {
                let mut fds = fds.into_iter();
                let Some(pidfd) = fds.next() else {
                    return Err(CallError::Refused("the spawner gave no descriptor of the process".into()));
                };
                self.workspace = if workspace { fds.next() } else { None };
                if let Some(listener) = if egress { fds.next() } else { None } {
                    self.serve_egress(listener).await;
                }
                Ok((Process { pid, start_ticks, boot_id: clock::boot_id().to_owned() }, pidfd, enforced))
            }
            _ => Err(CallError::Refused("the spawner answered something else than was asked".into())),
        }
    }

    /// Ends what a launch of unknown end may have left: by the recorded process, and by the cgroup, which goes with it (the
    /// kernel, 6.18, kills what is cloned into a cgroup that was killed once).
    pub(super) async fn end_remains(&self) {
        if let Some(process) = self.launched_process()
            && let Some(pidfd) = crate::process::find(&process)
        {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        }
        self.remove_cgroup().await;
    }

    /// The process that the spawner recorded for the present run, be it alive or not.
    pub(super) fn launched_process(&self) -> Option<Process> {
        let file = std::fs::File::open(self.shared.dir.join("status")).ok()?;
        let launched = status::Launched::read(&file).ok()?;
        (launched.run == self.record.run && launched.pid > 0).then(|| Process {
            pid: launched.pid as i32,
            start_ticks: launched.start_ticks,
            boot_id: clock::boot_id().to_owned(),
        })
    }

    /// The cgroup of this agent: kept over restarts, made when it is not there. None when the host has none.
    async fn make_cgroup(&self) -> Result<Option<Cgroup>, String> {
        let Some((_, plan)) = &self.plan else { return Ok(None) };
        if self.context.host.cgroups.places.is_empty() || plan.level < agent_kernel::policy::Level::L2 {
            return Ok(None);
        }
        let (layout, name) = (&self.context.host.cgroups, self.cgroup_name());
        if let Some(cgroup) = crate::process::open_cgroup(layout, &name) {
            if cgroup.processes().is_ok_and(|p| p.is_empty()) {
                return Ok(Some(cgroup));
            }
            // Something of a run before is left in there.
            let removed = blocking(move || cgroup.kill().and_then(|()| cgroup.remove()));
            removed.await.map_err(|f| f.message)?.map_err(|e| e.to_string())?;
        }
        // A few mkdir and write, less than the way to another thread and back.
        Cgroup::create(layout, &name, &self.values(plan)).map(Some).map_err(|e| e.to_string())
    }

    pub(super) fn cgroup_name(&self) -> PathBuf {
        self.context.cgroup_parent.join(self.sandbox_name())
    }

    /// What its cgroup and its workspace are called: as the agent, or as the instance that it was.
    pub(super) fn sandbox_name(&self) -> &str {
        self.record.instance.as_ref().map_or(&self.record.id, |instance| &instance.name)
    }

    /// The spawner that holds its workspace.
    pub(super) fn spawner(&self) -> &Spawner {
        self.context.spawner_of(self.record.instance.as_ref().map_or(&self.record.id, |instance| &instance.template))
    }

    /// The plan's cgroup values, narrowed by the limits in force.
    pub(super) fn values(&self, plan: &agent_kernel::plan::Plan) -> agent_kernel::cgroup::Values {
        self.record.limits.narrowed(&plan.cgroup)
    }

    pub(super) fn who(&self) -> Who {
        let (first_id, ids) = match &self.record.instance {
            Some(instance) => (instance.first_id, instance.ids),
            None => (FIRST_ID + self.record.uid_slot % MOST_SLOTS * IDS, IDS),
        };
        Who { hostname: self.hostname(), machine_id: self.machine_id(), first_id, ids }
    }

    fn hostname(&self) -> String {
        // An id may have '_', a host name may not.
        if self.shared.spec.hostname.is_empty() {
            self.record.id.replace('_', "-")
        } else {
            self.shared.spec.hostname.clone()
        }
    }

    /// The same for all runs of the agent, and of no other agent.
    fn machine_id(&self) -> String {
        let of =
            |salt: &str| fingerprint(format!("{salt} {} {}", self.record.id, self.record.created_unix_ms).as_bytes());
        format!("{:016x}{:016x}", of("a"), of("b"))
    }

    /// The start came to nothing. Whoever asked for it is told why; a restart that was due goes by its policy.
    pub(super) fn start_failed(&mut self, sentence: &str) {
        let asked = self.waiting.iter().any(|(_, a)| *a == Await::Running);
        let exit = Exit::new(Reason::StartFailed, sentence);
        let fault = Fault::failed(format!("agent {} could not be started: {sentence}", self.record.id));
        let outcome = Outcome::Failed(fault);
        let notes = self.notes_of(Await::Running, &outcome);
        self.record.open.clear();
        if self.record.state != State::Starting {
            // A restart whose plan cannot even be made.
            self.commit(State::Starting, "starting", "", None, Vec::new());
        }
        self.conclude(exit, 0, asked, notes);
        self.end_waiting(Await::Running, &outcome);
    }

    /// What its program finds in its environment: what it was given, placeholders, and where the egress proxy is.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let given = self.shared.spec.env.iter().map(|(k, v)| (k.clone(), v.clone()));
        let egress = self.plan.as_ref().is_some_and(|(_, plan)| !plan.egress.rules.is_empty());
        let usual = if egress { crate::egress::environment() } else { Vec::new() };
        let placeholders = self.record.placeholders.clone();
        let usual = usual.into_iter().filter(|(name, _)| !self.shared.spec.env.contains_key(name));
        usual.chain(placeholders).chain(given).collect()
    }

    /// Lets the proxy serve what connects to a socket in the agent's network.
    pub(super) async fn serve_egress(&self, listener: OwnedFd) {
        let Some((_, plan)) = &self.plan else { return };
        let secrets = self.proxied_secrets(&plan.egress);
        if let Err(e) = self.context.egress.serve(&self.record.id, &plan.egress, secrets, listener).await {
            eprintln!("agent {}: the egress proxy does not serve it: {e}", self.record.id);
        }
    }

    /// The compiled policy, shared with all agents of the same policy and limits.
    pub(super) fn load_plan(&mut self) -> Result<(Arc<PlanText>, Arc<agent_kernel::plan::Plan>), Fault> {
        let (text, plan) = match &self.plan {
            Some((text, plan)) => (text.clone(), plan.clone()),
            None => self.context.plans.compile(&self.shared.spec.policy, &self.context.host)?,
        };
        self.plan = Some((text.clone(), plan.clone()));
        Ok((text, plan))
    }

    /// Lets an exec or attach in; an agent that sleeps because it was idle is woken.
    pub(super) async fn grant(&mut self) -> Result<Grant, Fault> {
        if self.record.state == State::Paused && self.record.pause_cause == "idle" {
            self.resume("somebody entered").await?;
        }
        let id = &self.record.id;
        match self.record.state {
            State::Running => {}
            State::Paused => return Err(precondition(format!("agent {id} is paused by request; resume it first"))),
            state => return Err(precondition(format!("agent {id} is {}; nothing runs in it", state.name()))),
        }
        let (plan, compiled) = self.load_plan()?;
        let (Some(run), Some(process)) = (&self.run, &self.record.process) else {
            return Err(precondition(format!("agent {} has just ended", self.record.id)));
        };
        let pidfd = run.pidfd.as_ref().and_then(|p| rustix::io::fcntl_dupfd_cloexec(p.as_fd(), 3).ok());
        let Some(pidfd) = pidfd else { return Err(precondition(format!("agent {} has just ended", self.record.id))) };
        Ok(Grant {
            pid: process.pid,
            pidfd,
            plan,
            cgroup: run.cgroup.as_ref().and_then(|c| serde_json::to_vec(c).ok()).unwrap_or_default(),
            owner: {
                let identity = crate::spawner::program::identity(&self.who());
                (identity.outside(compiled.uid), identity.outside(compiled.gid))
            },
            who: self.who(),
            spawner: self.spawner().clone(),
            env: self.environment(),
            run: self.record.run,
            _session: self.shared.enter(),
        })
    }
}
