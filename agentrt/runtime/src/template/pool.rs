//! One template: a task that owns its seed and its waiting instances.

use super::instance::{Parked, make};
use super::{Command, IDS_OF_INSTANCE, Settings, Shared, View, seed, spec};
use crate::context::Context;
use crate::fault::{Fault, exhausted, internal, precondition};
use crate::pb;
use crate::spawner::launch::{FIRST_ID, IDS};
use crate::spawner::protocol::Ask;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Instances that are made at once.
const AT_ONCE: usize = 2;
/// Before a failed seed or instance is tried again.
const PAUSE_MS: u64 = 1_000;
/// How often waiting instances are looked at.
const LOOK_MS: u64 = 5_000;
/// After a claim nothing is made for so long: whoever claims next is not to share the processor with that. A pool that is
/// almost empty is filled at once.
const LULL_MS: u64 = 10;

/// A template as it lies on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    spec: pb::TemplateSpec,
    first_slot: u32,
    slots: u32,
}

fn path(context: &Context, name: &str) -> PathBuf {
    context.root.join("templates").join(format!("{name}.json"))
}

struct Pool {
    context: Arc<Context>,
    shared: Arc<Shared>,
    settings: Settings,
    first_slot: u32,
    seed: Option<seed::Run>,
    parked: VecDeque<Parked>,
    waiting: VecDeque<oneshot::Sender<Result<Parked, Fault>>>,
    making: usize,
    /// Instances that are being done away with.
    burials: tokio::task::JoinSet<()>,
    /// Nothing is made before this moment.
    pause_until: Option<tokio::time::Instant>,
    /// Nothing is made ahead before this moment.
    lull_until: Option<tokio::time::Instant>,
}

/// Makes a template, and answers when its imports are done.
pub async fn create(context: &Arc<Context>, name: &str, spec: pb::TemplateSpec) -> Result<(), Fault> {
    let settings = spec::settings(&spec, context)?;
    let first_slot = context.take_slots(settings.slots)?;
    let give_back = || context.give_slots(first_slot, settings.slots);
    let (shared, commands) = shared(name, &spec);
    let seed = if spec.no_fork {
        None
    } else {
        let started = seed::start(context, &shared, &settings, first_slot).await;
        Some(started.map_err(|problem| {
            give_back();
            Fault { refused: true, ..Fault::failed(format!("template {name}: {problem}")) }
        })?)
    };
    let stored = Stored { spec, first_slot, slots: settings.slots };
    let text = serde_json::to_vec(&stored).map_err(|e| internal(format!("template {name}: {e}")))?;
    let folder = context.root.join("templates");
    let written = crate::store::replace(&folder, &format!("{name}.json"), &text, true);
    if let Err(e) = written {
        give_back();
        if let Some(seed) = seed {
            seed.end(context, name).await;
        }
        return Err(internal(format!("template {name}: {} cannot be written: {e}", path(context, name).display())));
    }
    run(context.clone(), shared, commands, settings, first_slot, seed);
    Ok(())
}

fn shared(name: &str, spec: &pb::TemplateSpec) -> (Arc<Shared>, mpsc::UnboundedReceiver<Command>) {
    let (commands, receiver) = mpsc::unbounded_channel();
    let view = View { target: spec.pool, ..View::default() };
    (Arc::new(Shared { name: name.to_owned(), spec: spec.clone(), view: Mutex::new(view), commands }), receiver)
}

fn run(
    context: Arc<Context>,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    settings: Settings,
    first_slot: u32,
    seed: Option<seed::Run>,
) {
    context.templates().insert(shared.name.clone(), shared.clone());
    let (parked, waiting) = (VecDeque::new(), VecDeque::new());
    let burials = tokio::task::JoinSet::new();
    let (pause_until, lull_until) = (None, None);
    let pool = Pool {
        context,
        shared,
        settings,
        first_slot,
        seed,
        parked,
        waiting,
        making: 0,
        burials,
        pause_until,
        lull_until,
    };
    tokio::spawn(pool.live(commands));
}

