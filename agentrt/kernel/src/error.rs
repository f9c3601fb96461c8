//! Why an agent did not start.

use std::fmt;

use crate::sys::Errno;

/// Why an agent did not start: the layer, what was tried (with its path), and the kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchError {
    /// The layer: `root`, `landlock`, `seccomp`, `exec` and so on.
    pub layer: String,
    /// What was tried, as a clause: "mounting /proc", "opening /data".
    pub what: String,
    /// The kernel's answer; `None` where this crate itself refused.
    pub errno: Option<Errno>,
}

impl LaunchError {
    /// The kernel refused.
    pub fn new(layer: &str, what: impl Into<String>, errno: Errno) -> Self {
        Self { layer: layer.to_owned(), what: what.into(), errno: Some(errno) }
    }

    /// This crate refused.
    pub fn refused(layer: &str, what: impl Into<String>) -> Self {
        Self { layer: layer.to_owned(), what: what.into(), errno: None }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => write!(f, "{}: {} failed: {errno}", self.layer, printable(&self.what)),
            None => write!(f, "{}: {}", self.layer, printable(&self.what)),
        }
    }
}

/// A stranger's document or archive may have line ends and the escapes of a terminal in its names: whoever reads a sentence
/// with such a name in it sees them written out.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() { out.extend(char.escape_default()) } else { out.push(char) }
    }
    out
}

impl std::error::Error for LaunchError {}

impl From<crate::cgroup::CgroupError> for LaunchError {
    fn from(error: crate::cgroup::CgroupError) -> Self {
        Self { layer: "cgroup".into(), what: error.what, errno: error.errno }
    }
}
