//! The Agent Kernel for C.
//!
//! Every function returns 0, or -1 with a sentence in `*error` (which is the caller's to free by `ak_string_free`, and may
//! be null where it is not wanted). Text is UTF-8. No panic crosses into C.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use agent_kernel::helper::{self, Spawned};
use agent_kernel::{Access, Policy};

/// A policy that was read.
pub struct AkPolicy(Policy);

/// An agent that runs.
pub struct AkProcess(Option<Spawned>, i32);

fn text(text: String) -> *mut c_char {
    // A NUL cannot be told in C; it is shown as what it is.
    CString::new(text.replace('\0', "\\0")).map_or(std::ptr::null_mut(), CString::into_raw)
}

/// # Safety
/// `from` is null or a C string.
unsafe fn read(from: *const c_char, what: &str) -> Result<String, String> {
    if from.is_null() {
        return Err(format!("{what} is null"));
    }
    // SAFETY: promised by the caller.
    let bytes = unsafe { CStr::from_ptr(from) };
    bytes.to_str().map(str::to_owned).map_err(|_| format!("{what} is not UTF-8"))
}

/// # Safety
/// `from` is null or an array of C strings that ends in null.
unsafe fn read_all(from: *const *const c_char, what: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    if from.is_null() {
        return Ok(out);
    }
    loop {
        // SAFETY: promised by the caller: every element up to the null is a C string.
        let one = unsafe { *from.add(out.len()) };
        if one.is_null() {
            return Ok(out);
        }
        // SAFETY: as above.
        out.push(unsafe { read(one, what) }?);
    }
}

/// Run `body`; its error, or its panic, goes to `error`.
fn guarded(error: *mut *mut c_char, body: impl FnOnce() -> Result<(), String>) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err("a defect in the Agent Kernel".into()));
    let Err(why) = outcome else { return 0 };
    if !error.is_null() {
        // SAFETY: not null, and the caller promises a place for a pointer.
        unsafe { *error = text(why) };
    }
    -1
}

/// Free a string of this library. Null is fine.
///
/// # Safety
/// `string` is null or came from this library, and is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: it came from CString::into_raw, and is given back once.
        drop(unsafe { CString::from_raw(string) });
    }
}

/// Read a policy in TOML. Free it by `ak_policy_free`.
///
/// # Safety
/// `toml` is a C string; `policy` and `error` are places for a pointer (`error` may be null).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_policy_read(
    toml: *const c_char,
    policy: *mut *mut AkPolicy,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: promised by the caller.
        let toml = unsafe { read(toml, "the policy") }?;
        let read = Policy::from_toml(&toml).map_err(|error| error.to_string())?;
        if policy.is_null() {
            return Err("there is no place for the policy".into());
        }
        // SAFETY: not null, and a place for a pointer.
        unsafe { *policy = Box::into_raw(Box::new(AkPolicy(read))) };
        Ok(())
    })
}

/// Free a policy. Null is fine.
///
/// # Safety
/// `policy` is null or came from this library, and is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_policy_free(policy: *mut AkPolicy) {
    if !policy.is_null() {
        // SAFETY: it came from Box::into_raw, and is given back once.
        drop(unsafe { Box::from_raw(policy) });
    }
}

/// Put a policy of level L1 on this process, for good. `applied`, if not null, gets what is in force, as JSON.
///
/// # Safety
/// `policy` came from `ak_policy_read`; the others are null or places for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_enter(
    policy: *const AkPolicy,
    applied: *mut *mut c_char,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: promised by the caller.
        let policy = unsafe { policy.as_ref() }.ok_or("the policy is null")?;
        let done = agent_kernel::enter(&policy.0).map_err(|error| error.to_string())?;
        if !applied.is_null() {
            // SAFETY: not null, and a place for a pointer.
            unsafe { *applied = text(serde_json::json!(done).to_string()) };
        }
        Ok(())
    })
}

