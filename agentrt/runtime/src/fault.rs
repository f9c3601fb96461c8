//! Errors that reach a caller: a gRPC code and one sentence.

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A gRPC code, as its number.
    pub code: i32,
    pub message: String,
    /// Nothing was changed: the same request may be tried anew.
    pub refused: bool,
}

impl Fault {
    fn refused(code: Code, message: impl Into<String>) -> Fault {
        Fault { code: code as i32, message: message.into(), refused: true }
    }

    /// Something was changed before it failed; the same request is answered by this failure from now on.
    pub fn failed(message: impl Into<String>) -> Fault {
        Fault { code: Code::FailedPrecondition as i32, message: message.into(), refused: false }
    }
}

pub fn invalid(message: impl Into<String>) -> Fault {
    Fault::refused(Code::InvalidArgument, message)
}

pub fn precondition(message: impl Into<String>) -> Fault {
    Fault::refused(Code::FailedPrecondition, message)
}

pub fn not_found(message: impl Into<String>) -> Fault {
    Fault::refused(Code::NotFound, message)
}

pub fn exists(message: impl Into<String>) -> Fault {
    Fault::refused(Code::AlreadyExists, message)
}

pub fn exhausted(message: impl Into<String>) -> Fault {
    Fault::refused(Code::ResourceExhausted, message)
}

pub fn aborted(message: impl Into<String>) -> Fault {
    Fault::refused(Code::Aborted, message)
}

pub fn internal(message: impl Into<String>) -> Fault {
    Fault::refused(Code::Internal, message)
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        Status::new(Code::from_i32(fault.code), fault.message)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A refusal that names the agent.
pub fn failed_in(agent: &str, sentence: &str) -> Fault {
    precondition(format!("agent {agent}: {sentence}"))
}
