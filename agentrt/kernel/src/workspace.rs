//! The writable part of an agent: one tmpfs with a quota, whose directories are /tmp, /run, /dev/shm and the workspace.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::error::LaunchError;
use crate::identity::Identity;
use crate::plan::{Plan, WorkspacePlan};
use crate::policy::WorkspaceKind;
use crate::root::{c, relative};
use crate::sys::{self, attr};

const LAYER: &str = "workspace";

/// The directories of the tmpfs: name, mode, whether they are the agent's own.
const DIRECTORIES: [(&CStr, u32, bool); 4] =
    [(c"workspace", 0o755, true), (c"tmp", 0o1777, false), (c"run", 0o755, false), (c"shm", 0o1777, false)];

/// The writable part of an agent. It lives as long as this value, or as an agent that has it mounted.
#[derive(Debug)]
pub struct Workspace {
    mount: OwnedFd,
    plan: WorkspacePlan,
    owner: (u32, u32),
}

impl Workspace {
    /// Make one, empty. Needs a launcher that is root (elsewhere each agent makes its own, within its namespaces).
    pub fn create(plan: &Plan, identity: &Identity) -> Result<Self, LaunchError> {
        let Some(workspace) = &plan.workspace else {
            return Err(LaunchError::refused(LAYER, format!("{:?} has no workspace of its own", plan.level)));
        };
        Self::within(workspace, (identity.outside(plan.uid), identity.outside(plan.gid)), identity.outside(0), identity)
    }

    /// The same in terms of the user namespace that we are in.
    pub(crate) fn within(
        plan: &WorkspacePlan,
        owner: (u32, u32),
        root: u32,
        identity: &Identity,
    ) -> Result<Self, LaunchError> {
        let make = || -> sys::Result<OwnedFd> {
            let tmpfs = sys::Filesystem::open(c"tmpfs")?;
            tmpfs.set(c"size", &c(plan.size.to_string().as_bytes()))?;
            tmpfs.set(c"nr_inodes", &c(plan.inodes.to_string().as_bytes()))?;
            tmpfs.set(c"mode", c"0755")?;
            let noexec = if plan.execute { 0 } else { attr::NOEXEC };
            let mount = tmpfs.mount(attr::NOSUID | attr::NODEV | noexec)?;
            let at = mount.as_raw_fd();
            for (name, mode, own) in DIRECTORIES {
                sys::mkdirat(at, name, mode)?;
                sys::fchmodat(at, name, mode)?;
                let (uid, gid) = if own { owner } else { (root, root) };
                sys::lchownat(at, name, uid, gid)?;
            }
            let (name, machine) = (&identity.hostname, &identity.machine_id);
            for (file, content) in [
                (c"run/hostname", format!("{name}\n")),
                (c"run/machine-id", format!("{machine}\n")),
                (c"run/hosts", format!("127.0.0.1 localhost {name}\n::1 localhost {name}\n")),
            ] {
                let file = sys::openat(at, file, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o644)?;
                sys::write(file.as_raw_fd(), content.as_bytes())?;
            }
            Ok(mount)
        };
        let mount = make().map_err(|errno| {
            LaunchError::new(LAYER, format!("making a tmpfs of {} bytes and {} inodes", plan.size, plan.inodes), errno)
        })?;
        Ok(Self { mount, plan: plan.clone(), owner })
    }

    /// One that was made before, by the top of its tmpfs ([`Workspace::top`]), perhaps in another process.
    pub fn held(top: OwnedFd, plan: &Plan, identity: &Identity) -> Result<Self, LaunchError> {
        let Some(workspace) = &plan.workspace else {
            return Err(LaunchError::refused(LAYER, format!("{:?} has no workspace of its own", plan.level)));
        };
        let owner = (identity.outside(plan.uid), identity.outside(plan.gid));
        Ok(Self { mount: top, plan: workspace.clone(), owner })
    }

