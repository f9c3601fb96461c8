//! Where somebody wants to go: parsed once, into a name or an address, and matched label by label.

use agent_kernel::explain::egress_matches;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host, in the one spelling that it is matched, resolved and connected by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Lower case: labels of letters, digits and dashes, of which the last is no number.
    Name(String),
    Address(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: Host,
    pub port: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
        }
    }
}

impl Host {
    /// Parses what a client calls a host. Whatever two programs could read in two ways is refused.
    pub fn parse(raw: &[u8]) -> Result<Host, String> {
        let shown = || String::from_utf8_lossy(&raw[..raw.len().min(80)]).escape_debug().to_string();
        if let Some(inner) = raw.strip_prefix(b"[").and_then(|r| r.strip_suffix(b"]")) {
            let text = std::str::from_utf8(inner).map_err(|_| format!("{:?} is no address", shown()))?;
            let address: Ipv6Addr = text.parse().map_err(|_| format!("{:?} is no IPv6 address", shown()))?;
            return Ok(Host::Address(address.into()));
        }
        if raw.is_empty() || raw.len() > 253 {
            return Err(format!("a host name of {} bytes", raw.len()));
        }
        if let Some(bad) = raw.iter().find(|b| !(b.is_ascii_alphanumeric() || **b == b'-' || **b == b'.')) {
            return Err(format!("{:?}: byte {bad:#04x} is in no host name", shown()));
        }
        let text = String::from_utf8_lossy(raw).to_ascii_lowercase();
        let labels: Vec<&str> = text.split('.').collect();
        if labels
            .iter()
            .any(|label| label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-'))
        {
            return Err(format!("{text:?} is no host name (a label is empty or too long, or a dot stands at the end)"));
        }
        let last = labels.last().copied().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit())
            || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if !numeric {
            return Ok(Host::Name(text));
        }
        // Rust reads four decimal numbers without leading zeros, and nothing else.
        let address: Ipv4Addr =
            text.parse().map_err(|_| format!("{text:?} is an address in a spelling that is not taken"))?;
        Ok(Host::Address(address.into()))
    }
}

impl Destination {
    /// `host:port`; the port may be left out where there is a usual one.
    pub fn parse(raw: &[u8], usual: Option<u16>) -> Result<Destination, String> {
        let colon =
            raw.iter().rposition(|b| *b == b':').filter(|at| raw.first() != Some(&b'[') || raw[..*at].ends_with(b"]"));
        let (host, port) = match (colon, usual) {
            (Some(at), _) => {
                let digits = &raw[at + 1..];
                let plain = (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
                let port = std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|d| d.parse().ok());
                (&raw[..at], port.filter(|p| *p > 0).ok_or("there is no port from 1 to 65535 behind the colon")?)
            }
            (None, Some(port)) => (raw, port),
            (None, None) => return Err("the port is missing".into()),
        };
        Ok(Destination { host: Host::parse(host)?, port })
    }

    /// Whether a rule of the policy names it.
    pub fn allowed(&self, rules: &[String]) -> bool {
        let name = match &self.host {
            Host::Name(name) => name.clone(),
            // Rules hold letters, digits, dots and dashes: no address of version 6 is in any.
            Host::Address(address) => address.to_string(),
        };
        rules.iter().any(|rule| egress_matches(rule, &name, self.port))
    }
}

/// Addresses that no name may lead to: the host's own, private networks, link-local ones with the clouds' metadata, and
/// whatever carries such an address inside.
pub fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (18..20).contains(&b))
        }
        IpAddr::V6(v6) => {
            let s = v6.segments();
            let embedded =
                |high: u16, low: u16| is_internal(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into());
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || s[0] & 0xfe00 == 0xfc00
                || s[0] & 0xffc0 == 0xfe80
                || s[0] & 0xffc0 == 0xfec0
                || (s[0] == 0x2001 && s[1] == 0x0db8)
                || (s[0] == 0x2001 && s[1] == 0)
                || (s[0] == 0x0064 && s[1] == 0xff9b && s[2] == 1)
                || (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] && embedded(s[6], s[7]))
                || (s[0] == 0x2002 && embedded(s[1], s[2]))
                || (s[..5] == [0; 5] && (s[5] == 0xffff || s[5] == 0))
                || s[0] == 0x0100
                || s[0] == 0x3fff
        }
    }
}

/// Link-local addresses (the clouds' metadata) are refused even where a policy lists them.
pub fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Option<String> {
        let parsed = Destination::parse(text.as_bytes(), None).ok()?;
        Some(parsed.to_string())
    }

    #[test]
    fn one_spelling_or_none() {
        assert_eq!(host("Example.ORG:443").as_deref(), Some("example.org:443"));
        assert_eq!(host("93.184.216.34:80").as_deref(), Some("93.184.216.34:80"));
        assert_eq!(host("[::ffff:127.0.0.1]:80").as_deref(), Some("[::ffff:127.0.0.1]:80"));
        for bad in [
            "example.org.:443",
            "example.org",
            "example.org:",
            "example.org:0",
            "example.org:65536",
            "example.org:+80",
            "example.org:443:443",
            "a..b:1",
            ".b:1",
            "-a.b:1",
            "a_b.c:1",
            "ex\u{e4}mple.org:443",
            "evil.org\0.example.org:443",
            "evil.org\r\nHost.example.org:443",
            "evil.org @example.org:443",
            "2130706433:80",
            "0177.0.0.1:80",
            "0x7f.0.0.1:80",
            "0x7f000001:80",
            "127.1:80",
            "1.2.3.256:80",
            "::1:80",
            "[::1:80",
            "[fe80::1%eth0]:80",
            ":80",
        ] {
            assert_eq!(host(bad), None, "{bad}");
        }
        assert!(Host::parse(&[b'a'; 254]).is_err());
    }

    #[test]
    fn whole_labels() {
        let rules = ["api.example.org:443".to_owned(), "*.mirror.org:80".to_owned()];
        let allowed = |text: &str| Destination::parse(text.as_bytes(), None).is_ok_and(|d| d.allowed(&rules));
        for yes in ["api.example.org:443", "API.example.org:443", "a.mirror.org:80", "a.b.mirror.org:80"] {
            assert!(allowed(yes), "{yes}");
        }
        for no in [
            "evil-api.example.org:443",
            "api.example.org:80",
            "api.example.org.evil.com:443",
            "mirror.org:80",
            "evilmirror.org:80",
            "x.api.example.org:443",
        ] {
            assert!(!allowed(no), "{no}");
        }
    }

    #[test]
    fn internal_addresses() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "::1",
            "::",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "::7f00:1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(is_internal(text.parse().expect(text)), "{text}");
        }
        for text in ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "64:ff9b::808:808"] {
            assert!(!is_internal(text.parse().expect(text)), "{text}");
        }
    }
}
