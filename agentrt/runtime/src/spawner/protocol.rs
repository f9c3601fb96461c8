//! What daemon and spawner say to each other: one message a packet, descriptors beside it.

use serde::{Deserialize, Serialize};

/// Changes with every change of a message here: daemon and spawner may come from different builds.
pub const VERSION: u32 = 8;
/// The largest message; the plan of a sandbox, or argv and env, are what fills it.
pub const MOST_BYTES: usize = 192 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub token: u64,
    pub body: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Hello {
        version: u32,
    },
    /// A compiled policy (as JSON), by its fingerprint.
    Plan {
        key: u64,
        json: Vec<u8>,
    },
    /// Descriptor: the top of the agent's workspace, if the daemon has it (of a spawner that died).
    Launch(Box<LaunchAsk>),
    /// Descriptors: pidfd of init, then stdin, stdout, stderr.
    Exec(Box<ExecAsk>),
    /// Descriptor: pidfd of init. Answers with a TCP socket in the agent's network namespace.
    Socket,
    /// Answers with a descriptor of the top of the agent's workspace; made when there is none yet, if that is asked for.
    Workspace {
        agent: String,
        plan: u64,
        who: Who,
        make: bool,
    },
    /// Whether an agent waits at a checkpoint; failed if it does not.
    Checkpoint {
        agent: String,
    },
    /// It is not forked any more for now, and goes on.
    GoOn {
        agent: String,
    },
    /// Descriptor: sealed memory with an agent's secrets, which outlive the daemon so.
    Keep {
        agent: String,
    },
    /// Answers with the descriptor that was to be kept.
    Kept {
        agent: String,
    },
    /// Answers with the socket on which an instance waits to be told what to do.
    Orders {
        agent: String,
    },
    /// The agent is deleted: its workspace and its secrets go. A seed of that name is dropped, and ends.
    Forget {
        agent: String,
    },
}

/// Who an agent is, to its sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Who {
    pub hostname: String,
    pub machine_id: String,
    /// Its range of ids on the host.
    pub first_id: u32,
    pub ids: u32,
}

/// A program to run in a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    pub plan: u64,
    pub who: Who,
    /// Handle of the agent's cgroup, as JSON; empty where the host has none.
    pub cgroup: Vec<u8>,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchAsk {
    pub agent: String,
    /// The agent's directory on the host.
    pub dir: String,
    pub run: u64,
    pub program: Program,
    pub log_bytes: u64,
    pub log_rate: u64,
    pub stdin: bool,
    pub heartbeat: bool,
    /// Where the lease stands by which it runs, if it runs by one.
    pub lease: Option<String>,
    pub kind: Kind,
}

/// What is launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Agent,
    /// A program that waits on its descriptor 3 for orders. The other end comes with the answer, last of its descriptors.
    Waiting,
    /// The same, of which agents are forked: under the plan of a seed.
    Seed,
    /// A fork of the seed, or of the agent at a checkpoint, of that name. It waits on its descriptor 3.
    Fork {
        seed: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ExecAsk {
    pub program: Program,
    /// stdin is a terminal: a session of its own, with it as controlling terminal.
    pub tty: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Of the request.
    pub token: u64,
    pub body: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Hello {
        version: u32,
        pid: i32,
        workspaces: u32,
    },
    Done,
    /// Beside it the pidfd; then, as far as they are said to be there: the top of the workspace (if it outlives the agent),
    /// the socket on which the egress proxy is to listen, the socket on which the program waits for orders.
    Launched {
        pid: i32,
        start_ticks: u64,
        enforced: Vec<String>,
        beside: [bool; 3],
    },
    /// Beside it a pidfd, and a pipe on which its supervisor tells how it ended.
    Started {
        pid: i32,
    },
    /// A descriptor comes with it.
    Descriptor,
    /// The plan of that key is not known (any more): send it, then ask again.
    UnknownPlan,
    /// One sentence.
    Failed(String),
}
