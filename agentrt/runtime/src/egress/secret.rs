//! Secrets that an agent has as placeholders: put in on the way out, for the origins that they belong to, and taken out
//! again where a server says them back.

use super::destination::Destination;
use agent_kernel::policy::origin;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One secret of an agent. It has no `Debug`: nothing that prints may come by its text.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret {
    pub name: String,
    /// As long as the text, so that no length changes on the way.
    pub placeholder: String,
    /// `None` where the processes that kept it have died.
    pub text: Option<String>,
    /// `https://host:port` or `http://host:port`.
    pub origins: Vec<String>,
}

impl Secret {
    /// Whether it is for a destination, and whether that is reached by TLS.
    fn is_for(&self, to: &Destination) -> Option<bool> {
        let to = to.to_string();
        self.origins.iter().filter_map(|text| origin(text).ok()).find(|(_, at)| *at == to).map(|(tls, _)| tls)
    }
}

/// The secrets that are for one destination.
pub struct Towards<'a> {
    /// The proxy itself speaks TLS there.
    pub tls: bool,
    secrets: Vec<&'a Secret>,
}

impl<'a> Towards<'a> {
    pub fn new(secrets: &'a [Secret], to: &Destination) -> Towards<'a> {
        let found: Vec<_> = secrets.iter().filter_map(|secret| Some((secret, secret.is_for(to)?))).collect();
        Towards {
            tls: found.iter().any(|(_, tls)| *tls),
            secrets: found.into_iter().map(|(secret, _)| secret).collect(),
        }
    }

    /// Puts secrets in the place of their placeholders, in the values of a request's headers and nowhere else. An error
    /// where that must not be; it names no text.
    pub fn reveal(&self, head: Vec<u8>) -> Result<Vec<u8>, String> {
        let mut revealed = false;
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            let mut line = line.to_vec();
            if self.tls && lines.len() == 1 && line.ends_with(b":443\r\n") {
                // Of the Host header: with TLS it goes without saying.
                line.truncate(line.len() - 6);
                line.extend_from_slice(b"\r\n");
            }
            let value = line.iter().position(|byte| *byte == b':').filter(|_| !lines.is_empty());
            for secret in value.iter().flat_map(|_| &self.secrets) {
                let value = &mut line[value.unwrap_or_default()..];
                let found = replace(value, &secret.placeholder, secret.text.as_deref());
                if found && secret.text.is_none() {
                    return Err(format!("the secret {} was lost with the process that kept it", secret.name));
                }
                revealed |= found;
            }
            lines.push(line);
        }
        if revealed {
            if head.starts_with(b"TRACE ") {
                return Err("TRACE sends back what it is sent, and this has a secret in it".into());
            }
            // A server that says the secret back is to say it in plain bytes, where it is found.
            lines.retain(|line| !line.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"accept-encoding:")));
        }
        Ok(lines.concat())
    }

    /// For what comes back.
    pub fn veil(&self) -> Veil {
        let pairs = self.secrets.iter().filter_map(|s| Some((s.text.clone()?, s.placeholder.clone())));
        Veil { pairs: pairs.collect(), held: Vec::new() }
    }
}

/// Puts `with`, or nothing, in the place of each `word`; whether there was any.
fn replace(bytes: &mut [u8], word: &str, with: Option<&str>) -> bool {
    let places: Vec<usize> = memmem::find_iter(bytes, word).collect();
    for at in &places {
        if let Some(with) = with {
            bytes[*at..*at + word.len()].copy_from_slice(with.as_bytes());
        }
    }
    !places.is_empty()
}

/// Puts placeholders back in a stream, in the place of texts that a server says again.
#[derive(Default)]
pub struct Veil {
    /// Text and placeholder.
    pairs: Vec<(String, String)>,
    /// An end of what came that may be the beginning of a text.
    held: Vec<u8>,
}

impl Veil {
    /// What may go on of the stream now.
    pub fn pass<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.pairs.is_empty() {
            return bytes.into();
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        for (text, placeholder) in &self.pairs {
            replace(&mut all, text, Some(placeholder));
        }
        let longest = self.pairs.iter().map(|(text, _)| text.len() - 1).max().unwrap_or(0).min(all.len());
        let begins = |from: usize| self.pairs.iter().any(|(text, _)| text.as_bytes().starts_with(&all[from..]));
        let cut = (all.len() - longest..all.len()).find(|from| begins(*from)).unwrap_or(all.len());
        self.held = all.split_off(cut);
        all.into()
    }

    /// What is left at the end of the stream.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "s3cr3t-s3cr3t-00";
    const PLACEHOLDER: &str = "gpve-placeholder";

    fn secret(text: Option<&str>) -> Vec<Secret> {
        vec![Secret {
            name: "KEY".into(),
            placeholder: PLACEHOLDER.into(),
            text: text.map(str::to_owned),
            origins: vec!["https://a.org:443".into(), "http://b.org:80".into()],
        }]
    }

    fn towards<'a>(secrets: &'a [Secret], to: &str) -> Towards<'a> {
        Towards::new(secrets, &Destination::parse(to.as_bytes(), None).expect(to))
    }

    fn head(first: &str, value: &str) -> Vec<u8> {
        format!("{first} HTTP/1.1\r\nHost: a.org:443\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer {value}\r\n\r\n")
            .into()
    }

    #[test]
    fn the_secret_goes_to_its_origins_alone_and_in_values_of_headers_alone() {
        let secrets = secret(Some(TEXT));
        for (to, tls) in [("a.org:443", true), ("b.org:80", false)] {
            let towards = towards(&secrets, to);
            assert_eq!(towards.tls, tls);
            let first = format!("GET /{PLACEHOLDER}:?{PLACEHOLDER}");
            let said = String::from_utf8(towards.reveal(head(&first, PLACEHOLDER)).expect("fine")).expect("text");
            let host = if tls { "a.org" } else { "a.org:443" };
            let expected = format!("{first} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TEXT}\r\n\r\n");
            assert_eq!(said, expected, "the path stays, and answers come in plain bytes");
        }
        for to in ["a.org:80", "b.org:443", "x.a.org:443", "c.org:443"] {
            let untouched = head("GET /", PLACEHOLDER);
            assert_eq!(towards(&secrets, to).reveal(untouched.clone()), Ok(untouched), "{to}");
        }
        assert!(towards(&secrets, "a.org:443").reveal(head("TRACE /", PLACEHOLDER)).is_err());
        let lost = secret(None);
        let said = towards(&lost, "a.org:443").reveal(head("GET /", PLACEHOLDER)).expect_err("lost");
        assert!(said.contains("KEY") && !said.contains(PLACEHOLDER), "{said}");
    }

    #[test]
    fn what_is_said_back_is_a_placeholder_wherever_the_stream_is_cut() {
        let secrets = secret(Some(TEXT));
        let stream = format!("s3cr3t-s3c {TEXT}{TEXT} s3cr3t");
        for cut in 0..stream.len() {
            let mut veil = towards(&secrets, "a.org:443").veil();
            let mut seen = veil.pass(&stream.as_bytes()[..cut]).into_owned();
            seen.extend_from_slice(&veil.pass(&stream.as_bytes()[cut..]));
            seen.extend(veil.rest());
            assert_eq!(String::from_utf8(seen).expect("text"), stream.replace(TEXT, PLACEHOLDER), "{cut}");
        }
        // Nothing waits for what cannot become a secret.
        assert_eq!(towards(&secrets, "a.org:443").veil().pass(b"data: x\n\n"), &b"data: x\n\n"[..]);
    }
}
