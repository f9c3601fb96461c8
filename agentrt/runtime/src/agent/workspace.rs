//! The way to an agent's workspace.

use super::{Agent, Place};
use crate::fault::{Fault, failed_in, precondition};
use crate::process;
use crate::spawner::client::CallError;
use crate::spawner::launch::identity;
use crate::spawner::protocol::{Answer, Ask};
use crate::state::State;
use agent_kernel::workspace::reach;

impl Agent {
    pub(super) async fn place(&mut self) -> Result<Place, Fault> {
        let (text, plan) = self.load_plan()?;
        let id = self.record.id.clone();
        let Some(wanted) = &plan.workspace else {
            return Err(precondition(format!("agent {id} has no workspace (policy: workspace)")));
        };
        let (hostname, machine_id, uid_slot) = (self.hostname(), self.machine_id(), self.record.uid_slot);
        let who = identity(uid_slot, &hostname, &machine_id);
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
        let ask = Ask::Workspace { agent: id.clone(), plan: text.key, hostname, machine_id, uid_slot };
        match self.context.spawner_of(&id).call(ask, Vec::new(), Some(text)).await {
            Ok((Answer::Descriptor, mut fds)) if fds.len() == 1 => {
                Ok(Place { directory: fds.remove(0), prefix: "work", owner, _session: self.shared.enter() })
            }
            Ok(_) => Err(failed_in(&id, "the spawner gave no workspace")),
            Err(CallError::Refused(sentence)) => Err(failed_in(&id, &sentence)),
            Err(CallError::Lost) => Err(failed_in(&id, "the spawner died; ask again")),
        }
    }
}
