//! The root file system of an agent: a small tmpfs with what every program expects, and mounts attached to it.
//!
//! A [`Recipe`] says what is in it. It is built once per plan where the launcher is root and the kernel can copy
//! detached trees (6.15); each agent then gets a copy by one system call. Elsewhere it is built for each agent, within
//! its namespaces.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::LaunchError;
use crate::plan::{Access, DEVICES, Plan};
use crate::policy::{Root, WorkspaceKind};
use crate::sys::{self, Errno, attr};

const LAYER: &str = "root";
/// Beneath the tree, through no link of any kind.
const BENEATH: u64 = 0x08 | 0x04 | 0x02;

/// One thing in the root.
#[derive(Clone, Debug)]
enum Step {
    Directory { at: CString, mode: u32 },
    Link { at: CString, target: CString },
    File { at: CString, content: Vec<u8> },
    Device { at: CString, source: CString, number: u64 },
    Bind { at: CString, source: PathBuf, attributes: u64, root: bool },
}

/// What is in the root, in the order in which it is made.
#[derive(Clone, Debug, Default)]
pub struct Recipe(Vec<Step>);

/// What of /etc is copied from the host: how programs are found and linked, nothing about the host itself.
const COPIED: [&str; 8] = [
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/localtime",
    "etc/alternatives",
    "etc/mime.types",
    "etc/os-release",
    "etc/services",
];
const COPIED_TLS: [&str; 2] = ["etc/ssl/certs/ca-certificates.crt", "etc/ssl/openssl.cnf"];
/// A file beyond this size is not copied.
const LARGEST: u64 = 2 << 20;

pub(crate) fn c(path: &[u8]) -> CString {
    // Paths are validated by the policy, or constants: no NUL is in them.
    CString::new(path).unwrap_or_default()
}

/// A path without its leading slash, for the `*at` calls.
pub(crate) fn relative(path: &Path) -> CString {
    c(path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes())
}

impl Recipe {
    /// The recipe of a plan. `image` is the directory that an image was unpacked to.
    pub fn new(plan: &Plan, image: Option<&Path>) -> Result<Self, LaunchError> {
        let mut recipe = Self::default();
        match (&plan.root, image) {
            (Root::HostUsr, _) => recipe.host_usr()?,
            (Root::Directory(path), _) => recipe.directory(path)?,
            (Root::Image(_), Some(path)) => recipe.directory(path)?,
            (Root::Image(digest), None) => {
                return Err(LaunchError::refused(
                    LAYER,
                    format!("the image {digest} is not in the store: import it first"),
                ));
            }
        }
        recipe.devices();
        for (name, mode) in [("proc", 0o555), ("tmp", 0o1777), ("run", 0o755)] {
            recipe.directory_at(name, mode);
        }
        if let Some(workspace) = plan.workspace.as_ref().filter(|w| w.kind != WorkspaceKind::None) {
            recipe.parents(&workspace.path);
            recipe.0.push(Step::Directory { at: relative(&workspace.path), mode: 0o755 });
        }
        for bind in &plan.binds {
            // What the policy names takes the place of what we would have put there.
            let at = relative(&bind.path);
            recipe
                .0
                .retain(|step| !(matches!(step, Step::Link { .. } | Step::File { .. }) && step.at() == at.as_c_str()));
            recipe.bind(&bind.path, bind.access)?;
        }
        Ok(recipe)
    }

    fn directory_at(&mut self, at: &str, mode: u32) {
        self.0.push(Step::Directory { at: c(at.as_bytes()), mode });
    }

    fn file(&mut self, at: &str, content: impl Into<Vec<u8>>) {
        self.0.push(Step::File { at: c(at.as_bytes()), content: content.into() });
    }

    fn link(&mut self, at: &str, target: &str) {
        self.0.push(Step::Link { at: c(at.as_bytes()), target: c(target.as_bytes()) });
    }

