//! Why an access is denied, by which layer, and what would allow it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::{Access as Rights, Plan};
use crate::policy::{Level, NetworkMode, Policy, Root, WorkspaceKind};
use crate::seccomp::{self, Standing};
use crate::sys::fs;

/// Something that an agent might try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read a file or list a directory.
    Read(String),
    /// Change, make or remove a file.
    Write(String),
    /// Execute a file.
    Execute(String),
    /// Connect to `host:port` by TCP.
    Connect(String),
    /// Listen on a TCP port.
    Bind(u16),
    /// Make a system call.
    SystemCall(String),
    /// Use a capability.
    Capability(String),
}

impl Access {
    /// From a verb and an object, as people and other languages write it: `("read", "/etc/passwd")`.
    pub fn parse(verb: &str, object: &str) -> Result<Self, String> {
        let object = object.to_owned();
        Ok(match verb {
            "read" => Self::Read(object),
            "write" => Self::Write(object),
            "execute" => Self::Execute(object),
            "connect" => Self::Connect(object),
            "bind" => Self::Bind(object.parse().map_err(|_| format!("{object:?} is no port"))?),
            "call" => Self::SystemCall(object),
            "capability" => Self::Capability(object),
            _ => {
                let known = ["read", "write", "execute", "connect", "bind", "call", "capability"];
                return Err(format!("{verb:?} is no access: {} are", known.join(", ")));
            }
        })
    }
}

/// The answer to "may it, and why not?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether the policy lets it pass. (Modes of files and the like may still deny it.)
    pub allowed: bool,
    /// The layer that denies, or the one that would have and does not.
    pub layer: &'static str,
    /// One sentence.
    pub why: String,
    /// What to write in the policy to have it allowed, where that is possible.
    pub to_allow: Option<String>,
}

fn yes(layer: &'static str, why: impl Into<String>) -> Explanation {
    Explanation { allowed: true, layer, why: why.into(), to_allow: None }
}

fn no(layer: &'static str, why: impl Into<String>, to_allow: Option<String>) -> Explanation {
    Explanation { allowed: false, layer, why: why.into(), to_allow }
}

/// Explain an access under a policy.
pub fn explain(policy: &Policy, access: &Access) -> Explanation {
    match access {
        Access::Read(path) => file(policy, path, "read", fs::READ_FILE),
        Access::Write(path) => file(policy, path, "write", fs::WRITE_FILE),
        Access::Execute(path) => file(policy, path, "execute", fs::EXECUTE),
        Access::Connect(to) => connect(policy, to),
        Access::Bind(port) => bind(policy, *port),
        Access::SystemCall(name) => call(policy, name),
        Access::Capability(name) => capability(policy, name),
    }
}

/// Whether `path` has `right` by the rules for files, and which rule gives it.
fn rule<'a>(rules: &'a [(std::path::PathBuf, Rights)], path: &Path, right: u64) -> Option<&'a Path> {
    rules.iter().find(|(at, rights)| rights.rights() & right != 0 && path.starts_with(at)).map(|(at, _)| at.as_path())
}

fn file(policy: &Policy, path: &str, verb: &'static str, right: u64) -> Explanation {
    let at = Path::new(path);
    let plain = at.is_absolute()
        && at.components().all(|c| !matches!(c, std::path::Component::ParentDir))
        && !path.contains('\0');
    if !plain {
        return no("policy", format!("{path:?} is no plain absolute path"), None);
    }
    let rules = crate::plan::landlock_paths(policy);
    let to_allow = Some(format!("files.{verb} = [{path:?}]"));
    if policy.level() > Level::L1 && !exists_inside(policy, at) {
        let why = format!("{path} is not in the agent's root: nothing of the host is there");
        return no("root", why, to_allow);
    }
    match rule(&rules, at, right) {
        Some(allowed) => {
            let files = policy.files.clone().unwrap_or_default();
            let mut hosts = [files.read, files.execute, files.write].into_iter().flatten().flatten();
            let own = policy.level() > Level::L1 && !at.starts_with("/usr") && !hosts.any(|path| at.starts_with(path));
            let where_ = if own { " (that is the agent's own, not the host's)" } else { "" };
            yes("landlock", format!("the rule for {} lets it {verb} there{where_}", allowed.display()))
        }
        None => {
            let ours = ["/usr", "/etc", "/proc", "/dev", "/"];
            let fixed = policy.level() > Level::L1 && ours.iter().any(|top| at.starts_with(top)) && verb != "read";
            let to_allow = if fixed && policy.root.is_none() && at.starts_with("/usr") { None } else { to_allow };
            no("landlock", format!("no rule lets it {verb} {path}"), to_allow)
        }
    }
}

