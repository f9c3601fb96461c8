//! Events: read from the journal's files at each watcher's own pace, so a slow one costs nobody anything.

use super::{Replies, view};
use crate::context::Context;
use crate::pb;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

pub fn events(context: Arc<Context>, request: pb::EventsRequest) -> Result<Response<Replies<pb::Event>>, Status> {
    let mut last = context.journal.watch();
    let after = if request.from_now { context.journal.last() } else { request.after };
    let gone = |context: &Context| {
        let first = context.journal.first();
        Status::out_of_range(format!(
            "events after {after} are not kept any more: the oldest kept is {first}; list the agents and go on from there"
        ))
    };
    if after > context.journal.last() {
        let newest = context.journal.last();
        return Err(Status::out_of_range(format!("there is no event {after} yet: the newest is {newest}")));
    }
    let after = if request.after == 0 && !request.from_now { context.journal.first() - 1 } else { after };
    let mut cursor =
        context.journal.after(after).map_err(|e| Status::internal(e.to_string()))?.ok_or_else(|| gone(&context))?;
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            last.borrow_and_update();
            let events = match cursor.read(&context.journal) {
                Ok(events) => events,
                Err(e) => {
                    // Its segment was removed beneath it.
                    let _ =
                        tx.send(Err(Status::out_of_range(format!("the reader fell behind what is kept: {e}")))).await;
                    return;
                }
            };
            if events.is_empty() {
                if !request.follow {
                    return;
                }
                tokio::select! {
                    changed = last.changed() => if changed.is_err() { return },
                    () = tx.closed() => return,
                }
            }
            for event in events.iter().filter(|e| request.id.is_empty() || e.agent == request.id) {
                if tx.send(Ok(view::event(event))).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
}
