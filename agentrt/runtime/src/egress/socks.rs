//! SOCKS version 5 (RFC 1928): CONNECT without a password, and nothing else.

use super::destination::{Destination, Host};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const SUCCEEDED: u8 = 0;
pub const DENIED: u8 = 2;
pub const UNREACHABLE: u8 = 4;

/// Whom a client asks for; the inner error is what is wrong with it.
pub async fn request(client: &mut TcpStream) -> io::Result<Result<Destination, String>> {
    let mut two = [0u8; 2];
    client.read_exact(&mut two).await?;
    let mut methods = vec![0u8; usize::from(two[1])];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&0) {
        client.write_all(&[5, 0xff]).await?;
        return Ok(Err("it wants a password, and there is none".into()));
    }
    client.write_all(&[5, 0]).await?;
    let mut head = [0u8; 4];
    client.read_exact(&mut head).await?;
    let host = match head[3] {
        1 => {
            let mut raw = [0u8; 4];
            client.read_exact(&mut raw).await?;
            Ok(Host::Address(Ipv4Addr::from(raw).into()))
        }
        3 => {
            let mut raw = vec![0u8; usize::from(client.read_u8().await?)];
            client.read_exact(&mut raw).await?;
            Host::parse(&raw)
        }
        4 => {
            let mut raw = [0u8; 16];
            client.read_exact(&mut raw).await?;
            Ok(Host::Address(Ipv6Addr::from(raw).into()))
        }
        other => return Ok(Err(format!("address type {other}"))),
    };
    let port = client.read_u16().await?;
    if head[0] != 5 || head[1] != 1 || port == 0 {
        return Ok(Err(format!("version {}, command {}, port {port}: CONNECT alone is served", head[0], head[1])));
    }
    Ok(host.map(|host| Destination { host, port }))
}

pub async fn reply(client: &mut TcpStream, code: u8) -> io::Result<()> {
    client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}