    fn parents(&mut self, path: &Path) {
        let above: Vec<&Path> = path.ancestors().skip(1).filter(|p| p.parent().is_some()).collect();
        for parent in above.into_iter().rev() {
            self.0.push(Step::Directory { at: relative(parent), mode: 0o755 });
        }
    }

    fn host_usr(&mut self) -> Result<(), LaunchError> {
        let read_only = attr::RDONLY | attr::NOSUID | attr::NODEV;
        self.directory_at("usr", 0o755);
        self.0.push(Step::Bind { at: c(b"usr"), source: "/usr".into(), attributes: read_only, root: true });
        for name in ["bin", "sbin", "lib", "lib64", "lib32"] {
            let host = Path::new("/").join(name);
            let Ok(meta) = std::fs::symlink_metadata(&host) else {
                continue;
            };
            if let (true, Ok(target)) = (meta.is_symlink(), std::fs::read_link(&host)) {
                self.0.push(Step::Link { at: c(name.as_bytes()), target: c(target.as_os_str().as_bytes()) });
            } else if meta.is_dir() {
                self.directory_at(name, 0o755);
                self.0.push(Step::Bind { at: c(name.as_bytes()), source: host, attributes: read_only, root: true });
            }
        }
        self.directory_at("etc", 0o755);
        self.file("etc/passwd", "root:x:0:0:root:/:/bin/sh\nagent:x:1000:1000:agent:/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
        self.file("etc/group", "root:x:0:\ntty:x:5:\nagent:x:1000:\nnogroup:x:65534:\n");
        self.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
        self.file("etc/resolv.conf", "");
        self.link("etc/mtab", "/proc/self/mounts");
        self.link("etc/machine-id", "/run/machine-id");
        self.link("etc/hostname", "/run/hostname");
        self.link("etc/hosts", "/run/hosts");
        for path in ["etc/ssl", "etc/ssl/certs"] {
            self.directory_at(path, 0o755);
        }
        for path in COPIED.iter().chain(&COPIED_TLS) {
            self.copy(&Path::new("/").join(path), 2);
        }
        // Debian's interpreters read a file of theirs at every start.
        for entry in std::fs::read_dir("/etc").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("python3") {
                self.copy(&entry.path(), 1);
            }
        }
        self.directory_at("var", 0o755);
        self.link("var/tmp", "/tmp");
        Ok(())
    }

    /// Copy a small file, a link, or a directory of them.
    fn copy(&mut self, host: &Path, depth: u32) {
        let Ok(meta) = std::fs::symlink_metadata(host) else {
            return;
        };
        let at = relative(host);
        if let (true, Ok(target)) = (meta.is_symlink(), std::fs::read_link(host)) {
            self.0.push(Step::Link { at, target: c(target.as_os_str().as_bytes()) });
        } else if meta.is_file() && meta.len() <= LARGEST && meta.mode() & 0o004 != 0 {
            if let Ok(content) = std::fs::read(host) {
                self.0.push(Step::File { at, content });
            }
        } else if meta.is_dir() && depth > 0 {
            self.0.push(Step::Directory { at, mode: 0o755 });
            for entry in std::fs::read_dir(host).into_iter().flatten().flatten() {
                self.copy(&entry.path(), depth - 1);
            }
        }
    }

    /// Each entry at the top of a directory, attached to ours: so ours has room for what the directory lacks.
    fn directory(&mut self, root: &Path) -> Result<(), LaunchError> {
        let failed = |error: std::io::Error| {
            LaunchError::new(
                LAYER,
                format!("reading {}", root.display()),
                Errno(error.raw_os_error().unwrap_or(libc::EIO)),
            )
        };
        for entry in std::fs::read_dir(root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if ["proc", "dev", "sys", "tmp", "run"].iter().any(|ours| name == *ours) {
                continue;
            }
            let at = c(name.as_bytes());
            let meta = std::fs::symlink_metadata(entry.path()).map_err(failed)?;
            if meta.is_symlink() {
                let target = std::fs::read_link(entry.path()).map_err(failed)?;
                self.0.push(Step::Link { at, target: c(target.as_os_str().as_bytes()) });
                continue;
            }
            if meta.is_dir() {
                self.0.push(Step::Directory { at: at.clone(), mode: 0o755 });
            } else {
                self.0.push(Step::File { at: at.clone(), content: Vec::new() });
            }
            let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV;
            self.0.push(Step::Bind { at, source: entry.path(), attributes, root: meta.is_dir() });
        }
        Ok(())
    }