/// What a daemon before has left: what waited is done away with, templates are started anew.
pub async fn adopt_all(context: &Arc<Context>) -> io::Result<()> {
    let folder = context.root.join("templates");
    std::fs::create_dir_all(&folder)?;
    let parked = context.root.join("parked");
    std::fs::create_dir_all(&parked)?;
    let mut left: Vec<(String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&parked)?.flatten() {
        left.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    for entry in std::fs::read_dir(&folder)?.flatten().filter(|e| e.path().is_dir()) {
        left.push((format!("{}.seed", entry.file_name().to_string_lossy()), entry.path()));
    }
    // Their processes were ended with their cgroups. What their spawners hold of them is forgotten before anything new is
    // made, and before their directories go: a daemon that dies in between leaves them to the next one.
    for (name, dir) in left {
        let template = name.rsplit_once('.').map_or("", |(template, _)| template);
        let ask = Ask::Forget { agent: name.clone() };
        let _ = context.spawner_of(template).call(ask, Vec::new(), None).await;
        std::fs::remove_dir_all(dir)?;
    }
    let mut templates = Vec::new();
    for entry in std::fs::read_dir(&folder)?.flatten() {
        let file = entry.path();
        if file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let stored = std::fs::read(&file).and_then(|raw| Ok(serde_json::from_slice::<Stored>(&raw)?));
        match stored {
            Ok(stored) => templates.push((name, stored)),
            Err(e) => eprintln!("{} is left as it is, the template is not served: {e}", file.display()),
        }
    }
    for (name, stored) in &templates {
        context.taken().1.extend(stored.first_slot..stored.first_slot + stored.slots);
        let (shared, commands) = shared(name, &stored.spec);
        let of_agents = context.agents();
        let instances = of_agents.values().filter_map(|agent| agent.record().instance);
        instances.filter(|i| i.template == *name).for_each(|i| shared.has(i.first_id));
        drop(of_agents);
        match spec::settings(&stored.spec, context) {
            Ok(settings) => run(context.clone(), shared, commands, settings, stored.first_slot, None),
            Err(fault) => eprintln!("template {name}: {}", fault.message),
        }
    }
    Ok(())
}

/// At the daemon's end: seeds and what waits.
pub async fn end_all(context: &Context) {
    let templates: Vec<_> = context.templates().values().cloned().collect();
    for template in templates {
        template.end().await;
    }
}

/// Writes a pool's size down, for the next daemon.
pub fn store_pool(context: &Context, name: &str, size: u32) -> Result<(), Fault> {
    let file = path(context, name);
    let change = || -> io::Result<()> {
        let mut stored: Stored = serde_json::from_slice(&std::fs::read(&file)?)?;
        stored.spec.pool = size;
        let folder = context.root.join("templates");
        crate::store::replace(&folder, &format!("{name}.json"), &serde_json::to_vec(&stored)?, true)
    };
    change().map_err(|e| internal(format!("{}: {e}", file.display())))
}

/// Removes a template that has no agents.
pub async fn delete(context: &Context, name: &str) -> Result<(), Fault> {
    let shared = context.template(name)?;
    let agents = shared.message().agents;
    if agents > 0 {
        return Err(precondition(format!("template {name} has {agents} agents; delete them first")));
    }
    context.templates().remove(name);
    shared.end().await;
    let file = path(context, name);
    let stored = std::fs::read(&file).ok().and_then(|raw| serde_json::from_slice::<Stored>(&raw).ok());
    std::fs::remove_file(&file).map_err(|e| internal(format!("{}: {e}", file.display())))?;
    if let Some(stored) = stored {
        context.give_slots(stored.first_slot, stored.slots);
    }
    Ok(())
}

impl Pool {
    async fn live(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
        loop {
            self.make_more().await;
            {
                let mut view = self.shared.view();
                view.pooled = self.parked.len() as u32;
                view.pid = self.seed.as_ref().map_or(0, |seed| seed.pid);
            }
            let (pause, lull) = (self.pause_until, self.lull_until);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Claim(reply)) => self.waiting.push_back(reply),
                    Some(Command::SetPool) => self.shrink(),
                    Some(Command::Made(made)) => self.made(made),
                    Some(Command::End(done)) => return self.end(commands, done).await,
                    None => return,
                },
                () = ended(self.seed.as_ref()) => {
                    self.pause("what its agents are forked from has ended".into());
                    if let Some(seed) = self.seed.take() {
                        seed.end(&self.context, &self.shared.name).await;
                    }
                }
                () = until(pause) => self.pause_until = None,
                () = until(lull) => self.lull_until = None,
                _ = look.tick() => self.bury_the_dead(),
            }
            self.serve();
        }
    }

    fn target(&self) -> usize {
        self.shared.view().target as usize
    }

    /// Gives waiting instances to whoever waits for one.
    fn serve(&mut self) {
        while !self.waiting.is_empty() {
            let Some(parked) = self.parked.pop_front() else { return };
            if !parked.alive() {
                self.bury(parked);
                continue;
            }
            let Some(reply) = self.waiting.pop_front() else { return };
            let first_id = parked.instance.first_id;
            self.shared.view().claimed.insert(first_id, 1);
            self.lull_until = Some(tokio::time::Instant::now() + Duration::from_millis(LULL_MS));
            if let Err(Ok(parked)) = reply.send(Ok(parked)) {
                self.shared.view().claimed.remove(&first_id);
                self.parked.push_front(parked);
            }
        }
    }

    async fn make_more(&mut self) {
        let target = self.target();
        let lull = self.lull_until.is_some() && self.parked.len() + self.making > target / 4;
        let wanted = self.waiting.len() + if lull { 0 } else { target };
        while self.pause_until.is_none() && self.making < AT_ONCE && self.parked.len() + self.making < wanted {
            if self.seed.is_none() && !self.shared.spec.no_fork {
                match seed::start(&self.context, &self.shared, &self.settings, self.first_slot).await {
                    Ok(seed) => self.seed = Some(seed),
                    Err(problem) => return self.pause(problem),
                }
            }
            let Some(first_id) = self.take_ids() else {
                let most = self.settings.most;
                let fault = exhausted(format!("template {}: all {most} of its agents live", self.shared.name));
                self.waiting.drain(..).for_each(|reply| drop(reply.send(Err(fault.clone()))));
                return;
            };
            self.making += 1;
            let made = make(self.context.clone(), self.shared.clone(), self.settings.clone(), first_id);
            let shared = self.shared.clone();
            tokio::spawn(async move {
                let made = made.await;
                if made.is_err() {
                    shared.freed(first_id);
                }
                let _ = shared.commands.send(Command::Made(made));
            });
        }
    }

    /// The lowest ids that no instance has.
    fn take_ids(&self) -> Option<u32> {
        let first = FIRST_ID + (self.first_slot + 1) * IDS;
        let mut view = self.shared.view();
        let free =
            (0..self.settings.most).map(|at| first + at * IDS_OF_INSTANCE).find(|id| !view.taken.contains_key(id))?;
        view.taken.insert(free, 1);
        Some(free)
    }

    fn made(&mut self, made: Result<Parked, String>) {
        self.making -= 1;
        match made {
            Ok(parked) => {
                self.shared.view().problem.clear();
                self.parked.push_back(parked);
                self.shrink();
            }
            Err(problem) => self.pause(problem),
        }
    }

    /// Whoever waits is told why there is nothing, and nothing is made for a while.
    fn pause(&mut self, problem: String) {
        let fault = Fault { refused: true, ..Fault::failed(format!("template {}: {problem}", self.shared.name)) };
        self.waiting.drain(..).for_each(|reply| drop(reply.send(Err(fault.clone()))));
        self.shared.view().problem = problem;
        self.pause_until = Some(tokio::time::Instant::now() + Duration::from_millis(PAUSE_MS));
    }

    fn shrink(&mut self) {
        while self.parked.len() > self.target() + self.waiting.len() {
            if let Some(parked) = self.parked.pop_back() {
                self.bury(parked);
            }
        }
    }

    fn bury_the_dead(&mut self) {
        let (alive, dead): (VecDeque<_>, VecDeque<_>) = self.parked.drain(..).partition(Parked::alive);
        self.parked = alive;
        dead.into_iter().for_each(|parked| self.bury(parked));
    }

    fn bury(&mut self, parked: Parked) {
        let (context, shared) = (self.context.clone(), self.shared.clone());
        while self.burials.try_join_next().is_some() {}
        self.burials.spawn(async move { parked.discard(&context, &shared).await });
    }

    async fn end(mut self, mut commands: mpsc::UnboundedReceiver<Command>, done: oneshot::Sender<()>) {
        while self.making > 0 {
            match commands.recv().await {
                Some(Command::Made(made)) => {
                    self.making -= 1;
                    self.parked.extend(made.ok());
                }
                Some(_) => {}
                None => break,
            }
        }
        for parked in std::mem::take(&mut self.parked) {
            self.bury(parked);
        }
        while self.burials.join_next().await.is_some() {}
        if let Some(seed) = self.seed.take() {
            seed.end(&self.context, &self.shared.name).await;
        }
        let _ = done.send(());
    }
}

async fn ended(seed: Option<&seed::Run>) {
    match seed {
        Some(seed) => drop(seed.pidfd.readable().await),
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
