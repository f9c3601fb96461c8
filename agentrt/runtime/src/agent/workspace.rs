//! The way to an agent's workspace.

use super::{Agent, Place};
use crate::fault::{Fault, failed_in, precondition};
use crate::process;
use crate::spawner::client::{CallError, PlanText};
use crate::spawner::program::identity;
use crate::spawner::protocol::{Answer, Ask};
use crate::state::State;
use agent_kernel::workspace::reach;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Agent {
    pub(super) async fn place(&mut self) -> Result<Place, Fault> {
        let (text, plan) = self.load_plan()?;
        let id = self.record.id.clone();
        let Some(wanted) = &plan.workspace else {
            return Err(precondition(format!("agent {id} has no workspace (policy: workspace)")));
        };
        let who = identity(&self.who());
        let owner = (who.outside(plan.uid), who.outside(plan.gid));
        if let Some(process) = self.record.process.clone().filter(|_| self.run.is_some()) {
            // By the running agent itself: the spawner may be another than the one that launched it.
            let ended = || precondition(format!("agent {id} has just ended"));
            let _pinned = process::find(&process).ok_or_else(ended)?;
            let directory = reach(process.pid, wanted).map_err(|e| failed_in(&id, &e.to_string()))?;
            process::find(&process).ok_or_else(ended)?;
            return Ok(Place { directory, prefix: "", owner, _session: self.shared.enter() });
        }
        if self.record.state == State::Deleting {
            return Err(precondition(format!("agent {id} is being deleted")));
        }
        if self.workspace.is_none() {
            self.workspace = Some(self.ask_for_workspace(text, true).await?);
        }
        let top = self.workspace.as_ref().and_then(|top| top.try_clone().ok());
        let directory = top.ok_or_else(|| failed_in(&id, "its workspace cannot be opened"))?;
        Ok(Place { directory, prefix: "workspace", owner, _session: self.shared.enter() })
    }

    async fn ask_for_workspace(&self, plan: Arc<PlanText>, make: bool) -> Result<OwnedFd, Fault> {
        let id = &self.record.id;
        let ask = Ask::Workspace { agent: self.sandbox_name().to_owned(), plan: plan.key, who: self.who(), make };
        match self.spawner().call(ask, Vec::new(), Some(plan)).await {
            Ok((Answer::Descriptor, mut fds)) if fds.len() == 1 => Ok(fds.remove(0)),
            Ok(_) => Err(failed_in(id, "the spawner gave no workspace")),
            Err(CallError::Refused(sentence)) => Err(failed_in(id, &sentence)),
            Err(CallError::Lost) => Err(failed_in(id, "the spawner died; ask again")),
        }
    }

    /// A new daemon takes the workspace over from the spawner that holds it, if one does.
    pub(super) async fn take_up_workspace(&mut self) {
        let Some((text, plan)) = self.plan.clone() else { return };
        if plan.workspace.is_some() && self.context.host.root && self.record.run > 0 {
            self.workspace = self.ask_for_workspace(text, false).await.ok();
        }
    }
}