    fn devices(&mut self) {
        self.directory_at("dev", 0o755);
        for (name, major, minor) in DEVICES {
            let number = libc::makedev(major, minor);
            let at = c(format!("dev/{name}").as_bytes());
            self.0.push(Step::Device { at, source: c(format!("/dev/{name}").as_bytes()), number });
        }
        for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
            self.link(&format!("dev/{name}"), &format!("/proc/self/{target}"));
        }
        self.directory_at("dev/shm", 0o1777);
        self.directory_at("dev/pts", 0o755);
        self.link("dev/ptmx", "pts/ptmx");
    }

    fn bind(&mut self, path: &Path, access: Access) -> Result<(), LaunchError> {
        let meta = std::fs::metadata(path).map_err(|error| {
            LaunchError::new(
                LAYER,
                format!("looking at {}", path.display()),
                Errno(error.raw_os_error().unwrap_or(libc::EIO)),
            )
        })?;
        self.parents(path);
        if meta.is_dir() {
            self.0.push(Step::Directory { at: relative(path), mode: 0o755 });
        } else {
            self.0.push(Step::File { at: relative(path), content: Vec::new() });
        }
        let attributes = attr::NOSUID
            | attr::NODEV
            | match access {
                Access::Read => attr::RDONLY | attr::NOEXEC,
                Access::Execute => attr::RDONLY,
                _ => attr::NOEXEC,
            };
        self.0.push(Step::Bind { at: relative(path), source: path.to_owned(), attributes, root: false });
        Ok(())
    }

    /// Directories of the root itself (not what the policy adds): name and source.
    pub(crate) fn layers(&self) -> impl Iterator<Item = (&CStr, &Path)> {
        self.0.iter().filter_map(|step| match step {
            Step::Bind { at, source, root: true, .. } => Some((at.as_c_str(), source.as_path())),
            _ => None,
        })
    }

    /// Make the tree. `attach_to` is where it is attached before anything is attached to it, as kernels before 6.15
    /// want it; without, it stays detached.
    pub fn build(&self, attach_to: Option<&CStr>) -> Result<OwnedFd, LaunchError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |errno| LaunchError::new(LAYER, what, errno)
        };
        let tmpfs = sys::Filesystem::open(c"tmpfs").map_err(failed("opening a tmpfs"))?;
        for (key, value) in [(c"size", c"16m"), (c"nr_inodes", c"4096"), (c"mode", c"0755")] {
            tmpfs.set(key, value).map_err(failed("configuring the root's tmpfs"))?;
        }
        let tree = tmpfs.mount(attr::NOSUID).map_err(failed("mounting the root's tmpfs"))?;
        if let Some(path) = attach_to {
            sys::attach(tree.as_raw_fd(), sys::HERE, path).map_err(failed("attaching the root"))?;
        }
        for step in &self.0 {
            step.make(tree.as_raw_fd())?;
        }
        Ok(tree)
    }
}

/// The directory in which `at` lies, and its name there. Links are never followed: an image may hold what it likes, and
/// an absolute link would lead out of a tree that is not our root yet.
fn place(tree: RawFd, at: &CStr) -> sys::Result<(OwnedFd, CString)> {
    let bytes = at.to_bytes();
    let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&b"."[..], bytes),
    };
    let parent = sys::openat2(tree, &c(parent), libc::O_PATH | libc::O_DIRECTORY, 0, BENEATH)?;
    Ok((parent, c(name)))
}

impl Step {
    fn at(&self) -> &CStr {
        match self {
            Self::Directory { at, .. } | Self::Link { at, .. } | Self::File { at, .. } => at,
            Self::Device { at, .. } | Self::Bind { at, .. } => at,
        }
    }

