//! What agents write to the egress proxy: no panic; what is accepted has one spelling, and reads the same again.
#![no_main]

use agentrt::egress::destination::Destination;
use agentrt::egress::http::{Chunks, Request, parse};
use agentrt::egress::tls::hello;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    hello(bytes);
    if let Ok(to) = Destination::parse(bytes, Some(80)) {
        let spelled = to.to_string();
        assert_eq!(Destination::parse(spelled.as_bytes(), None).as_ref(), Ok(&to));
        assert!(spelled.bytes().all(|b| b.is_ascii_graphic()));
    }
    if let Ok(Request::Plain { to, head, .. }) = parse(bytes) {
        // What goes out is one head, of a request to that host alone.
        assert!(head.ends_with(b"\r\n\r\n"));
        assert_eq!(head.windows(4).filter(|w| *w == b"\r\n\r\n").count(), 1);
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert_eq!(text.matches("\r\nhost: ").count(), 1);
        assert!(to.port > 0);
    }
    let mut chunks = Chunks::default();
    if let Ok((taken, done)) = chunks.take(bytes) {
        assert!(taken == bytes.len() || done);
    }
});
