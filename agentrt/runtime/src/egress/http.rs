//! What a client asks a proxy for in HTTP/1: CONNECT, or a request with its whole address.

use super::destination::Destination;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The largest head, and the most headers in it.
const LARGEST: usize = 16 << 10;
const MOST_HEADERS: usize = 100;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Connect(Destination),
    /// A plain request: the head to send on (its address cut to the path, one request a connection), and its body.
    Plain {
        to: Destination,
        head: Vec<u8>,
        body: Body,
    },
}

/// How a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
}

/// Reads a head; what follows it comes too. The inner error is what is wrong.
pub async fn read_head(client: &mut TcpStream) -> io::Result<Result<(Vec<u8>, Vec<u8>), String>> {
    let mut seen = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        if let Some(at) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = seen.split_off(at + 4);
            return Ok(Ok((seen, rest)));
        }
        if seen.len() > LARGEST {
            return Ok(Err(format!("a head of more than {LARGEST} bytes")));
        }
        match client.read(&mut chunk).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => seen.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Parses a head. What two programs could read in two ways is refused.
pub fn parse(head: &[u8]) -> Result<Request, String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err("the head is not whole".into()),
        Err(e) => return Err(format!("it is no HTTP: {e}")),
    }
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    if method == "CONNECT" {
        return Destination::parse(target.as_bytes(), None).map(Request::Connect);
    }
    let Some(rest) = target.strip_prefix("http://") else {
        return Err("a proxy is asked by CONNECT, or with a whole address that begins with http://".into());
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let to = Destination::parse(authority.as_bytes(), Some(80))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let host = to.to_string();
    let host = host.strip_suffix(":80").unwrap_or(&host);
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n").into_bytes();
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for header in parsed.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        match name.as_str() {
            "host" => {
                hosts += 1;
                let named = Destination::parse(header.value, Some(80));
                if hosts > 1 || named.as_ref() != Ok(&to) {
                    return Err(format!("the Host header is another than the address, {to}"));
                }
                continue;
            }
            "content-length" => {
                let text = std::str::from_utf8(header.value).unwrap_or_default();
                let plain = !text.is_empty() && text.len() < 16 && text.bytes().all(|b| b.is_ascii_digit());
                let value: Option<u64> = if plain { text.parse().ok() } else { None };
                if length.is_some() || value.is_none() {
                    return Err("its Content-Length is none, or there are two".into());
                }
                length = value;
            }
            "transfer-encoding" => {
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err("a Transfer-Encoding other than chunked".into());
                }
                chunked = true;
            }
            // Of this connection, not of the message.
            "connection"
            | "proxy-connection"
            | "keep-alive"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect" => continue,
            _ => {}
        }
        out.extend_from_slice(header.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(header.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let body = match (length, chunked) {
        (Some(_), true) => return Err("both a Content-Length and a Transfer-Encoding".into()),
        (Some(n), false) => Body::Length(n),
        (None, true) => Body::Chunked,
        (None, false) => Body::Length(0),
    };
    Ok(Request::Plain { to, head: out, body })
}

/// A refusal that says why.
pub fn refusal(status: &str, sentence: &str) -> Vec<u8> {
    let body = format!("gpve egress: {sentence}\n");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Where a chunked body ends, told chunk by chunk.
#[derive(Debug, Default)]
pub struct Chunks {
    left: u64,
    line: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data,
    AfterData,
    Trailer,
    Done,
}

impl Chunks {
    /// Takes bytes of a body: how many of them belong to it, and whether it has ended. An error where it is none.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), String> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let n = self.left.min((bytes.len() - at) as u64);
                at += n as usize;
                self.left -= n;
                if self.left == 0 {
                    self.state = State::AfterData;
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            if byte != b'\n' {
                if self.line.len() > 1024 {
                    return Err("a line of its chunks is too long".into());
                }
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").ok_or("a line of its chunks ends without CR")?;
            self.state = match self.state {
                State::Size => {
                    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
                    let text = std::str::from_utf8(digits).unwrap_or_default();
                    let plain = !text.is_empty() && text.len() < 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = if plain { u64::from_str_radix(text, 16).ok() } else { None };
                    self.left = size.ok_or("the size of a chunk is no number")?;
                    if self.left == 0 { State::Trailer } else { State::Data }
                }
                State::AfterData if line.is_empty() => State::Size,
                State::Trailer if line.is_empty() => State::Done,
                State::Trailer => State::Trailer,
                _ => return Err("a chunk is longer than it says".into()),
            };
        }
        Ok((at, self.state == State::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(head: &str) -> Result<Request, String> {
        parse(head.as_bytes())
    }

    #[test]
    fn requests() {
        let to = |text: &str| Destination::parse(text.as_bytes(), None).expect(text);
        assert_eq!(asked("CONNECT a.org:443 HTTP/1.1\r\nHost: x\r\n\r\n"), Ok(Request::Connect(to("a.org:443"))));
        let plain =
            asked("GET http://a.org/x?y HTTP/1.1\r\nHost: A.org\r\nProxy-Connection: keep-alive\r\nX: 1\r\n\r\n");
        let head = b"GET /x?y HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\nX: 1\r\n\r\n".to_vec();
        assert_eq!(plain, Ok(Request::Plain { to: to("a.org:80"), head, body: Body::Length(0) }));
        for bad in [
            "CONNECT a.org HTTP/1.1\r\n\r\n",
            "CONNECT evil.org\0.a.org:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.org:443\r\nX: y HTTP/1.1\r\n\r\n",
            "CONNECT a.org.:443 HTTP/1.1\r\n\r\n",
            "CONNECT user@a.org:443 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n",
            "GET https://a.org/ HTTP/1.1\r\n\r\n",
            "GET http://a.org/ HTTP/1.1\r\nHost: b.org\r\n\r\n",
            "GET http://a.org/ HTTP/1.1\r\nHost: a.org\r\nHost: a.org\r\n\r\n",
            "GET http://a.org@b.org/ HTTP/1.1\r\n\r\n",
            "POST http://a.org/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "POST http://a.org/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a.org/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST http://a.org/ HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
            "nonsense",
        ] {
            assert!(asked(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn chunks_end_where_they_end() {
        let body = b"5\r\nhello\r\n0;x=y\r\nT: v\r\n\r\nGET http://next/";
        for cut in 0..body.len() {
            let mut chunks = Chunks::default();
            let (first, done) = chunks.take(&body[..cut]).expect("a part");
            let (second, done_then) = if done { (0, true) } else { chunks.take(&body[first..]).expect("the rest") };
            assert_eq!((first + second, done_then), (body.len() - 16, true), "{cut}");
        }
        for bad in [&b"x\r\n"[..], b"5\nhello", b"2\r\nhello\r\n", b"-1\r\n", b"fffffffffffff\r\n"] {
            assert!(Chunks::default().take(bad).is_err(), "{bad:?}");
        }
    }
}
