//! Request ids: each verb has its effect once, however often it is asked for.

use crate::fault::{Fault, exists};
use crate::state::Exit;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// How many ended requests are remembered.
pub const REMEMBERED: usize = 16_384;

/// What a request led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, to the agent of that id.
    Done(String),
    Copied {
        files: u64,
        bytes: u64,
    },
    Ran(Exit),
    Failed(Fault),
}

/// The request that led to a change, and, when it has ended with the change, how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestNote {
    pub id: String,
    pub verb: String,
    pub body: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A fingerprint of a request's body (FNV-1a), the same in every version of the daemon.
pub fn fingerprint(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

struct Entry {
    verb: String,
    body: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<String, Entry>,
    ended: VecDeque<String>,
}

#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Table>>);

/// The right, and the duty, to carry a request out.
pub struct Ticket {
    table: Requests,
    pub id: String,
    pub verb: String,
    pub body: u64,
    outcome: watch::Sender<Option<Outcome>>,
    ended: bool,
}

pub enum Begun {
    /// Carry it out; the receiver is for the caller who waits.
    Fresh(Ticket, watch::Receiver<Option<Outcome>>),
    /// It was, or is being, carried out already.
    Known(watch::Receiver<Option<Outcome>>),
}

impl Requests {
    pub fn begin(&self, id: &str, verb: &str, body: u64) -> Result<Begun, Fault> {
        let (tx, rx) = watch::channel(None);
        let ticket = |tx| Ticket {
            table: self.clone(),
            id: id.to_owned(),
            verb: verb.to_owned(),
            body,
            outcome: tx,
            ended: false,
        };
        if id.is_empty() {
            return Ok(Begun::Fresh(ticket(tx), rx));
        }
        if id.len() > 256 {
            return Err(crate::fault::invalid(format!("request_id: {} bytes, at most 256 are remembered", id.len())));
        }
        let mut table = self.lock();
        if let Some(entry) = table.entries.get(id) {
            if entry.verb != verb || entry.body != body {
                return Err(exists(format!("request_id {id:?} was used before for another request ({})", entry.verb)));
            }
            return Ok(Begun::Known(entry.outcome.clone()));
        }
        table.entries.insert(id.to_owned(), Entry { verb: verb.to_owned(), body, outcome: rx.clone() });
        Ok(Begun::Fresh(ticket(tx), rx))
    }

    /// Takes up a request of the daemon before this one: ended as it stands in the journal, or still to be ended.
    pub fn recall(&self, note: &RequestNote) -> Option<Ticket> {
        let (tx, rx) = watch::channel(note.outcome.clone());
        let mut table = self.lock();
        table.entries.insert(note.id.clone(), Entry { verb: note.verb.clone(), body: note.body, outcome: rx });
        if note.outcome.is_some() {
            table.ended.push_back(note.id.clone());
            table.trim();
            return None;
        }
        drop(table);
        Some(Ticket {
            table: self.clone(),
            id: note.id.clone(),
            verb: note.verb.clone(),
            body: note.body,
            outcome: tx,
            ended: false,
        })
    }

    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Table {
    fn trim(&mut self) {
        while self.ended.len() > REMEMBERED {
            if let Some(old) = self.ended.pop_front() {
                self.entries.remove(&old);
            }
        }
    }
}

impl Ticket {
    pub fn note(&self, outcome: Option<Outcome>) -> Option<RequestNote> {
        (!self.id.is_empty()).then(|| RequestNote {
            id: self.id.clone(),
            verb: self.verb.clone(),
            body: self.body,
            outcome,
        })
    }

    /// Ends the request and answers all who wait for it. A refusal leaves no trace: a retry is a new try.
    pub fn end(mut self, outcome: Outcome) {
        let refused = matches!(&outcome, Outcome::Failed(f) if f.refused);
        self.ended = true;
        if !self.id.is_empty() {
            let mut table = self.table.lock();
            if refused {
                table.entries.remove(&self.id);
            } else {
                table.ended.push_back(self.id.clone());
                table.trim();
            }
        }
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended && !self.id.is_empty() {
            self.table.lock().entries.remove(&self.id);
        }
    }
}

/// Waits for the end of a request.
pub async fn ended(mut outcome: watch::Receiver<Option<Outcome>>) -> Result<Outcome, Fault> {
    match outcome.wait_for(Option::is_some).await {
        Ok(value) => Ok(value.clone().expect("it was waited for")),
        Err(_) => Err(crate::fault::aborted("the request was given up before it ended; ask again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_effect_for_many_askers_and_another_body_is_refused() {
        let requests = Requests::default();
        let Begun::Fresh(ticket, first) = requests.begin("r", "start", 1).expect("begun") else { panic!("fresh") };
        let Begun::Known(second) = requests.begin("r", "start", 1).expect("begun") else { panic!("known") };
        assert!(requests.begin("r", "stop", 1).is_err());
        assert!(requests.begin("r", "start", 2).is_err());
        ticket.end(Outcome::Done("a".into()));
        assert_eq!(ended(first).await, ended(second).await);
        assert!(matches!(requests.begin("r", "start", 1), Ok(Begun::Known(_))));
    }

    #[tokio::test]
    async fn a_refusal_leaves_no_trace_and_memory_is_bounded() {
        let requests = Requests::default();
        let Begun::Fresh(ticket, _) = requests.begin("r", "start", 1).expect("begun") else { panic!("fresh") };
        ticket.end(Outcome::Failed(crate::fault::precondition("no")));
        assert!(matches!(requests.begin("r", "stop", 9), Ok(Begun::Fresh(..))));
        for i in 0..REMEMBERED + 100 {
            let Begun::Fresh(ticket, _) = requests.begin(&format!("x{i}"), "start", 1).expect("begun") else {
                panic!("fresh")
            };
            ticket.end(Outcome::Done(String::new()));
        }
        assert_eq!(requests.len(), REMEMBERED);
    }
}
