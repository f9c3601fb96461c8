//! Secrets on their way through the egress proxy. Out: the text stands in values of headers alone, and the request goes
//! where it went. Back: wherever the stream is cut, the text does not come through, and all else does.
#![no_main]

use agentrt::egress::destination::Destination;
use agentrt::egress::http::{Request, parse};
use agentrt::egress::secret::{Secret, Towards};
use libfuzzer_sys::fuzz_target;

const TEXT: &str = "aXaXaX-secret-aXaX";
const PLACEHOLDER: &str = "gpve-put-secret-in";

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

fuzz_target!(|bytes: &[u8]| {
    let secrets = [Secret {
        name: "KEY".into(),
        placeholder: PLACEHOLDER.into(),
        text: Some(TEXT.into()),
        origins: vec!["http://a.org:80".into(), "https://b.org:443".into()],
    }];
    let plain = Destination::parse(b"a.org:80", None).expect("a destination");
    let towards = Towards::new(&secrets, &plain);
    if let Ok(Request::Plain { to, head, .. }) = parse(bytes)
        && !has(&head, TEXT)
    {
        let revealed = Towards::new(&secrets, &to).reveal(head.clone());
        if to != plain {
            assert!(to.to_string() == "b.org:443" || revealed.as_ref() == Ok(&head));
        }
        if let Ok(revealed) = revealed {
            assert!(revealed.ends_with(b"\r\n\r\n"));
            assert_eq!(revealed.windows(4).filter(|w| *w == b"\r\n\r\n").count(), 1);
            let mut lines = revealed.split(|byte| *byte == b'\n');
            let first = lines.next().expect("a first line");
            assert_eq!(Some(first), head.split(|byte| *byte == b'\n').next());
            assert!(!has(first, TEXT));
            for line in lines {
                let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                assert!(!has(name, TEXT));
            }
        }
    }
    let mut whole = towards.veil();
    let mut expected = whole.pass(bytes).into_owned();
    expected.extend(whole.rest());
    assert!(!has(&expected, TEXT));
    assert_eq!(expected.len(), bytes.len());
    // Cut where the bytes themselves say.
    let (mut veil, mut seen, mut rest) = (towards.veil(), Vec::new(), bytes);
    while let Some(first) = rest.first() {
        let (now, later) = rest.split_at((usize::from(*first) % 24 + 1).min(rest.len()));
        seen.extend_from_slice(&veil.pass(now));
        assert!(!has(&seen, TEXT));
        rest = later;
    }
    seen.extend(veil.rest());
    assert_eq!(seen, expected);
});