    /// Attach its directories to a root.
    pub(crate) fn attach(&self, tree: i32) -> Result<(), LaunchError> {
        let mut targets =
            vec![(c"tmp", c"tmp".to_owned()), (c"run", c"run".to_owned()), (c"shm", c"dev/shm".to_owned())];
        if self.plan.kind != WorkspaceKind::None {
            targets.push((c"workspace", relative(&self.plan.path)));
        }
        for (name, target) in targets {
            let attached = sys::clone_tree(self.mount.as_raw_fd(), name, false)
                .and_then(|copy| sys::attach(copy.as_raw_fd(), tree, &target));
            attached
                .map_err(|errno| LaunchError::new(LAYER, format!("mounting /{}", target.to_string_lossy()), errno))?;
        }
        Ok(())
    }

    /// Attach the whole tmpfs where the agent's /proc will cover it, so that it is reachable nowhere.
    pub(crate) fn hide(&self, tree: i32) -> Result<(), LaunchError> {
        sys::attach(self.mount.as_raw_fd(), tree, c"proc")
            .map_err(|errno| LaunchError::new(LAYER, "mounting the tmpfs", errno))
    }

    /// The same on kernels that copy mounts only where they are attached: attached first, then spread.
    pub(crate) fn attach_once(self, tree: i32) -> Result<(), LaunchError> {
        self.hide(tree)?;
        self.attach(tree)
    }

    /// Where overlays keep what is changed, if the plan wants overlays.
    pub(crate) fn upper(&self) -> Result<Option<OwnedFd>, LaunchError> {
        if self.plan.kind != WorkspaceKind::Overlay {
            return Ok(None);
        }
        let at = self.mount.as_raw_fd();
        let made = match sys::mkdirat(at, c"layers", 0o700) {
            Ok(()) | Err(sys::Errno(libc::EEXIST)) => sys::openat(at, c"layers", libc::O_RDONLY | libc::O_DIRECTORY, 0),
            Err(errno) => Err(errno),
        };
        made.map(Some).map_err(|errno| LaunchError::new(LAYER, "making room for overlays", errno))
    }

    /// The top of the tmpfs, as a directory descriptor (`O_PATH`); the workspace is `workspace` beneath it.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// User and group id, outside, of the workspace's owner.
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Change the quota of a running agent; below what is in use the kernel refuses.
    pub fn resize(&self, bytes: u64, inodes: u64) -> Result<(), LaunchError> {
        let resize = || -> sys::Result<()> {
            let tmpfs = sys::Filesystem::pick(self.mount.as_raw_fd())?;
            tmpfs.set(c"size", &c(bytes.to_string().as_bytes()))?;
            tmpfs.set(c"nr_inodes", &c(inodes.to_string().as_bytes()))?;
            tmpfs.reconfigure()
        };
        resize().map_err(|errno| {
            LaunchError::new(LAYER, format!("a quota of {bytes} bytes and {inodes} inodes (is more in use?)"), errno)
        })
    }
}

/// The workspace of an agent that runs, as a directory descriptor: for a launcher that does not hold its [`Workspace`].
/// `init` is the agent's init; the caller has made sure (by a pidfd) that it still is.
pub fn reach(init: i32, plan: &WorkspacePlan) -> Result<OwnedFd, LaunchError> {
    const IN_ROOT_WITHOUT_LINKS: u64 = 0x10 | 0x04 | 0x02;
    let failed = |errno| LaunchError::new(LAYER, format!("reaching {} of process {init}", plan.path.display()), errno);
    let root = sys::openat(sys::HERE, &c(format!("/proc/{init}/root").as_bytes()), libc::O_PATH | libc::O_DIRECTORY, 0);
    let root = root.map_err(failed)?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    sys::openat2(root.as_raw_fd(), &relative(&plan.path), flags, 0, IN_ROOT_WITHOUT_LINKS).map_err(failed)
}
