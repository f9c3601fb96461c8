//! The connection to the daemon.

use crate::pb::runtime_service_client::RuntimeServiceClient;
use std::path::{Path, PathBuf};
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

pub type Client = RuntimeServiceClient<Channel>;

pub async fn connect(socket: &Path) -> Result<Client, String> {
    let path: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    });
    // The address is asked for and not used: the socket is the way.
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    channel.map(RuntimeServiceClient::new).map_err(|_| {
        format!(
            "no daemon answers at {}: is it running (gpve-agentrt daemon), and is this the right --socket?",
            socket.display()
        )
    })
}

/// What the daemon said, for people.
pub fn said(status: Status) -> String {
    status.message().to_owned()
}

pub fn json(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}
