//! A root that can be written: over each of its directories an overlay, whose upper layer lies in the workspace's quota.
//!
//! The files below belong to ids of the host. They are shown through a mount that maps those ids into the agent's range,
//! so that root of the agent's namespace owns them, and what it changes is copied up under its own ids.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::error::LaunchError;
use crate::identity::Identity;
use crate::root::{Recipe, c};
use crate::sys::{self, Side, attr};

const LAYER: &str = "overlay";

/// A user namespace with an agent's map, held by its descriptor alone.
fn namespace(identity: &Identity, proc: RawFd) -> Result<OwnedFd, LaunchError> {
    let failed = |what: &'static str| move |errno| LaunchError::new(LAYER, what, errno);
    let (hold_read, hold_write) = sys::pipe().map_err(failed("making a pipe"))?;
    // SAFETY: launching processes have one thread (`launch` has checked it).
    match unsafe { sys::fork_into(libc::CLONE_NEWUSER as u64, None) }.map_err(failed("making a user namespace"))? {
        Side::Child => {
            drop(hold_write);
            let _ = sys::read(hold_read.as_raw_fd(), &mut [0u8; 1]);
            sys::exit_now(0)
        }
        Side::Parent(pid, _pidfd) => {
            drop(hold_read);
            let map = format!("0 {} {}", identity.first_id, identity.ids);
            let path = |file: &str| c(format!("{pid}/{file}").as_bytes());
            let made = sys::write_file(proc, &path("uid_map"), map.as_bytes())
                .and_then(|()| sys::write_file(proc, &path("gid_map"), map.as_bytes()))
                .and_then(|()| sys::openat(proc, &path("ns/user"), libc::O_RDONLY, 0));
            drop(hold_write);
            let _ = sys::wait(pid, 0);
            made.map_err(failed("mapping the ids of a user namespace"))
        }
    }
}

/// Attach an overlay over each directory of the root in `tree`. `upper` is a directory of the workspace's tmpfs.
pub(crate) fn attach(
    recipe: &Recipe,
    tree: RawFd,
    upper: RawFd,
    identity: &Identity,
    proc: RawFd,
) -> Result<(), LaunchError> {
    let namespace = namespace(identity, proc)?;
    for (at, source) in recipe.layers() {
        one(at, source, tree, upper, identity, namespace.as_raw_fd()).map_err(|errno| {
            LaunchError::new(LAYER, format!("mounting an overlay over /{}", at.to_string_lossy()), errno)
        })?;
    }
    Ok(())
}

fn one(at: &CStr, source: &Path, tree: RawFd, upper: RawFd, identity: &Identity, namespace: RawFd) -> sys::Result<()> {
    const BENEATH: u64 = 0x08 | 0x04 | 0x02;
    let source =
        sys::openat(sys::HERE, &c(source.as_os_str().as_encoded_bytes()), libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let lower = sys::clone_tree(source.as_raw_fd(), c"", false)?;
    sys::map_ids_of_mount(lower.as_raw_fd(), namespace)?;
    let directory = |prefix: &str| -> sys::Result<OwnedFd> {
        let name = c(format!("{prefix}-{}", at.to_string_lossy()).as_bytes());
        match sys::mkdirat(upper, &name, 0o755) {
            Ok(()) | Err(sys::Errno(libc::EEXIST)) => {}
            Err(errno) => return Err(errno),
        }
        sys::lchownat(upper, &name, identity.outside(0), identity.outside(0))?;
        sys::openat2(upper, &name, libc::O_RDONLY | libc::O_DIRECTORY, 0, BENEATH)
    };
    let (changes, scratch) = (directory("upper")?, directory("work")?);
    let overlay = sys::Filesystem::open(c"overlay")?;
    overlay.set_fd(c"lowerdir+", lower.as_raw_fd())?;
    overlay.set_fd(c"upperdir", changes.as_raw_fd())?;
    overlay.set_fd(c"workdir", scratch.as_raw_fd())?;
    let mounted = overlay.mount(attr::NOSUID | attr::NODEV)?;
    let target = sys::openat2(tree, at, libc::O_PATH | libc::O_DIRECTORY, 0, BENEATH)?;
    sys::attach(mounted.as_raw_fd(), target.as_raw_fd(), c"")
}
