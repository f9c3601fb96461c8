//! Waking those who follow a log: inotify on the status files, which init writes after each frame.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

type Watches = HashMap<i32, (watch::Sender<()>, usize)>;

#[derive(Clone)]
pub struct Watcher {
    fd: Arc<AsyncFd<OwnedFd>>,
    watches: Arc<Mutex<Watches>>,
}

/// As long as it lives, `changed` returns after each change of the file.
pub struct Subscription {
    watcher: Watcher,
    wd: i32,
    changes: watch::Receiver<()>,
}

impl Watcher {
    pub fn new() -> io::Result<Watcher> {
        let fd = Arc::new(crate::ready::watch(
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            tokio::io::Interest::READABLE,
        )?);
        let watcher = Watcher { fd, watches: Arc::default() };
        tokio::spawn(watcher.clone().run());
        Ok(watcher)
    }

    async fn run(self) {
        let mut buffer = vec![MaybeUninit::uninit(); 4096];
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return };
            let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        if let Some((sender, _)) = lock(&self.watches).get(&event.wd()) {
                            sender.send_replace(());
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            ready.clear_ready();
        }
    }

    pub fn subscribe(&self, file: &Path) -> io::Result<Subscription> {
        let mut watches = lock(&self.watches);
        // The same file gives the same number: those who follow it share one watch.
        let wd = inotify::add_watch(self.fd.get_ref(), file, WatchFlags::MODIFY)?;
        let (sender, count) = watches.entry(wd).or_insert_with(|| (watch::channel(()).0, 0));
        *count += 1;
        Ok(Subscription { watcher: self.clone(), wd, changes: sender.subscribe() })
    }
}

impl Subscription {
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watches = lock(&self.watcher.watches);
        if let Some((_, count)) = watches.get_mut(&self.wd) {
            *count -= 1;
            if *count == 0 {
                watches.remove(&self.wd);
                let _ = inotify::remove_watch(self.watcher.fd.get_ref(), self.wd);
            }
        }
    }
}

fn lock(watches: &Mutex<Watches>) -> std::sync::MutexGuard<'_, Watches> {
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}
