//! Archives (tar) of strangers: read with limits on everything, unpacked by descriptor beneath one directory.
//!
//! An archive comes from an agent or from a registry, and means ill: names with `..`, absolute names, links that a later
//! entry writes through, devices, names and sizes without end. None of it is repaired; the archive is refused.

use std::fmt;

mod read;
mod remove;
mod unpack;
mod write;

pub use read::{Entry, Kind, Reader};
pub(crate) use remove::names;
pub use remove::{clear, remove_beneath};
pub use unpack::{Links, Unpacker};
pub use write::Writer;

/// What an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive, unpacked.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of one name.
    pub name: usize,
    /// Directories above a file.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 1_000_000, name: 4096, depth: 64 }
    }
}

/// Why an archive was refused, or could not be read or unpacked.
#[derive(Debug)]
pub enum ArchiveError {
    /// It means ill, or is none: what is wrong, and at which entry.
    Refused {
        /// Name of the entry, as far as it is known.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// Reading or writing failed.
    Io {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
}

impl ArchiveError {
    pub(crate) fn refused(entry: &[u8], why: impl Into<String>) -> Self {
        Self::Refused { entry: String::from_utf8_lossy(entry).chars().take(200).collect(), why: why.into() }
    }

    pub(crate) fn io(what: impl Into<String>, error: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), error: error.into() }
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { entry, why } if entry.is_empty() => write!(f, "archive refused: {why}"),
            Self::Refused { entry, why } => write!(f, "archive refused at {entry:?}: {why}"),
            Self::Io { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for ArchiveError {}

/// Result of working with archives.
pub type Result<T> = std::result::Result<T, ArchiveError>;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries: files, directories, links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

#[cfg(test)]
mod tests;
