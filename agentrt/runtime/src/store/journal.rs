//! The journal: events in order, each with its sequence number, and the requests that led to them.
//!
//! Lines of JSON in segments named by the first sequence number in them. A segment's first line tells the revision of every
//! agent, so the kept segments alone say which changes of state have their line. A torn last line is cut off.

use super::record::Event;
use super::requests::RequestNote;
use crate::clock;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

const SEGMENT_BYTES: u64 = 8 << 20;
const KEPT_SEGMENTS: usize = 4;
/// Numbers skipped when the host was restarted: the last lines before a power cut may be lost, their numbers must not come twice.
const BOOT_GAP: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header { boot_id: String, revs: BTreeMap<String, u64> },
    Event(Event),
    Request(RequestNote),
}

struct Inner {
    file: File,
    bytes: u64,
    next: u64,
    revs: HashMap<String, u64>,
    /// First sequence numbers of the kept segments, oldest first.
    segments: Vec<u64>,
}

pub struct Journal {
    dir: PathBuf,
    inner: Mutex<Inner>,
    last: watch::Sender<u64>,
}

/// What a daemon learns from the journal of the one before it.
#[derive(Default)]
pub struct Recovered {
    /// Last revision in the journal, by agent; deleted agents are not in it.
    pub revs: HashMap<String, u64>,
    /// Revisions of agents whose last event tells that they were deleted.
    pub deleted: HashMap<String, u64>,
    /// Requests in the order in which they ended or were last seen.
    pub requests: Vec<RequestNote>,
}

