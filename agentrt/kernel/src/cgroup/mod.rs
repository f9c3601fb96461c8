//! Cgroups of agents: v1, v2 or both, controller by controller.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

mod control;
mod detect;
mod stats;

pub use detect::{Controller, Layout, Place, Version};
pub use stats::Stats;

use crate::sys;

/// Values to set. `None` leaves the kernel's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// Bytes of memory, and none of swap.
    pub memory: Option<u64>,
    /// Cores.
    pub cpus: Option<f64>,
    /// Weight, 1 to 10000; 100 is the kernel's own.
    pub cpu_weight: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Bytes a second read from each block device.
    pub read_bytes_per_second: Option<u64>,
    /// Bytes a second written to each block device.
    pub write_bytes_per_second: Option<u64>,
}

impl Values {
    /// The controllers that are needed to set these values.
    pub fn controllers(&self) -> Vec<Controller> {
        let io = self.read_bytes_per_second.is_some() || self.write_bytes_per_second.is_some();
        [
            (self.memory.is_some(), Controller::Memory),
            (self.cpus.is_some() || self.cpu_weight.is_some(), Controller::Cpu),
            (self.processes.is_some(), Controller::Pids),
            (io, Controller::Io),
        ]
        .into_iter()
        .filter_map(|(wanted, controller)| wanted.then_some(controller))
        .collect()
    }
}

/// What went wrong with a cgroup: one sentence, with the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupError {
    /// What was tried.
    pub what: String,
    /// The kernel's answer, where it was the kernel that refused.
    pub errno: Option<sys::Errno>,
}

impl fmt::Display for CgroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => write!(f, "cgroup: {}: {errno}", self.what),
            None => write!(f, "cgroup: {}", self.what),
        }
    }
}

impl std::error::Error for CgroupError {}

/// Result of the cgroup driver.
pub type Result<T> = std::result::Result<T, CgroupError>;

fn fail<T>(what: String, errno: sys::Errno) -> Result<T> {
    Err(CgroupError { what, errno: Some(errno) })
}

/// The cgroup of one agent: one directory in each hierarchy that is used.
#[derive(Debug)]
pub struct Cgroup {
    directories: Vec<Directory>,
}

/// A cgroup in one hierarchy.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) version: Version,
    pub(crate) path: PathBuf,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) fd: OwnedFd,
}

/// What is needed to find a cgroup again after the daemon has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// Version, path and controllers of each directory.
    pub directories: Vec<(Version, PathBuf, Vec<Controller>)>,
}

/// The directories that `name` gets: one a hierarchy, with the controllers that live there.
fn planned(layout: &Layout, name: &Path, wanted: &[Controller]) -> BTreeMap<(Version, PathBuf), Vec<Controller>> {
    let mut out: BTreeMap<_, Vec<Controller>> = BTreeMap::new();
    let always = [Controller::Freezer, Controller::Account];
    for (controller, place) in &layout.places {
        // Counting alone is not worth a hierarchy of v1 of its own where the unified one counts.
        if wanted.contains(controller) || always.contains(controller) {
            out.entry((place.version, place.own.join(name))).or_default().push(*controller);
        }
    }
    out
}

