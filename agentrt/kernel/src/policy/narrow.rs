//! What a document may not say, and how two documents become one that allows no more than either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::{Files, Limits, Network, NetworkMode, Policy, PolicyError, Root, WorkspacePolicy};
use crate::seccomp::{self, Standing};

type Set<T> = Option<BTreeSet<T>>;

impl Policy {
    /// What can be said wrong in a document that parses.
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if let Some(Root::Directory(path)) = &self.root {
            plain_path("root.directory", path)?;
        }
        if let Some(Root::Image(digest)) = &self.root {
            crate::image::Digest::parse(digest).map_err(|problem| PolicyError::at("root.image", problem))?;
        }
        if let Some(files) = &self.files {
            for (key, paths) in [("read", &files.read), ("execute", &files.execute), ("write", &files.write)] {
                for path in paths.iter().flatten() {
                    plain_path(&format!("files.{key}"), path)?;
                    self.not_covered(&format!("files.{key}"), path)?;
                }
            }
        }
        if let Some(path) = self.workspace.as_ref().and_then(|workspace| workspace.path.as_ref()) {
            plain_path("workspace.path", path)?;
            let taken = ["/", "/proc", "/dev", "/etc", "/run", "/tmp", "/usr", "/bin", "/sbin", "/lib", "/lib64"];
            let first =
                Path::new("/").join(path.components().nth(1).map(|c| c.as_os_str().to_owned()).unwrap_or_default());
            if taken.iter().any(|taken| first == Path::new(taken)) {
                let problem =
                    format!("{} is taken by the root itself: choose another place, as /workspace", path.display());
                return Err(PolicyError::at("workspace.path", problem));
            }
        }
        self.check_checkpoints()?;
        self.check_network()?;
        self.check_system_calls()?;
        for name in self.capabilities.iter().flat_map(|c| c.keep.iter().flatten()) {
            crate::capability::number(name).map_err(|problem| PolicyError::at("capabilities.keep", problem))?;
        }
        self.check_limits()
    }

    /// Places that are the agent's own cover what the host has there.
    fn not_covered(&self, key: &str, path: &Path) -> Result<(), PolicyError> {
        let work =
            self.workspace.as_ref().and_then(|w| w.path.clone()).unwrap_or_else(|| crate::plan::WORKSPACE.into());
        let own = [Path::new("/tmp"), Path::new("/run"), Path::new("/dev"), Path::new("/proc"), &work];
        let Some(own) = own.iter().find(|own| path.starts_with(own) || path == Path::new("/")) else { return Ok(()) };
        if self.level() == super::Level::L1 {
            return Ok(());
        }
        let problem = format!("{} cannot be shown: {} is the agent's own inside", path.display(), own.display());
        Err(PolicyError::at(key, problem))
    }

    fn check_checkpoints(&self) -> Result<(), PolicyError> {
        if !self.checkpoints() {
            return Ok(());
        }
        let problem = if self.level() != super::Level::L3 {
            "only an agent at L3 can be forked: leave level out, or checkpoints"
        } else if self.workspace.as_ref().and_then(|w| w.kind) == Some(super::WorkspaceKind::Overlay) {
            "an overlay cannot be copied for a fork: choose workspace.kind = \"tmpfs\""
        } else if self.system_calls.as_ref().and_then(|calls| calls.record_denials) == Some(true) {
            "the record of denied calls would be its forks' as well: leave system_calls.record_denials out"
        } else {
            return Ok(());
        };
        Err(PolicyError::at("checkpoints", problem))
    }

    fn check_network(&self) -> Result<(), PolicyError> {
        let Some(network) = &self.network else {
            return Ok(());
        };
        let mode = self.network_mode();
        if mode == NetworkMode::Host && self.level() == super::Level::L3 {
            let problem =
                "\"host\" and level L3 exclude each other: L3 has a network of its own; choose L2 or \"loopback\"";
            return Err(PolicyError::at("network.mode", problem));
        }
        if mode == NetworkMode::Loopback && self.level() != super::Level::L3 {
            let problem = format!("\"loopback\" needs level L3: {:?} has no network of its own", self.level());
            return Err(PolicyError::at("network.mode", problem));
        }
        for (key, ports) in [("connect", &network.connect), ("bind", &network.bind)] {
            if mode != NetworkMode::Host && ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
                let problem = "ports are for mode = \"host\"; without it there is nothing to connect to";
                return Err(PolicyError::at(format!("network.{key}"), problem));
            }
        }
        for host in network.egress.iter().flatten() {
            egress(host).map_err(|problem| PolicyError::at("network.egress", problem))?;
        }
        if network.egress_connections == Some(0) {
            let problem = "0 is too little for any request: at least 1, or an empty egress";
            return Err(PolicyError::at("network.egress_connections", problem));
        }
        if network.egress_bytes_per_second.is_some_and(|rate| rate.0 < LEAST_RATE) {
            let problem = format!("it is too little for any request to end: at least {LEAST_RATE}");
            return Err(PolicyError::at("network.egress_bytes_per_second", problem));
        }
        network.check_secrets()
    }

    fn check_system_calls(&self) -> Result<(), PolicyError> {
        let Some(calls) = &self.system_calls else {
            return Ok(());
        };
        for (key, names) in [("allow", &calls.allow), ("deny", &calls.deny)] {
            for name in names.iter().flatten() {
                let key = format!("system_calls.{key}");
                match seccomp::standing(name) {
                    Standing::Unknown { nearest } => {
                        let nearest = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                        let problem = format!("{name:?} is no system call of this architecture{nearest}");
                        return Err(PolicyError::at(key, problem));
                    }
                    Standing::Never(why) if key.ends_with("allow") => {
                        let problem = format!("{name} cannot be allowed: {why}");
                        return Err(PolicyError::at(key, problem));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), PolicyError> {
        let Some(limits) = &self.limits else {
            return Ok(());
        };
        let fail = |key: &str, problem: String| Err(PolicyError::at(format!("limits.{key}"), problem));
        if let Some(cpus) = limits.cpus
            && !(0.01..=4096.0).contains(&cpus)
        {
            return fail("cpus", format!("{cpus} is not between 0.01 and 4096 cores"));
        }
        if let Some(weight) = limits.cpu_weight
            && !(1..=10_000).contains(&weight)
        {
            return fail("cpu_weight", format!("{weight} is not between 1 and 10000"));
        }
        for (key, value, least) in [
            ("memory", limits.memory.map(|b| b.0), 4 << 20),
            ("processes", limits.processes, 2),
            ("open_files", limits.open_files, 8),
            ("stack", limits.stack.map(|b| b.0), 64 << 10),
            ("address_space", limits.address_space.map(|b| b.0), 16 << 20),
            ("cpu_seconds", limits.cpu_seconds, 1),
        ] {
            if let Some(value) = value
                && value < least
            {
                return fail(key, format!("{value} is too little for any program to start: at least {least}"));
            }
        }
        Ok(())
    }

    /// The policy that allows what both allow. What `other` does not state stays as it is.
    pub fn narrowed_by(&self, other: &Self) -> Result<Self, PolicyError> {
        let level = match (self.level, other.level) {
            (None, None) => None,
            (mine, theirs) => Some(mine.unwrap_or_default().max(theirs.unwrap_or(mine.unwrap_or_default()))),
        };
        let mut merged = Self {
            version: self.version,
            level,
            optional: both(&self.optional, &other.optional),
            checkpoints: self.checkpoints.map(|mine| mine && other.checkpoints.unwrap_or(true)),
            root: same("root", &self.root, &other.root)?,
            files: Some(files(self.files.as_ref(), other.files.as_ref())),
            workspace: workspace(self.workspace.as_ref(), other.workspace.as_ref())?,
            network: None,
            system_calls: None,
            capabilities: None,
            identity: same("identity", &self.identity, &other.identity)?,
            limits: Some(limits(self.limits.as_ref(), other.limits.as_ref())),
        };
        merged.network = network(self, other, merged.level());
        let (mine, theirs) = (self.system_calls.clone().unwrap_or_default(), other.system_calls.clone());
        merged.system_calls = Some(match theirs {
            None => mine,
            Some(theirs) => super::SystemCalls {
                allow: theirs.allow.map_or(mine.allow.clone(), |allow| both(&mine.allow, &Some(allow))),
                deny: united(&mine.deny, &theirs.deny),
                record_denials: mine.record_denials.or(theirs.record_denials),
            },
        });
        let keep = self.capabilities.as_ref().and_then(|c| c.keep.clone());
        let keep = match other.capabilities.as_ref().and_then(|c| c.keep.clone()) {
            None => keep,
            theirs => both(&keep, &theirs),
        };
        merged.capabilities = Some(super::Capabilities { keep });
        merged.check()?;
        Ok(merged)
    }
}

/// The least bytes a second through the egress proxy.
const LEAST_RATE: u64 = 1024;

impl Network {
    fn check_secrets(&self) -> Result<(), PolicyError> {
        let mut seen = BTreeMap::new();
        for (name, origins) in self.secrets.iter().flatten() {
            let key = format!("network.secrets.{name}");
            let fail = |problem: String| Err(PolicyError::at(key.clone(), problem));
            let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !letters || name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
                return fail(format!("{name:?} is no name of a variable: write letters, digits and '_'"));
            }
            for text in origins {
                let (tls, at) = origin(text).map_err(|problem| PolicyError::at(key.clone(), problem))?;
                if !self.lists(at) {
                    return fail(format!("{at} is not in network.egress; list it there as well"));
                }
                if *seen.entry(at).or_insert(tls) != tls {
                    return fail(format!("{at} is both an http and an https origin: the proxy could not tell which"));
                }
            }
        }
        Ok(())
    }

    /// Whether `egress` lists a host and port.
    fn lists(&self, at: &str) -> bool {
        let Some((host, port)) = at.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) else {
            return false;
        };
        self.egress.iter().flatten().any(|rule| crate::explain::egress_matches(rule, host, port))
    }
}

/// An origin of a secret: whether it is reached by TLS, and its `host:port`.
pub fn origin(text: &str) -> Result<(bool, &str), String> {
    let wrong =
        || format!("{text:?} is no origin: write https://host:port or http://host:port, and one host by its name");
    let (tls, at) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(at), _) => (true, at),
        (None, Some(at)) => (false, at),
        (None, None) => return Err(wrong()),
    };
    if at.starts_with('*') || egress(at).is_err() || at.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(wrong());
    }
    Ok((tls, at))
}