impl Journal {
    pub fn open(dir: &Path) -> io::Result<(Journal, Recovered)> {
        std::fs::create_dir_all(dir)?;
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            if let Some(first) = name.to_str().and_then(|n| n.strip_suffix(".jsonl")).and_then(|n| n.parse().ok()) {
                segments.push(first);
            }
        }
        segments.sort_unstable();
        let mut recovered = Recovered::default();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut notes: Vec<Option<RequestNote>> = Vec::new();
        let mut next = 1;
        let mut boot = String::new();
        let count = segments.len();
        for (i, first) in segments.iter().enumerate() {
            next = next.max(*first);
            let path = dir.join(format!("{first}.jsonl"));
            let mut whole = 0;
            let mut reader = BufReader::new(File::open(&path)?);
            let mut raw = Vec::new();
            loop {
                raw.clear();
                let n = reader.read_until(b'\n', &mut raw)? as u64;
                let line = if raw.ends_with(b"\n") { serde_json::from_slice(&raw).ok() } else { None };
                let Some(line) = line else { break };
                whole += n;
                let mut note = |note: RequestNote| {
                    if let Some(old) = seen.insert(note.id.clone(), notes.len()) {
                        notes[old] = None;
                    }
                    notes.push(Some(note));
                };
                match line {
                    Line::Header { boot_id, revs } => {
                        boot = boot_id;
                        recovered.revs = revs.into_iter().collect();
                    }
                    Line::Event(event) => {
                        next = event.seq + 1;
                        event.requests.into_iter().for_each(&mut note);
                        if event.kind == "deleted" {
                            recovered.revs.remove(&event.agent);
                            recovered.deleted.insert(event.agent, event.rev);
                        } else {
                            recovered.deleted.remove(&event.agent);
                            recovered.revs.insert(event.agent, event.rev);
                        }
                    }
                    Line::Request(r) => note(r),
                }
            }
            if i + 1 == count {
                OpenOptions::new().write(true).open(&path)?.set_len(whole)?;
            }
        }
        recovered.requests = notes.into_iter().flatten().collect();
        let same_boot = boot == clock::boot_id();
        if count > 0 && !same_boot {
            next += BOOT_GAP;
        }
        let reuse = segments.last().copied().filter(|_| same_boot);
        let (file, bytes) = match reuse {
            Some(first) => {
                let file = OpenOptions::new().append(true).open(dir.join(format!("{first}.jsonl")))?;
                let bytes = file.metadata()?.len();
                (file, bytes)
            }
            None => (File::open(dir)?, u64::MAX),
        };
        let inner = Inner { file, bytes, next, revs: recovered.revs.clone(), segments };
        let journal = Journal { dir: dir.to_owned(), inner: Mutex::new(inner), last: watch::channel(next - 1).0 };
        journal.lock().rotate_if_full(&journal.dir)?;
        Ok((journal, recovered))
    }

    /// Gives the event its number, writes it, and wakes all watchers.
    pub fn append(&self, event: &mut Event) -> io::Result<u64> {
        let mut inner = self.lock();
        event.seq = inner.next;
        inner.write(&Line::Event(event.clone()))?;
        inner.next += 1;
        if event.kind == "deleted" {
            inner.revs.remove(&event.agent);
        } else {
            inner.revs.insert(event.agent.clone(), event.rev);
        }
        inner.rotate_if_full(&self.dir)?;
        self.last.send_replace(event.seq);
        Ok(event.seq)
    }

    /// A request that changes no state.
    pub fn append_request(&self, note: &RequestNote) -> io::Result<()> {
        let mut inner = self.lock();
        inner.write(&Line::Request(note.clone()))?;
        inner.rotate_if_full(&self.dir)
    }

    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// The oldest kept.
    pub fn first(&self) -> u64 {
        self.lock().segments.first().copied().unwrap_or(1)
    }

    /// Changes whenever an event was appended.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// A reader of all events after `after`; None when some of them are not kept any more.
    pub fn after(&self, after: u64) -> io::Result<Option<Cursor>> {
        let inner = self.lock();
        let wanted = after + 1;
        let Some(segment) = inner.segments.iter().copied().rfind(|first| *first <= wanted) else {
            return Ok(None);
        };
        Ok(Some(Cursor {
            dir: self.dir.clone(),
            file: File::open(self.dir.join(format!("{segment}.jsonl")))?,
            segment,
            at: 0,
            after,
        }))
    }

    fn next_segment(&self, after: u64) -> Option<u64> {
        self.lock().segments.iter().copied().find(|first| *first > after)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut raw = serde_json::to_vec(line)?;
        raw.push(b'\n');
        if let Err(e) = self.file.write_all(&raw) {
            // Half a line would hide all that follow it from the next daemon.
            let _ = self.file.set_len(self.bytes);
            return Err(e);
        }
        self.bytes += raw.len() as u64;
        Ok(())
    }

    fn rotate_if_full(&mut self, dir: &Path) -> io::Result<()> {
        if self.bytes < SEGMENT_BYTES {
            return Ok(());
        }
        let first = self.next;
        let path = dir.join(format!("{first}.jsonl"));
        self.file = OpenOptions::new().append(true).create(true).open(path)?;
        self.file.set_len(0)?;
        self.bytes = 0;
        let revs = self.revs.iter().map(|(k, v)| (k.clone(), *v)).collect();
        self.write(&Line::Header { boot_id: clock::boot_id().to_owned(), revs })?;
        if self.segments.last() != Some(&first) {
            self.segments.push(first);
        }
        while self.segments.len() > KEPT_SEGMENTS {
            let old = self.segments.remove(0);
            let _ = std::fs::remove_file(dir.join(format!("{old}.jsonl")));
        }
        Ok(())
    }
}

/// Reads events in order; holds one file, and no memory of what it read.
pub struct Cursor {
    dir: PathBuf,
    file: File,
    segment: u64,
    at: u64,
    after: u64,
}

