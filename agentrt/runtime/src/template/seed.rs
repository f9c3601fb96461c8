//! The process that a template's instances are forked from.

use super::instance::{Born, Wanted, config, launch, ready, remove, seed_name};
use super::{Settings, Shared};
use crate::context::Context;
use crate::spawner::launch::{FIRST_ID, IDS};
use crate::spawner::protocol::{Kind, Who};
use agent_kernel::cgroup::Handle;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use tokio::io::unix::AsyncFd;

/// A seed that has its imports done.
pub struct Run {
    pub pid: i32,
    pub pidfd: AsyncFd<OwnedFd>,
    cgroup: Handle,
}

pub fn directory(context: &Context, template: &str) -> PathBuf {
    context.root.join("templates").join(template)
}

/// Starts a template's seed, and waits for its imports.
pub async fn start(context: &Context, shared: &Shared, settings: &Settings, first_slot: u32) -> Result<Run, String> {
    let name = seed_name(&shared.name);
    let dir = directory(context, &shared.name);
    let who = Who {
        hostname: "seed".into(),
        machine_id: "0".repeat(32),
        first_id: FIRST_ID + first_slot * IDS,
        ids: settings.slots * IDS,
    };
    let wanted = Wanted { who, name: name.clone(), dir: dir.clone(), kind: Kind::Seed };
    let born = launch(context, shared, settings, wanted).await?;
    let Born { process, pidfd, cgroup, orders, .. } = born;
    let told = (&orders).write_all(&config(context, shared, settings, true)).map_err(|e| e.to_string());
    let settled = match told {
        Ok(()) => ready(&orders, settings.ready_ms).await,
        Err(e) => Err(e),
    };
    let watched = settled.and_then(|()| crate::ready::watch_process(pidfd).map_err(|e| e.to_string()));
    match watched {
        Ok(pidfd) => Ok(Run { pid: process.pid, pidfd, cgroup }),
        Err(problem) => {
            remove(context, &shared.name, &name, dir, cgroup).await;
            Err(problem)
        }
    }
}

impl Run {
    pub async fn end(self, context: &Context, template: &str) {
        remove(context, template, &seed_name(template), directory(context, template), self.cgroup).await;
    }
}
