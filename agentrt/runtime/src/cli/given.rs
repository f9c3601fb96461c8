//! Values as they are given on the command line.

use std::collections::BTreeMap;

/// A size: bytes, or with K, M or G.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size; 268435456, 256M and 2G are"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// NAME=VALUE, as a map.
pub fn pairs(what: &str, given: &[String]) -> Result<BTreeMap<String, String>, String> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("--{what} {text:?}: it has no '='"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    given.iter().map(split).collect()
}

/// The texts of secrets, from NAME=FILE.
pub fn secrets(given: &[String]) -> Result<BTreeMap<String, String>, String> {
    let read = |(name, file): (String, String)| {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        Ok((name, text.trim_end_matches('\n').to_owned()))
    };
    pairs("secret", given)?.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes() {
        assert_eq!(bytes("17"), Ok(17));
        assert_eq!(bytes("256M"), Ok(256 << 20));
        assert_eq!(bytes("2g"), Ok(2 << 30));
        for bad in ["", "M", "1.5G", "-3", "99999999999G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
