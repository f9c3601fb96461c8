//! Who an agent is.

use crate::sys;
use serde::{Deserialize, Serialize};

/// Who an agent is outside, and what it is told about where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// First of the agent's user (and group) ids outside; never 0. For a launcher that is not root: its own user id.
    pub first_id: u32,
    /// How many there are; 1 for a launcher that is not root.
    pub ids: u32,
    /// Host name inside.
    pub hostname: String,
    /// 32 hexadecimal digits.
    pub machine_id: String,
}

impl Identity {
    /// An identity for a launcher like this process; root gets `ids` ids from `first_id`, others their own.
    pub fn new(first_id: u32, ids: u32, hostname: &str, machine_id: &str) -> Self {
        let own = sys::ids().0;
        let (first_id, ids) = if own == 0 { (first_id, ids) } else { (own, 1) };
        Self { first_id, ids, hostname: hostname.to_owned(), machine_id: machine_id.to_owned() }
    }

    /// The id outside that `inside` is.
    pub fn outside(&self, inside: u32) -> u32 {
        if self.ids == 1 { self.first_id } else { self.first_id.saturating_add(inside) }
    }
}
