//! An agent that was an instance of a template a moment ago.

use super::secrets::Texts;
use super::{Agent, Shared};
use crate::context::Context;
use crate::plans::Compiled;
use crate::template::Parked;
use agent_kernel::cgroup::Stats;
use std::io;
use std::sync::Arc;

impl Agent {
    /// Takes over what waited; its record says already that it runs.
    pub async fn claimed(
        context: Arc<Context>,
        shared: Arc<Shared>,
        parked: Parked,
        plan: Compiled,
        secrets: Texts,
    ) -> io::Result<Agent> {
        let mut agent = Agent::new(context, shared, secrets);
        let Parked { pidfd, workspace, cgroup, egress, .. } = parked;
        let (unix_ms, ms) = (agent.record.started_unix_ms, agent.record.started_ms);
        agent.began(Some(crate::ready::watch_process(pidfd)?), Some(cgroup), Stats::default());
        (agent.record.started_unix_ms, agent.record.started_ms) = (unix_ms, ms);
        agent.workspace = workspace;
        agent.plan = Some(plan);
        if let Err(fault) = agent.keep_secrets().await {
            eprintln!("{fault}");
        }
        if let Some(listener) = egress {
            agent.serve_egress(listener).await;
        }
        Ok(agent)
    }
}