/// What both contain; unstated is the empty set, since deny is the default.
fn both<T: Ord + Clone>(a: &Set<T>, b: &Set<T>) -> Set<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
        (Some(a), None) => Some(a.clone()),
        (None, Some(_)) => Some(BTreeSet::new()),
        (None, None) => None,
    }
}

fn united<T: Ord + Clone>(a: &Set<T>, b: &Set<T>) -> Set<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.union(b).cloned().collect()),
        (a, b) => a.clone().or_else(|| b.clone()),
    }
}

/// Neither of two roots (or identities) is narrower than the other: only the same or none may be stated.
fn same<T: Clone + PartialEq + std::fmt::Debug>(
    key: &str,
    mine: &Option<T>,
    theirs: &Option<T>,
) -> Result<Option<T>, PolicyError> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) if mine != theirs => {
            let problem = format!("{theirs:?} does not narrow {mine:?}: leave it out or state the same");
            Err(PolicyError::at(key, problem))
        }
        (None, Some(theirs)) => {
            let problem = format!("{theirs:?} does not narrow the default: leave it out");
            Err(PolicyError::at(key, problem))
        }
        (mine, _) => Ok(mine.clone()),
    }
}

/// Paths that lie beneath a path of each side: of every pair the deeper one.
fn paths(mine: &Set<PathBuf>, theirs: &Set<PathBuf>) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    for a in mine.iter().flatten() {
        for b in theirs.iter().flatten() {
            if a.starts_with(b) {
                out.insert(a.clone());
            } else if b.starts_with(a) {
                out.insert(b.clone());
            }
        }
    }
    out
}

