//! What is truly enforced on an agent, layer by layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::launch::request::Launch;
use crate::plan::{Missing, Plan};
use crate::policy::Level;

/// What is truly enforced. A launch that could not enforce something that its plan requires has failed instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The level.
    pub level: Level,
    /// Each layer in force, with its particulars.
    pub layers: BTreeMap<String, String>,
    /// Optional layers that are not in force, and why.
    pub missing: Vec<Missing>,
}

impl Applied {
    pub(crate) fn of(plan: &Plan, launch: &Launch) -> Self {
        let mut applied = Self::of_plan(plan);
        let mut put = |layer: &str, what: String| drop(applied.layers.insert(layer.to_owned(), what));
        if plan.level > Level::L1 {
            put("identity", format!("{} ids from {}", launch.identity.ids, launch.identity.first_id));
        }
        if launch.cgroup.is_some() {
            let controllers: Vec<String> =
                plan.cgroup.controllers().iter().map(|c| format!("{c:?}").to_lowercase()).collect();
            put("cgroup", controllers.join(" "));
        }
        applied
    }

    /// What follows from the plan alone.
    pub(crate) fn of_plan(plan: &Plan) -> Self {
        let mut layers = BTreeMap::new();
        let mut put = |layer: &str, what: String| drop(layers.insert(layer.to_owned(), what));
        let landlock = &plan.landlock;
        if landlock.files != 0 {
            put("landlock files", format!("ABI {}, {} rules", landlock.version, landlock.paths.len()));
        }
        if landlock.network != 0 {
            put("landlock network", format!("{} TCP rules", landlock.ports.len()));
        }
        if landlock.scoped != 0 {
            put("landlock scope", "signals, abstract sockets".into());
        }
        let noted = if plan.record_denials { ", denials noted" } else { "" };
        put("seccomp", format!("{} instructions{noted}", plan.filter.len()));
        let kept = (0..64).filter(|c| plan.capabilities & (1 << c) != 0).map(crate::capability::name);
        put("capabilities", kept.collect::<Vec<_>>().join(" "));
        for limit in &plan.limits {
            put(&format!("limit {}", limit.key), limit.value.to_string());
        }
        if plan.level > Level::L1 {
            let network = if plan.level == Level::L3 { " net" } else { "" };
            put("namespaces", format!("user pid mount ipc uts cgroup{network}"));
            put("root", format!("{:?}, read-only", plan.root));
            put("proc", "hidepid=invisible, subset=pid".into());
            if let Some(workspace) = &plan.workspace {
                put("workspace", format!("{} bytes, {} inodes", workspace.size, workspace.inodes));
            }
        }
        Self { level: plan.level, layers, missing: plan.missing.clone() }
    }
}
