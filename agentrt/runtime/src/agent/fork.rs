//! An agent that others are forked from: where it stands, and whether it can be forked there.

use super::shared::Origin;
use super::{Agent, blocking};
use crate::fault::{Fault, precondition};
use crate::spawner::client::CallError;
use crate::spawner::protocol::Ask;
use crate::state::State;

/// Its init and its program.
const ALONE: usize = 2;

impl Agent {
    /// Refuses what cannot be forked, in one sentence.
    pub(super) async fn origin(&mut self) -> Result<Origin, Fault> {
        let id = self.record.id.clone();
        let refuse = |why: &str| precondition(format!("agent {id} cannot be forked: {why}"));
        let Some(instance) = self.record.instance.clone() else {
            return Err(refuse("it was not claimed from a template"));
        };
        if !self.load_plan()?.1.checkpoints {
            return Err(refuse("its policy does not say checkpoints = true"));
        }
        if self.record.state != State::Running {
            return Err(refuse(&format!("it is {}", self.record.state.name())));
        }
        let ask = Ask::Checkpoint { agent: instance.name.clone() };
        match self.spawner().call(ask, Vec::new(), None).await {
            Ok(_) => {}
            Err(CallError::Refused(sentence)) => return Err(refuse(&sentence)),
            Err(CallError::Lost) => return Err(refuse("its spawner died just now")),
        }
        let cgroup = self.cgroup().ok_or_else(|| refuse("its cgroup is gone"))?;
        let processes = blocking(move || cgroup.processes()).await?.map_err(|e| refuse(&e.to_string()))?.len();
        if processes > ALONE {
            return Err(refuse(&format!(
                "it has {} other processes, and forks would not have them",
                processes - ALONE
            )));
        }
        let workspace = self.workspace.as_ref().and_then(|top| top.try_clone().ok());
        Ok(Origin {
            instance,
            workspace: workspace.ok_or_else(|| refuse("its workspace is not at hand"))?,
            spec: self.shared.spec.clone(),
            limits: self.record.limits,
            placeholders: self.record.placeholders.clone(),
            secrets: self.secrets.clone(),
        })
    }
}