fn files(mine: Option<&Files>, theirs: Option<&Files>) -> Files {
    let mine = mine.cloned().unwrap_or_default();
    let Some(theirs) = theirs else { return mine };
    // To write or to execute includes to read, so a reader may be narrowed out of either of them.
    let readable = |files: &Files| -> Set<PathBuf> {
        Some(
            [&files.read, &files.execute, &files.write].into_iter().flat_map(|s| s.iter().flatten().cloned()).collect(),
        )
    };
    let stated = theirs.read.is_some() || theirs.execute.is_some() || theirs.write.is_some();
    if !stated {
        return mine;
    }
    Files {
        read: Some(paths(&readable(&mine), &readable(theirs))),
        execute: Some(paths(&mine.execute, &theirs.execute)),
        write: Some(paths(&mine.write, &theirs.write)),
    }
}

fn workspace(
    mine: Option<&WorkspacePolicy>,
    theirs: Option<&WorkspacePolicy>,
) -> Result<Option<WorkspacePolicy>, PolicyError> {
    let Some(theirs) = theirs else {
        return Ok(mine.cloned());
    };
    let mine = mine.cloned().unwrap_or_default();
    let kind = mine.kind.unwrap_or_default();
    if theirs.kind.is_some_and(|theirs| theirs != kind && theirs != super::WorkspaceKind::None) {
        let problem =
            format!("{:?} does not narrow {kind:?}: leave it out or write none", theirs.kind.unwrap_or_default());
        return Err(PolicyError::at("workspace.kind", problem));
    }
    let path = mine.path.clone().unwrap_or_else(|| PathBuf::from(crate::plan::WORKSPACE));
    if theirs.path.as_ref().is_some_and(|theirs| *theirs != path) {
        let problem = format!("the workspace is at {}: leave the path out or state the same", path.display());
        return Err(PolicyError::at("workspace.path", problem));
    }
    Ok(Some(WorkspacePolicy {
        kind: theirs.kind.or(mine.kind),
        path: mine.path,
        size: Some(least(mine.size, theirs.size, crate::plan::WORKSPACE_SIZE)),
        inodes: Some(least(mine.inodes, theirs.inodes, crate::plan::WORKSPACE_INODES)),
        execute: Some(mine.execute.unwrap_or(true) && theirs.execute.unwrap_or(true)),
    }))
}