/// Whether anything can be at a path of the agent's root.
fn exists_inside(policy: &Policy, at: &Path) -> bool {
    if !matches!(policy.root.as_ref().unwrap_or(&Root::HostUsr), Root::HostUsr) {
        return true;
    }
    at == Path::new("/") || visible(policy).iter().any(|place| at.starts_with(place))
}

/// The places of a root of the host's /usr.
fn visible(policy: &Policy) -> Vec<std::path::PathBuf> {
    let ours = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/dev", "/tmp", "/run", "/var/tmp"];
    let mut out: Vec<std::path::PathBuf> = ours.iter().map(Into::into).collect();
    let workspace = policy.workspace.clone().unwrap_or_default();
    if workspace.kind != Some(WorkspaceKind::None) {
        out.push(workspace.path.unwrap_or_else(|| crate::plan::WORKSPACE.into()));
    }
    let files = policy.files.clone().unwrap_or_default();
    out.extend([files.read, files.execute, files.write].into_iter().flatten().flatten());
    out
}

fn connect(policy: &Policy, to: &str) -> Explanation {
    let Some((host, port)) = to.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
    else {
        return no("policy", format!("{to:?} is no host and port"), None);
    };
    let network = policy.network.clone().unwrap_or_default();
    let by_proxy = network.egress.iter().flatten().any(|rule| egress_matches(rule, host, port));
    if by_proxy {
        return yes("egress", format!("{to} may be reached by way of the egress proxy"));
    }
    let listed = Some(format!("network.egress = [{to:?}]"));
    match policy.network_mode() {
        NetworkMode::None if policy.level() == Level::L3 => {
            no("network", "the agent has no interface that is up", listed)
        }
        NetworkMode::None => no("seccomp", "IP sockets cannot be made (network.mode = \"none\")", listed),
        NetworkMode::Loopback if host == "localhost" || host == "::1" || host.starts_with("127.") => {
            yes("network", "that is the agent's own loopback interface, not the host's")
        }
        NetworkMode::Loopback => no("network", "the agent's network has a loopback interface alone", listed),
        NetworkMode::Host => match &network.connect {
            None if network.bind.is_none() => yes("landlock", "no ports are listed, so every port may be connected to"),
            Some(ports) if ports.contains(&port) => yes("landlock", format!("port {port} is listed")),
            _ => no("landlock", format!("port {port} is not listed"), Some(format!("network.connect = [{port}]"))),
        },
    }
}