    fn make(&self, tree: RawFd) -> Result<(), LaunchError> {
        let (parent, name) = place(tree, self.at()).map_err(|errno| {
            LaunchError::new(
                LAYER,
                format!("reaching the place of /{} (is a link in the way?)", self.at().to_string_lossy()),
                errno,
            )
        })?;
        self.make_in(parent.as_raw_fd(), &name)
    }

    fn make_in(&self, tree: RawFd, name: &CStr) -> Result<(), LaunchError> {
        let (verb, at, made) = match self {
            Self::Directory { at, mode } => {
                // The umask of the launcher must not show in the modes.
                let made = sys::mkdirat(tree, name, *mode).and_then(|()| sys::fchmodat(tree, name, *mode));
                ("making the directory", at, made)
            }
            Self::Link { at, target } => ("making the link", at, sys::symlinkat(target, tree, name)),
            Self::File { at, content } => ("writing", at, write_file(tree, name, content)),
            Self::Device { at, source, number } => {
                let made = sys::mknodat(tree, name, libc::S_IFCHR | 0o666, *number)
                    .and_then(|()| sys::fchmodat(tree, name, 0o666))
                    .or_else(|_| {
                        // No right to make devices: attach the host's own.
                        write_file(tree, name, b"")?;
                        bind(
                            tree,
                            name,
                            Path::new(std::ffi::OsStr::from_bytes(source.to_bytes())),
                            attr::NOSUID | attr::NOEXEC,
                        )
                    });
                ("making the device", at, made)
            }
            Self::Bind { source, attributes, .. } => {
                let bound = bind(tree, name, source, *attributes);
                return bound
                    .map_err(|errno| LaunchError::new(LAYER, format!("mounting {} inside", source.display()), errno));
            }
        };
        match made {
            Err(Errno(libc::EEXIST)) | Ok(()) => Ok(()),
            Err(errno) => Err(LaunchError::new(LAYER, format!("{verb} /{}", at.to_string_lossy()), errno)),
        }
    }
}

fn write_file(tree: RawFd, at: &CStr, content: &[u8]) -> sys::Result<()> {
    let file = sys::openat(tree, at, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, 0o644)?;
    sys::fchmod(file.as_raw_fd(), 0o644)?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = sys::write(file.as_raw_fd(), rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// Attach a copy of the host's `source`: opened once, never through magic links, and handled by descriptor from then on.
fn bind(tree: RawFd, at: &CStr, source: &Path, attributes: u64) -> sys::Result<()> {
    const NO_MAGIC_LINKS: u64 = 0x02;
    let source = sys::openat2(sys::HERE, &c(source.as_os_str().as_bytes()), libc::O_PATH, 0, NO_MAGIC_LINKS)?;
    let copy = sys::clone_tree(source.as_raw_fd(), c"", true)?;
    sys::set_attributes(copy.as_raw_fd(), c"", true, attributes, libc::MS_PRIVATE)?;
    // Beneath the new root, without links: the target was made by us, or lies in a tree that others may have filled.
    let target = sys::openat2(tree, at, libc::O_PATH, 0, BENEATH)?;
    sys::attach(copy.as_raw_fd(), target.as_raw_fd(), c"")
}

/// A fresh /proc of the pid namespace that we are in, detached; it shows our own processes, and nothing else.
pub(crate) fn proc() -> sys::Result<OwnedFd> {
    let proc = sys::Filesystem::open(c"proc")?;
    proc.set(c"hidepid", c"invisible")?;
    proc.set(c"subset", c"pid")?;
    proc.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// A fresh devpts, detached.
pub(crate) fn terminals() -> sys::Result<OwnedFd> {
    let pts = sys::Filesystem::open(c"devpts")?;
    pts.set(c"ptmxmode", c"0666")?;
    pts.set(c"mode", c"0620")?;
    pts.mount(attr::NOSUID | attr::NOEXEC)
}