impl Cursor {
    /// The next events, perhaps none yet. Falls behind by more than is kept: an error (the caller must begin anew).
    pub fn read(&mut self, journal: &Journal) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            // Looked up before reading: when there is a later segment, this one does not grow any more.
            let later = journal.next_segment(self.segment);
            let mut raw = vec![0u8; 128 * 1024];
            self.file.seek(SeekFrom::Start(self.at))?;
            let n = self.file.read(&mut raw)?;
            let whole = raw[..n].iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
            if whole == 0 && n == raw.len() {
                raw.resize(SEGMENT_BYTES as usize * 2, 0);
                self.file.seek(SeekFrom::Start(self.at))?;
                let n = self.file.read(&mut raw)?;
                let whole = raw[..n].iter().position(|b| *b == b'\n').map_or(0, |p| p + 1);
                self.at += whole as u64;
                continue;
            }
            self.at += whole as u64;
            for line in raw[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                if let Ok(Line::Event(event)) = serde_json::from_slice(line)
                    && event.seq > self.after
                {
                    self.after = event.seq;
                    events.push(event);
                }
            }
            if !events.is_empty() || (whole == 0 && later.is_none()) {
                return Ok(events);
            }
            if whole == 0
                && let Some(next) = later
            {
                self.file = File::open(self.dir.join(format!("{next}.jsonl")))?;
                self.segment = next;
                self.at = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("gpve-journal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    fn event(agent: &str, rev: u64, detail: usize) -> Event {
        Event {
            seq: 0,
            agent: agent.into(),
            rev,
            kind: "running".into(),
            state: State::Running,
            exit: None,
            detail: "x".repeat(detail),
            at_unix_ms: 0,
            requests: vec![RequestNote { id: format!("{agent}-{rev}"), verb: "start".into(), body: 0, outcome: None }],
        }
    }

    fn read_all(journal: &Journal, after: u64) -> Vec<u64> {
        let mut cursor = journal.after(after).expect("opened").expect("kept");
        let mut seqs = Vec::new();
        loop {
            let events = cursor.read(journal).expect("read");
            if events.is_empty() {
                return seqs;
            }
            seqs.extend(events.iter().map(|e| e.seq));
        }
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_nothing_is_missed() {
        let dir = dir("plain");
        let (journal, _) = Journal::open(&dir).expect("opened");
        for rev in 1..=10 {
            journal.append(&mut event("a", rev, 0)).expect("appended");
        }
        drop(journal);
        // A torn last line.
        let segment = dir.join("1.jsonl");
        OpenOptions::new()
            .append(true)
            .open(&segment)
            .expect("open")
            .write_all(b"{\"event\":{\"seq\":11,")
            .expect("written");
        let (journal, recovered) = Journal::open(&dir).expect("opened");
        assert_eq!(recovered.revs["a"], 10);
        assert_eq!(recovered.requests.len(), 10);
        assert_eq!(journal.append(&mut event("b", 1, 0)).expect("appended"), 11);
        assert_eq!(read_all(&journal, 0), (1..=11).collect::<Vec<_>>());
        assert_eq!(read_all(&journal, 7), [8, 9, 10, 11]);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn old_segments_go_and_a_number_in_them_is_refused() {
        let dir = dir("rotate");
        let (journal, _) = Journal::open(&dir).expect("opened");
        let mut cursor = journal.after(0).expect("opened").expect("kept");
        let mut seen = Vec::new();
        for rev in 1..=500 {
            journal.append(&mut event("a", rev, 100_000)).expect("appended");
            if rev % 40 == 0 {
                loop {
                    let events = cursor.read(&journal).expect("read");
                    if events.is_empty() {
                        break;
                    }
                    seen.extend(events.iter().map(|e| e.seq));
                }
            }
        }
        assert_eq!(seen, (1..=480).collect::<Vec<_>>());
        assert!(journal.after(0).expect("looked").is_none());
        let first = journal.first();
        assert!(first > 100, "{first}");
        assert_eq!(read_all(&journal, first - 1), (first..=500).collect::<Vec<_>>());
        drop(journal);
        assert_eq!(Journal::open(&dir).expect("opened").1.revs["a"], 500);
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
