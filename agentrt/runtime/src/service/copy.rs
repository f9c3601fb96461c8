//! CopyIn and CopyOut: tar streams into and out of an agent's workspace.

use super::Replies;
use crate::context::Context;
use crate::pb;
use std::sync::Arc;
use tonic::{Response, Status, Streaming};

pub async fn copy_in(_context: Arc<Context>, _input: Streaming<pb::CopyInRequest>) -> Result<Response<pb::CopyInReply>, Status> {
    Err(Status::unimplemented("copy-in"))
}

pub async fn copy_out(_context: Arc<Context>, _request: pb::CopyOutRequest) -> Result<Response<Replies<pb::CopyOutChunk>>, Status> {
    Err(Status::unimplemented("copy-out"))
}
