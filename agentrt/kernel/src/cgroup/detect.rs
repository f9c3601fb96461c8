//! Where each controller lives, found one by one: v1 and v2 may be mounted side by side in any mixture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What agents are limited and counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
    /// Processes.
    Pids,
    /// Freezing, and killing at one stroke.
    Freezer,
    /// Block I/O.
    Io,
    /// Counting of CPU time (a controller of its own on v1, part of every cgroup on v2).
    Account,
}

impl Controller {
    /// Every controller that this crate uses.
    pub const ALL: [Self; 6] = [Self::Memory, Self::Cpu, Self::Pids, Self::Freezer, Self::Io, Self::Account];

    fn v1(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
            Self::Io => "blkio",
            Self::Account => "cpuacct",
        }
    }

    /// The name in `cgroup.controllers`; `None` for what every cgroup of v2 can do.
    fn v2(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memory"),
            Self::Cpu => Some("cpu"),
            Self::Pids => Some("pids"),
            Self::Io => Some("io"),
            Self::Freezer | Self::Account => None,
        }
    }
}

/// Version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One hierarchy a controller, or a few.
    V1,
    /// The unified one.
    V2,
}

/// The cgroup of the process that looked, in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Version of the hierarchy.
    pub version: Version,
    /// Our own cgroup in it; agents' cgroups are made beneath.
    pub own: PathBuf,
}

/// Where each controller lives. A controller that is not here cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// By controller.
    pub places: BTreeMap<Controller, Place>,
}

impl Layout {
    /// Look at this host: what is mounted, and where this process may make cgroups.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut layout = Self::from_texts(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), |mount| {
            std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        });
        layout.places.retain(|_, place| crate::sys::may_write(&super::c_path(&place.own)));
        layout
    }

    /// The layout that follows from the texts of `/proc/self/mountinfo`, `/proc/self/cgroup`, and `cgroup.controllers`.
    pub fn from_texts(mountinfo: &str, own: &str, controllers: impl Fn(&Path) -> String) -> Self {
        let mut layout = Self::default();
        let mut unified: Option<(PathBuf, String)> = None;
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            match mount.kind {
                "cgroup2" => {
                    // `0::/path`
                    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
                        continue;
                    };
                    if let (Some(own), None) = (mount.at(path), &unified) {
                        unified = Some((own, controllers(&mount.point)));
                    }
                }
                "cgroup" => {
                    for controller in Controller::ALL {
                        if !mount.options.split(',').any(|option| option == controller.v1()) {
                            continue;
                        }
                        // `5:cpu,cpuacct:/path`
                        let path = own.lines().find_map(|line| {
                            let mut fields = line.splitn(3, ':').skip(1);
                            let names = fields.next()?;
                            names.split(',').any(|name| name == controller.v1()).then(|| fields.next()).flatten()
                        });
                        if let Some(own) = path.and_then(|path| mount.at(path)) {
                            layout.places.entry(controller).or_insert(Place { version: Version::V1, own });
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some((own, available)) = unified {
            let place = Place { version: Version::V2, own };
            for controller in Controller::ALL {
                match controller.v2() {
                    // A controller lives in one hierarchy at a time; where v2 lists it, it is there.
                    Some(name) if available.split_whitespace().any(|listed| listed == name) => {
                        layout.places.insert(controller, place.clone());
                    }
                    Some(_) => {}
                    // cgroup.freeze, cgroup.kill and cpu.stat need no controller: better than v1 even beside it.
                    None => {
                        layout.places.insert(controller, place.clone());
                    }
                }
            }
        }
        layout
    }

    /// `v1`, `v2`, `hybrid` or `none`, for people.
    pub fn kind(&self) -> &'static str {
        let has = |version| self.places.values().any(|place| place.version == version);
        match (has(Version::V1), has(Version::V2)) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }
}

struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// A line of mountinfo: `id parent dev root point options... - type source superoptions`.
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        let (root, point) = (unescaped(left.next()?), unescaped(left.next()?));
        let (kind, _) = (right.next()?, right.next()?);
        Some(Self { root, point, kind, options: right.next()? })
    }

    /// Where the cgroup `path` is seen through this mount.
    fn at(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        // Within a cgroup namespace paths may climb out (`/../x`): such a cgroup is not to be seen here.
        if path.components().any(|part| part == std::path::Component::ParentDir) {
            return None;
        }
        let beneath = path.strip_prefix(&self.root).ok()?;
        Some(if beneath.as_os_str().is_empty() { self.point.clone() } else { self.point.join(beneath) })
    }
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescaped(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, plain);
    }
    out.into()
}

#[cfg(test)]
mod tests;
