//! What lies on disk: a directory per agent, and the journal of events.
//!
//! ROOT/agents/ID/spec.json    what Create was asked for; written once
//! ROOT/agents/ID/state.json   the record: state, process, clocks; replaced by rename
//! ROOT/agents/ID/status       what init tells (see status.rs);  log.0 .. log.3  its output;  stdin  a FIFO, if wanted
//! ROOT/events/N.jsonl         events from number N on, and requests
//!
//! A change of state is first the rename of state.json, which embeds its event, then a line in the journal. A daemon that
//! died between the two finds the record's revision ahead of the journal's and writes the line.

pub mod journal;
pub mod record;
pub mod requests;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Replaces `dir/name` by `data` in one step. With `durable` it is on disk before this returns.
pub fn replace(dir: &Path, name: &str, data: &[u8], durable: bool) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(data)?;
    if durable {
        file.sync_all()?;
    }
    drop(file);
    std::fs::rename(&temporary, dir.join(name))?;
    if durable {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
