//! TLS that the proxy itself speaks, to the origins of secrets: with the names and the authorities checked.

use super::destination::Host;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

/// Speaks TLS, and trusts the authorities of one file.
pub struct Outward {
    authorities: PathBuf,
    /// Read when the first request needs it: most agents have no such origin.
    connector: OnceLock<Result<TlsConnector, String>>,
}

impl Outward {
    pub fn new(authorities: PathBuf) -> Outward {
        Outward { authorities, connector: OnceLock::new() }
    }

    /// Speaks TLS on a connection to a host. The error is one sentence.
    pub async fn speak(&self, server: TcpStream, host: &Host) -> Result<TlsStream<TcpStream>, String> {
        let connector = self.connector.get_or_init(|| connector(&self.authorities)).as_ref().map_err(String::clone)?;
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|e| format!("{name}: {e}"))?,
            Host::Address(address) => ServerName::from(*address),
        };
        connector.connect(name, server).await.map_err(|e| format!("TLS: {e}"))
    }
}

fn connector(authorities: &Path) -> Result<TlsConnector, String> {
    let say = |problem: String| format!("authorities for TLS, {}: {problem}", authorities.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authorities).map_err(|e| say(e.to_string()))? {
        // One that this library does not understand vouches for nobody.
        let _ = roots.add(certificate.map_err(|e| say(e.to_string()))?);
    }
    if roots.is_empty() {
        return Err(say("there is no certificate in it".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.map_err(|e| say(e.to_string()))?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