/// The lesser of what is stated; `unstated` is what `mine` means when it says nothing.
fn least<T: PartialOrd + Copy>(mine: Option<T>, theirs: Option<T>, unstated: T) -> T {
    let mine = mine.unwrap_or(unstated);
    match theirs {
        Some(theirs) if theirs < mine => theirs,
        _ => mine,
    }
}

fn network(mine: &Policy, theirs: &Policy, level: super::Level) -> Option<Network> {
    let (a, b) = (mine.network.clone().unwrap_or_default(), theirs.network.clone().unwrap_or_default());
    // A network of its own (L3) is narrower than the host's; the mode that a side leaves out does not bind it.
    let mut mode = match b.mode {
        Some(theirs) => mine.network_mode().min(theirs),
        None => mine.network_mode(),
    };
    if level == super::Level::L3 && mode == NetworkMode::Host {
        mode = NetworkMode::None;
    }
    if level != super::Level::L3 && mode == NetworkMode::Loopback {
        mode = NetworkMode::None;
    }
    let ports = |mine: &Set<u16>, theirs: &Set<u16>| {
        let merged = if theirs.is_some() { both(mine, theirs) } else { mine.clone() };
        if mode == NetworkMode::Host { merged } else { None }
    };
    let mut merged = Network {
        mode: Some(mode),
        connect: ports(&a.connect, &b.connect),
        bind: ports(&a.bind, &b.bind),
        egress: if b.egress.is_some() { both(&a.egress, &b.egress) } else { a.egress },
        egress_connections: a.egress_connections.into_iter().chain(b.egress_connections).min(),
        egress_bytes_per_second: a.egress_bytes_per_second.into_iter().chain(b.egress_bytes_per_second).min(),
        secrets: None,
    };
    merged.secrets = a.secrets.map(|mine| {
        let narrowed = mine.into_iter().map(|(name, mut origins)| {
            let theirs = b.secrets.as_ref().map(|theirs| theirs.get(&name).cloned().unwrap_or_default());
            origins.retain(|text| origin(text).is_ok_and(|(_, at)| merged.lists(at)));
            origins.retain(|text| theirs.as_ref().is_none_or(|theirs| theirs.contains(text)));
            (name, origins)
        });
        narrowed.filter(|(_, origins)| !origins.is_empty()).collect()
    });
    Some(merged)
}