impl Cgroup {
    /// Make the cgroup `name` (it may have slashes) beneath our own, and set `values`. Nothing is left where it fails.
    ///
    /// A controller that `values` need and the host lacks is an error; compile a plan to have it refused earlier.
    pub fn create(layout: &Layout, name: &Path, values: &Values) -> Result<Self> {
        let wanted = values.controllers();
        if let Some(missing) = wanted.iter().find(|controller| !layout.places.contains_key(controller)) {
            let what = format!("the controller {missing:?} is not mounted here ({} layout)", layout.kind());
            return Err(CgroupError { what, errno: None });
        }
        let mut cgroup = Self { directories: Vec::new() };
        for ((version, path), controllers) in planned(layout, name, &wanted) {
            match Directory::create(version, path, controllers, name, 5) {
                Ok(directory) => cgroup.directories.push(directory),
                Err(error) => {
                    let _ = cgroup.remove();
                    return Err(error);
                }
            }
        }
        if let Err(error) = cgroup.set(values) {
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Find a cgroup again.
    pub fn open(handle: &Handle) -> Result<Self> {
        let mut directories = Vec::new();
        for (version, path, controllers) in &handle.directories {
            directories.push(Directory::open(*version, path.clone(), controllers.clone())?);
        }
        Ok(Self { directories })
    }

    /// What [`Cgroup::open`] needs.
    pub fn handle(&self) -> Handle {
        let one = |d: &Directory| (d.version, d.path.clone(), d.controllers.clone());
        Handle { directories: self.directories.iter().map(one).collect() }
    }

    /// The directory of v2, into which a child can be cloned.
    pub(crate) fn unified(&self) -> Option<RawFd> {
        self.directories.iter().find(|d| d.version == Version::V2).map(|d| d.fd.as_raw_fd())
    }

    /// Descriptors of `tasks` (v1), for a child that writes "0" to each and so moves itself.
    ///
    /// Moving oneself alone does not take the lock that moving another process takes, and which may wait for RCU. The
    /// CPU's comes last: a process in a group that is new to the scheduler waits longer for its turn, so the way to the
    /// program is walked in the launcher's.
    pub(crate) fn own_doors(&self) -> Result<Vec<OwnedFd>> {
        let v1 = self.directories.iter().filter(|d| d.version == Version::V1);
        let (last, first): (Vec<_>, Vec<_>) = v1.partition(|d| d.controllers.contains(&Controller::Cpu));
        first.into_iter().chain(last).map(|d| d.file(c"tasks", libc::O_WRONLY)).collect()
    }

    /// Doors of every hierarchy: for a process that cannot be cloned into the one of v2.
    pub(crate) fn doors(&self) -> Result<Vec<OwnedFd>> {
        let v2 = self.directories.iter().filter(|d| d.version == Version::V2);
        let mut doors = v2.map(|d| d.file(c"cgroup.procs", libc::O_WRONLY)).collect::<Result<Vec<_>>>()?;
        doors.extend(self.own_doors()?);
        Ok(doors)
    }

    /// [`Cgroup::remove`], and the cgroups above it that were made for it and are empty now.
    pub fn remove_with_parents(&self, name: &Path) -> Result<()> {
        self.remove()?;
        for directory in &self.directories {
            for parent in directory.path.ancestors().skip(1).take(name.components().count().saturating_sub(1)) {
                // Others may live there, or be making theirs: then it stays.
                let _ = sys::unlinkat(sys::HERE, &c_path(parent), true);
            }
        }
        Ok(())
    }

    pub(crate) fn with(&self, controller: Controller) -> Option<&Directory> {
        self.directories.iter().find(|d| d.controllers.contains(&controller))
    }

    /// Move a process (all its threads) in.
    pub fn attach(&self, pid: i32) -> Result<()> {
        self.directories.iter().try_for_each(|d| d.write(c"cgroup.procs", &pid.to_string()))
    }

    /// The processes in it.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let Some(directory) = self.directories.first() else {
            return Ok(Vec::new());
        };
        let text = directory.read(c"cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Remove it; every process in it must be gone. Waits up to a second for the kernel to let go.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut pause = Duration::from_micros(50);
        for directory in &self.directories {
            let path = c_path(&directory.path);
            loop {
                match sys::unlinkat(sys::HERE, &path, true) {
                    Ok(()) | Err(sys::Errno(libc::ENOENT)) => break,
                    Err(sys::Errno(libc::EBUSY)) if Instant::now() < deadline => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(10));
                    }
                    Err(errno) => {
                        return fail(format!("{} cannot be removed", directory.path.display()), errno);
                    }
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn c_path(path: &Path) -> CString {
    use std::os::unix::ffi::OsStrExt;
    // Paths come from mountinfo and validated names: a NUL cannot be in them.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

impl Directory {
    fn create(version: Version, path: PathBuf, controllers: Vec<Controller>, name: &Path, tries: u32) -> Result<Self> {
        let made = sys::mkdirat(sys::HERE, &c_path(&path), 0o755);
        let hands_down = version == Version::V2
            && controllers.iter().any(|c| !matches!(c, Controller::Freezer | Controller::Account));
        if made == Err(sys::Errno(libc::ENOENT)) || hands_down && made.is_ok() {
            // Rare: the first agent under this parent. Or v2, whose parents must hand their controllers down.
            let depth = name.components().count();
            let parents: Vec<&Path> = path.ancestors().skip(1).take(depth).collect();
            for parent in parents.iter().rev() {
                match sys::mkdirat(sys::HERE, &c_path(parent), 0o755) {
                    Ok(()) | Err(sys::Errno(libc::EEXIST)) => {}
                    Err(errno) => {
                        return fail(format!("{} cannot be made", parent.display()), errno);
                    }
                }
                if version == Version::V2 {
                    delegate(parent, &controllers)?;
                }
            }
        }
        match made {
            Ok(()) => {}
            // Somebody removes the parent that was empty a moment ago: once more.
            Err(sys::Errno(libc::ENOENT)) if tries > 0 => {
                if let Err(errno) = sys::mkdirat(sys::HERE, &c_path(&path), 0o755) {
                    if errno.0 == libc::ENOENT {
                        return Self::create(version, path, controllers, name, tries - 1);
                    }
                    return fail(format!("{} cannot be made", path.display()), errno);
                }
            }
            Err(errno) => return fail(format!("{} cannot be made", path.display()), errno),
        }
        Self::open(version, path, controllers)
    }

    fn open(version: Version, path: PathBuf, controllers: Vec<Controller>) -> Result<Self> {
        match sys::openat(sys::HERE, &c_path(&path), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0) {
            Ok(fd) => Ok(Self { version, path, controllers, fd }),
            Err(errno) => fail(format!("{} cannot be opened", path.display()), errno),
        }
    }

    fn file(&self, name: &std::ffi::CStr, flags: i32) -> Result<OwnedFd> {
        sys::openat(self.fd.as_raw_fd(), name, flags | libc::O_NOFOLLOW, 0).or_else(|errno| {
            fail(format!("{}/{} cannot be opened", self.path.display(), name.to_string_lossy()), errno)
        })
    }

    pub(crate) fn write(&self, name: &std::ffi::CStr, value: &str) -> Result<()> {
        let file = self.file(name, libc::O_WRONLY)?;
        match sys::write(file.as_raw_fd(), value.as_bytes()) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let path = self.path.display();
                fail(format!("{value} cannot be written to {path}/{}", name.to_string_lossy()), errno)
            }
        }
    }

    pub(crate) fn read(&self, name: &std::ffi::CStr) -> Result<String> {
        let file = self.file(name, libc::O_RDONLY)?;
        let mut out = Vec::new();
        let mut chunk = [0u8; 4096];
        loop {
            match sys::read(file.as_raw_fd(), &mut chunk) {
                Ok(0) => return Ok(String::from_utf8_lossy(&out).into_owned()),
                Ok(n) => out.extend_from_slice(&chunk[..n]),
                Err(errno) => {
                    let path = self.path.display();
                    return fail(format!("{path}/{} cannot be read", name.to_string_lossy()), errno);
                }
            }
        }
    }

    pub(crate) fn has(&self, name: &std::ffi::CStr) -> bool {
        sys::stat(self.fd.as_raw_fd(), name).is_ok()
    }
}

/// v2: let the children of `parent` have the controllers.
fn delegate(parent: &Path, controllers: &[Controller]) -> Result<()> {
    let wanted: Vec<String> = controllers
        .iter()
        .filter_map(|controller| match controller {
            Controller::Memory => Some("+memory".to_owned()),
            Controller::Cpu => Some("+cpu".to_owned()),
            Controller::Pids => Some("+pids".to_owned()),
            Controller::Io => Some("+io".to_owned()),
            Controller::Freezer | Controller::Account => None,
        })
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let file = c_path(&parent.join("cgroup.subtree_control"));
    match sys::write_file(sys::HERE, &file, wanted.join(" ").as_bytes()) {
        Ok(()) => Ok(()),
        Err(errno) => {
            let hint = if errno.0 == libc::EBUSY {
                " (processes live in that cgroup itself: start the launcher in a cgroup of its own beneath a delegated one)"
            } else {
                ""
            };
            fail(format!("{} cannot be given to children of {}{hint}", wanted.join(" "), parent.display()), errno)
        }
    }
}