/// What this process uses and what holds it, as JSON; null only for want of memory. Free it by `ak_string_free`.
#[unsafe(no_mangle)]
pub extern "C" fn ak_report() -> *mut c_char {
    catch_unwind(|| text(serde_json::json!(agent_kernel::report()).to_string())).unwrap_or(std::ptr::null_mut())
}

/// Explain an access (`"read"`, `"/etc/shadow"`): `explanation` gets JSON with allowed, layer, why, to_allow.
///
/// # Safety
/// `policy` came from `ak_policy_read`, `verb` and `object` are C strings; the others are places for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_explain(
    policy: *const AkPolicy,
    verb: *const c_char,
    object: *const c_char,
    explanation: *mut *mut c_char,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: promised by the caller.
        let (policy, verb, object) = unsafe {
            (policy.as_ref().ok_or("the policy is null")?, read(verb, "the verb")?, read(object, "the object")?)
        };
        let told = agent_kernel::explain(&policy.0, &Access::parse(&verb, &object)?);
        if explanation.is_null() {
            return Err("there is no place for the explanation".into());
        }
        // SAFETY: not null, and a place for a pointer.
        unsafe { *explanation = text(serde_json::json!(told).to_string()) };
        Ok(())
    })
}

/// Start a command under a policy, by the program `gpve-agent-launch` at the path `helper`. `argv` and `env` (`NAME=value`)
/// end in null; `in`, `out` and `err` become the command's streams. Wait for it by `ak_wait`.
///
/// # Safety
/// Strings and arrays are as said; `process` and `error` are places for a pointer (`error` may be null).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_spawn(
    helper: *const c_char,
    policy: *const AkPolicy,
    argv: *const *const c_char,
    env: *const *const c_char,
    r#in: RawFd,
    out: RawFd,
    err: RawFd,
    process: *mut *mut AkProcess,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        // SAFETY: promised by the caller.
        let (helper, policy) = unsafe { (read(helper, "the helper")?, policy.as_ref().ok_or("the policy is null")?) };
        // SAFETY: promised by the caller.
        let (argv, env) = unsafe { (read_all(argv, "the command")?, read_all(env, "the environment")?) };
        let split = |entry: String| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env: Vec<_> = env.into_iter().filter_map(split).collect();
        if process.is_null() {
            return Err("there is no place for the process".into());
        }
        let spawned = helper::spawn(&PathBuf::from(helper), &policy.0, &argv, &env, [r#in, out, err]);
        let spawned = spawned.map_err(|error| error.to_string())?;
        let pid = spawned.pid;
        // SAFETY: not null, and a place for a pointer.
        unsafe { *process = Box::into_raw(Box::new(AkProcess(Some(spawned), pid))) };
        Ok(())
    })
}

/// The process id to which signals may be sent for the agent.
///
/// # Safety
/// `process` came from `ak_spawn`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_pid(process: *const AkProcess) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { process.as_ref() }.map_or(-1, |process| process.1)
}

/// Wait for the end, and free the process. `code` gets the exit code (or 128 and the signal's number), `report`, if not
/// null, what was used and denied, as JSON.
///
/// # Safety
/// `process` came from `ak_spawn` and is not used afterwards; the others are null or places for their kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ak_wait(
    process: *mut AkProcess,
    code: *mut c_int,
    report: *mut *mut c_char,
    error: *mut *mut c_char,
) -> c_int {
    guarded(error, || {
        if process.is_null() {
            return Err("the process is null".into());
        }
        // SAFETY: it came from Box::into_raw, and is given back once.
        let mut process = unsafe { Box::from_raw(process) };
        let spawned = process.0.take().ok_or("the process was waited for already")?;
        let end = spawned.wait().map_err(|error| error.to_string())?;
        if !code.is_null() {
            // SAFETY: not null, and a place for an int.
            unsafe { *code = end.code };
        }
        if !report.is_null() {
            // SAFETY: not null, and a place for a pointer.
            unsafe { *report = text(end.report.to_string()) };
        }
        Ok(())
    })
}