fn limits(mine: Option<&Limits>, theirs: Option<&Limits>) -> Limits {
    let a = mine.cloned().unwrap_or_default();
    let Some(b) = theirs else { return a };
    // Where neither states a value the default of the reference holds, and stays unstated.
    fn lower<T: PartialOrd + Copy>(mine: Option<T>, theirs: Option<T>, unstated: Option<T>) -> Option<T> {
        match (mine.or(if theirs.is_some() { unstated } else { None }), theirs) {
            (Some(mine), Some(theirs)) => Some(if theirs < mine { theirs } else { mine }),
            (mine, theirs) => mine.or(theirs),
        }
    }
    use crate::plan::defaults as d;
    Limits {
        memory: lower(a.memory, b.memory, Some(d::MEMORY)),
        cpus: lower(a.cpus, b.cpus, Some(d::CPUS)),
        cpu_weight: lower(a.cpu_weight, b.cpu_weight, Some(d::CPU_WEIGHT)),
        processes: lower(a.processes, b.processes, Some(d::PROCESSES)),
        open_files: lower(a.open_files, b.open_files, Some(d::OPEN_FILES)),
        file_size: lower(a.file_size, b.file_size, None),
        stack: lower(a.stack, b.stack, Some(d::STACK)),
        cpu_seconds: lower(a.cpu_seconds, b.cpu_seconds, None),
        address_space: lower(a.address_space, b.address_space, None),
        read_bytes_per_second: lower(a.read_bytes_per_second, b.read_bytes_per_second, None),
        write_bytes_per_second: lower(a.write_bytes_per_second, b.write_bytes_per_second, None),
    }
}

/// An absolute path without `.`, `..`, NUL or doubled slashes.
fn plain_path(key: &str, path: &Path) -> Result<(), PolicyError> {
    use std::os::unix::ffi::OsStrExt;
    let plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_bytes().contains(&0);
    if !plain {
        let problem = format!("{} is no plain path: write an absolute one without . and ..", path.display());
        return Err(PolicyError::at(key, problem));
    }
    Ok(())
}

/// `host:port` or `*.host:port`, host in letters, digits, dots and dashes: nothing that two parsers could read apart.
fn egress(text: &str) -> Result<(), String> {
    let wrong =
        || format!("{text:?} is no host and port: write name:port or *.name:port, in letters, digits, dots and dashes");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let port = port.parse::<u16>().ok().filter(|port| *port > 0 && !text.contains(":+"));
    if host.len() > 253 || !host.split('.').all(label) || port.is_none() {
        return Err(wrong());
    }
    Ok(())
}
