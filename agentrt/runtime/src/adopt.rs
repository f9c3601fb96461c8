//! What a new daemon does with what the one before left: every agent is taken up where it stands.
//!
//! It runs when the spawners have answered: whatever the daemon before had asked of them is finished by then.

use crate::agent::{Agent, Shared};
use crate::context::Context;
use crate::state::State;
use crate::store::journal::Recovered;
use crate::store::record::Record;
use crate::store::requests::{Outcome, RequestNote};
use crate::{fault, pb, spec};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How many agents were found, by what became of them.
#[derive(Debug, Default)]
pub struct Found {
    pub agents: usize,
    /// Directories of Creates that were cut short, now removed.
    pub cut_short: usize,
}

/// Reads all agents, brings the journal up to date, and starts their tasks.
pub fn adopt_all(context: &Arc<Context>, recovered: Recovered) -> io::Result<Found> {
    let mut found = Found::default();
    let mut notes: Vec<RequestNote> = recovered.requests;
    let mut loaded = Vec::new();
    for entry in fs::read_dir(context.root.join("agents"))? {
        let dir = entry?.path();
        match load(&dir) {
            Ok(Some((record, spec, settings))) => loaded.push((dir, record, spec, settings)),
            Ok(None) => {
                fs::remove_dir_all(&dir)?;
                found.cut_short += 1;
            }
            // One agent that cannot be read stops no other. Nothing of it is touched: somebody may mend it.
            Err(e) => eprintln!("{} is left as it is, the agent is not served: {e}", dir.display()),
        }
    }
    let mut deleted = HashSet::new();
    for (_, record, ..) in &mut loaded {
        if record.event.as_ref().is_some_and(|e| e.kind == "deleted") {
            deleted.insert(record.id.clone());
        }
        // The daemon died between the change of state and its line in the journal.
        // An id may be used again: what is known of a deleted agent counts for its deletion alone.
        let told = deleted.contains(&record.id) && recovered.deleted.get(&record.id) == Some(&record.rev);
        if !told
            && recovered.revs.get(&record.id).copied().unwrap_or(0) < record.rev
            && let Some(mut event) = record.event.take()
        {
            context.journal.append(&mut event)?;
            notes.extend(event.requests);
        }
    }
    // Told as deleted, and nothing of them left but the directory.
    for (dir, ..) in loaded.extract_if(.., |(_, record, ..)| deleted.contains(&record.id)) {
        fs::remove_dir_all(dir)?;
    }
    let open: HashSet<&str> = loaded.iter().flat_map(|(_, r, ..)| r.open.iter().map(|n| n.id.as_str())).collect();
    recall(context, &notes, &open)?;
    drop(open);
    for (dir, record, spec, settings) in loaded {
        found.agents += 1;
        if record.instance.is_none() {
            context.taken().1.insert(record.uid_slot);
        }
        let id = record.id.clone();
        let open = record.open.clone();
        let (shared, commands) = Shared::new(dir, Arc::new(spec), settings, record);
        context.agents().insert(id, shared.clone());
        let mut agent = Agent::new(context.clone(), shared, Default::default());
        tokio::spawn(async move {
            agent.take_up(open).await;
            agent.live(commands).await;
        });
    }
    remove_stray_cgroups(context);
    Ok(found)
}

type Loaded = (Record, pb::AgentSpec, spec::Settings);

/// None: a Create, or a Delete, that was cut short.
fn load(dir: &Path) -> io::Result<Option<Loaded>> {
    let Some(record) = Record::load(dir)? else { return Ok(None) };
    let path = dir.join("spec.json");
    let raw = match fs::read(&path) {
        Ok(raw) => raw,
        Err(e) if e.kind() == io::ErrorKind::NotFound && record.state == State::Deleting => return Ok(None),
        Err(e) => return Err(io::Error::other(format!("{}: {e}", path.display()))),
    };
    let spec = serde_json::from_slice::<pb::AgentSpec>(&raw)
        .map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
    let settings = spec::settings(&spec).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
    Ok(Some((record, spec, settings)))
}

/// Remembers the requests of the daemon before. Those that ended are answered as they ended; those that an agent's change
/// will end are taken up by it; the others (an exec, a copy) broke off with the daemon, and are never done twice.
fn recall(context: &Context, notes: &[RequestNote], open: &HashSet<&str>) -> io::Result<()> {
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (i, note) in notes.iter().enumerate() {
        last.insert(&note.id, i);
    }
    for (i, note) in notes.iter().enumerate() {
        if last.get(note.id.as_str()) != Some(&i) || open.contains(note.id.as_str()) {
            continue;
        }
        let mut note = note.clone();
        if note.outcome.is_none() {
            let sentence = format!(
                "the daemon was restarted while it did this ({}); how far it came is unknown, it is not done again",
                note.verb
            );
            note.outcome = Some(Outcome::Failed(fault::Fault { refused: false, ..fault::aborted(sentence) }));
            context.journal.append_request(&note)?;
        }
        context.requests.recall(&note);
    }
    Ok(())
}

/// Cgroups beneath ours that no agent has.
fn remove_stray_cgroups(context: &Context) {
    let parents: HashSet<_> =
        context.host.cgroups.places.values().map(|p| p.own.join(&context.cgroup_parent)).collect();
    let mut names = HashSet::new();
    for parent in parents {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                names.insert(entry.file_name());
            }
        }
    }
    let known: HashSet<String> = context
        .agents()
        .values()
        .map(|agent| agent.record().instance.map_or_else(|| agent.id.clone(), |instance| instance.name))
        .collect();
    for name in names {
        if name.to_str().is_some_and(|n| !known.contains(n))
            && let Some(cgroup) = crate::process::open_cgroup(&context.host.cgroups, &context.cgroup_parent.join(&name))
            && let Err(e) = cgroup.kill().and_then(|()| cgroup.remove())
        {
            eprintln!("{e}");
        }
    }
}