/// Label by label: `*.example.org` is any name beneath example.org, and not example.org itself.
pub fn egress_matches(rule: &str, host: &str, port: u16) -> bool {
    let Some((name, allowed)) = rule.rsplit_once(':') else { return false };
    if allowed.parse() != Ok(port) || host.bytes().any(|b| !(b.is_ascii_alphanumeric() || b == b'-' || b == b'.')) {
        return false;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("*.") {
        None => host == name,
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
    }
}

fn bind(policy: &Policy, port: u16) -> Explanation {
    let network = policy.network.clone().unwrap_or_default();
    match policy.network_mode() {
        NetworkMode::None if policy.level() == Level::L3 => no(
            "landlock",
            "with network.mode = \"none\" no port may be listened on",
            Some("network.mode = \"loopback\"".into()),
        ),
        NetworkMode::None => no("seccomp", "IP sockets cannot be made (network.mode = \"none\")", None),
        NetworkMode::Loopback if port < 1024 => no(
            "capabilities",
            format!("port {port} is below 1024"),
            Some("capabilities.keep = [\"net_bind_service\"]".into()),
        ),
        NetworkMode::Loopback => yes("network", "on the agent's own loopback interface"),
        NetworkMode::Host => match &network.bind {
            None if network.connect.is_none() => {
                yes("landlock", "no ports are listed, so every port may be listened on")
            }
            Some(ports) if ports.contains(&port) => yes("landlock", format!("port {port} is listed")),
            _ => no("landlock", format!("port {port} is not listed"), Some(format!("network.bind = [{port}]"))),
        },
    }
}

fn call(policy: &Policy, name: &str) -> Explanation {
    let calls = policy.system_calls.clone().unwrap_or_default();
    if calls.deny.iter().flatten().any(|denied| denied == name) {
        return no(
            "seccomp",
            format!("system_calls.deny lists {name}"),
            Some(format!("remove {name} from system_calls.deny")),
        );
    }
    match seccomp::standing(name) {
        Standing::Unknown { nearest } => {
            let nearest = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            no("seccomp", format!("{name} is no system call known here{nearest}"), None)
        }
        Standing::Never(why) => no("seccomp", format!("{name} is denied: {why}"), None),
        Standing::Denied(_) if calls.allow.iter().flatten().any(|allowed| allowed == name) => {
            yes("seccomp", format!("system_calls.allow lists {name}"))
        }
        Standing::Denied(why) => {
            no("seccomp", format!("{name} is denied: {why}"), Some(format!("system_calls.allow = [{name:?}]")))
        }
        Standing::Allowed => match seccomp::denied_because(name) {
            Some(condition) => yes("seccomp", format!("{name} is in the default set, with a condition: {condition}")),
            None => yes("seccomp", format!("{name} is in the default set")),
        },
    }
}

fn capability(policy: &Policy, name: &str) -> Explanation {
    let number = match crate::capability::number(name) {
        Ok(number) => number,
        Err(why) => return no("capabilities", why, None),
    };
    let kept = policy.capabilities.iter().flat_map(|c| c.keep.iter().flatten());
    if kept.filter_map(|kept| crate::capability::number(kept).ok()).any(|kept| kept == number) {
        return yes("capabilities", format!("{name} is kept, over the agent's own user namespace"));
    }
    no("capabilities", format!("{name} is not kept"), Some(format!("capabilities.keep = [{name:?}]")))
}

impl Plan {
    /// Whether files at `path` may be used so: the same answer as [`explain`] gives by its rules, without words.
    pub fn may(&self, right: u64, path: &Path) -> bool {
        rule(&self.landlock.paths, path, right).is_some()
    }
}

/// A policy made ready to be asked often: the same answers as [`explain`], without words, in a fraction of a microsecond.
#[derive(Clone, Debug)]
pub struct Checker {
    policy: Policy,
    rules: Vec<(Vec<u8>, u64)>,
    /// Where anything is at all; `None` where that is everywhere.
    visible: Option<Vec<Vec<u8>>>,
}

impl Checker {
    /// Make a policy ready.
    pub fn new(policy: &Policy) -> Self {
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let rules: Vec<_> =
            crate::plan::landlock_paths(policy).iter().map(|(path, access)| (bytes(path), access.rights())).collect();
        let host_usr = matches!(policy.root.as_ref().unwrap_or(&Root::HostUsr), Root::HostUsr);
        let visible =
            (policy.level() > Level::L1 && host_usr).then(|| visible(policy).iter().map(|p| bytes(p)).collect());
        Self { policy: policy.clone(), rules, visible }
    }

    /// Whether the policy lets it pass.
    pub fn allows(&self, access: &Access) -> bool {
        match access {
            Access::Read(path) => self.file(path.as_bytes(), fs::READ_FILE),
            Access::Write(path) => self.file(path.as_bytes(), fs::WRITE_FILE),
            Access::Execute(path) => self.file(path.as_bytes(), fs::EXECUTE),
            other => explain(&self.policy, other).allowed,
        }
    }

    /// [`Checker::allows`] for a verb and an object, without taking a copy of either.
    pub fn allows_text(&self, verb: &str, object: &str) -> Result<bool, String> {
        let right = match verb {
            "read" => fs::READ_FILE,
            "write" => fs::WRITE_FILE,
            "execute" => fs::EXECUTE,
            _ => return Ok(self.allows(&Access::parse(verb, object)?)),
        };
        Ok(self.file(object.as_bytes(), right))
    }

    fn file(&self, path: &[u8], right: u64) -> bool {
        let climbs = || path.split(|byte| *byte == b'/').any(|part| part == b"..");
        if path.first() != Some(&b'/') || path.contains(&0) || climbs() {
            return false;
        }
        let plain;
        // `//` and `/./` mean nothing, and would hide a prefix.
        let path = if path.windows(2).any(|pair| pair == b"//" || pair == b"/.") {
            let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
            plain = parts.fold(Vec::new(), |all, part| [&all[..], b"/", part].concat());
            &plain[..]
        } else {
            path
        };
        self.visible.as_ref().is_none_or(|places| path == b"/" || places.iter().any(|place| beneath(path, place)))
            && self.rules.iter().any(|(place, rights)| rights & right != 0 && beneath(path, place))
    }
}

/// Whether `path` is `place` or lies beneath it.
fn beneath(path: &[u8], place: &[u8]) -> bool {
    place == b"/" || (path.starts_with(place) && matches!(path.get(place.len()), None | Some(b'/')))
}
