//! What a template's Python program calls once all its imports are done: it is forked from there, into sandboxes.
//!
//! `serve(control, plan)` returns in each fork, confined for good; in the seed itself only when nobody wants forks any more.
//! `checkpoint(control, plan)` is the same for an agent, which goes on when it is told to.

// The macros of PyO3 make code that this lint does not like, and that is not ours.
#![allow(clippy::useless_conversion)]

use std::os::fd::RawFd;

use agent_kernel::launch::{Forked, Parcel, fork_agent, own};
use agent_kernel::{Plan, sys};
use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;

unsafe extern "C" {
    fn PyOS_BeforeFork();
    fn PyOS_AfterFork_Parent();
    fn PyOS_AfterFork_Child();
}

/// More descriptors than a parcel ever has.
const MOST: usize = 64;

/// In the place of a number of descriptors: no more forks are wanted here.
const GO_ON: u8 = 255;

/// One order: how many descriptors are passed to the agent beside its streams, and all descriptors. `None` at the end.
fn receive(control: RawFd) -> sys::Result<Option<(u8, Vec<RawFd>)>> {
    #[repr(C, align(8))]
    struct Control([u8; 16 + MOST * 4]);
    let (mut passed, mut control_data) = (0u8, Control([0; 16 + MOST * 4]));
    let mut part = libc::iovec { iov_base: (&raw mut passed).cast(), iov_len: 1 };
    // SAFETY: an all-zero msghdr is valid, and gets pointers to live values of this frame.
    let (got, header) = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control_data.0.as_mut_ptr().cast();
        header.msg_controllen = control_data.0.len() as _;
        (libc::recvmsg(control, &raw mut header, libc::MSG_CMSG_CLOEXEC), header)
    };
    match got {
        0 => return Ok(None),
        n if n < 0 => return Err(sys::Errno::last()),
        _ => {}
    }
    let mut descriptors = Vec::new();
    // SAFETY: the header is the one that the kernel has filled, and its control data is live.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if !first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS {
            let bytes = (*first).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            descriptors.extend((0..bytes / 4).map(|at| data.add(at).read_unaligned()));
        }
    }
    Ok(Some((passed, descriptors)))
}

/// Fork for every order on the socket `control`, into sandboxes of `plan` (JSON). In a fork: the number of descriptors that
/// it was passed, from 3 on. In the seed, when the other end of `control` is closed: None.
#[pyfunction]
fn serve(py: Python<'_>, control: RawFd, plan: &str) -> PyResult<Option<usize>> {
    let plan: Plan = serde_json::from_str(plan).map_err(|error| PyValueError::new_err(format!("the plan: {error}")))?;
    // Both the process that goes through the namespaces and the agent are reaped by the kernel.
    // SAFETY: no handler, no pointers.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let told = sys::write(control, b"ready");
    told.map_err(|errno| PyOSError::new_err(format!("telling that it is ready: {errno}")))?;
    loop {
        let (passed, descriptors) = match receive(control) {
            Ok(Some(order)) => order,
            Ok(None) => return Ok(None),
            Err(sys::Errno(libc::EINTR)) => {
                py.check_signals()?;
                continue;
            }
            Err(errno) => return Err(PyOSError::new_err(format!("hearing an order: {errno}"))),
        };
        if let Some(passed) = obey(passed, &descriptors, &plan, false) {
            sys::default_signals(1 << (libc::SIGCHLD - 1));
            return Ok(Some(passed));
        }
    }
}

/// Say on the socket `control` that we may be forked, and fork for every order on it, until told to go on. In a fork, which
/// is confined by `plan` (JSON), True; in the agent itself False.
#[pyfunction]
fn checkpoint(py: Python<'_>, control: RawFd, plan: &str) -> PyResult<bool> {
    let plan: Plan = serde_json::from_str(plan).map_err(|error| PyValueError::new_err(format!("the plan: {error}")))?;
    let gone = || PyConnectionError::new_err("the process that could have had this agent forked has died");
    sys::write(control, b"c").map_err(|_| gone())?;
    loop {
        match receive(control) {
            Ok(Some((GO_ON, _))) => return Ok(false),
            Ok(Some((passed, descriptors))) => {
                if obey(passed, &descriptors, &plan, true).is_some() {
                    return Ok(true);
                }
            }
            Ok(None) => return Err(gone()),
            Err(sys::Errno(libc::EINTR)) => py.check_signals()?,
            Err(errno) => return Err(PyOSError::new_err(format!("hearing an order: {errno}"))),
        }
    }
}

/// Fork into a sandbox. In the fork: how many descriptors it was passed. We hold the interpreter's lock.
fn obey(passed: u8, descriptors: &[RawFd], plan: &Plan, to_init: bool) -> Option<usize> {
    // SAFETY: these descriptors were received just now.
    let parcel = Parcel::new(unsafe { own(descriptors) }, usize::from(passed))?;
    // SAFETY: we hold the interpreter's lock, and each of these calls stands where the interpreter wants it.
    unsafe { PyOS_BeforeFork() };
    match fork_agent(&parcel, to_init) {
        Ok(Forked::Agent) => {
            // SAFETY: as above, in the child.
            unsafe { PyOS_AfterFork_Child() };
            let put_on = parcel.put_on(plan);
            if let Err(error) = &put_on {
                let _ = sys::write(2, format!("{error}\n").as_bytes());
                sys::exit_now(126)
            }
            put_on.ok()
        }
        _ => {
            // SAFETY: as above, in the parent.
            unsafe { PyOS_AfterFork_Parent() };
            None
        }
    }
}

#[pymodule]
fn gpve_agent_seed(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(serve, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoint, module)?)
}
