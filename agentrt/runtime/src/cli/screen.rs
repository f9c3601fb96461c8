//! Our own terminal, while a program in an agent has one.

use crate::pb;
use pb::exec_request::{Message as In, WindowSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Rows and columns; zeros where we have no terminal.
pub fn size() -> (u32, u32) {
    tcgetwinsize(std::io::stdout()).map_or((0, 0), |size| (u32::from(size.ws_row), u32::from(size.ws_col)))
}

/// Tells the program whenever the window changes.
pub async fn follow(tx: mpsc::Sender<pb::ExecRequest>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        let (rows, cols) = size();
        let message = Some(In::Window(WindowSize { rows, cols }));
        if tx.send(pb::ExecRequest { message }).await.is_err() {
            return;
        }
    }
}

/// As long as it lives every key goes to the program as it is, also the one that would end us.
pub struct Raw(Option<Termios>);

impl Raw {
    pub fn enter() -> Raw {
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw);
        }
        Raw(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
