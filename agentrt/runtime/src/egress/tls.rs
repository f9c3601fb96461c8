//! The name in a TLS ClientHello, which says whom a client truly wants behind an address.

/// What the first bytes of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// No TLS, or one that names nobody.
    Silent,
    Named(Vec<u8>),
    /// More bytes are needed to tell.
    Unfinished,
    /// It begins like TLS and goes on like nothing.
    Broken,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Reader)
    }
}

/// Reads the first handshake message, which may come in several records.
pub fn hello(stream: &[u8]) -> Hello {
    const HANDSHAKE: u8 = 22;
    if stream.first() != Some(&HANDSHAKE) {
        return if stream.is_empty() { Hello::Unfinished } else { Hello::Silent };
    }
    let mut message = Vec::new();
    let mut records = Reader(stream);
    loop {
        if message.len() >= 4 {
            let length = 4 + (usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]));
            if message[0] != 1 || length > 1 << 16 {
                return Hello::Broken;
            }
            if message.len() >= length {
                return name(&message[4..length]).unwrap_or(Hello::Broken);
            }
        }
        match (records.number(1), records.take(2), records.vector(2)) {
            (Some(kind), Some(_), Some(part)) if kind == usize::from(HANDSHAKE) => message.extend_from_slice(part.0),
            (Some(kind), Some(_), Some(_)) if kind != usize::from(HANDSHAKE) => return Hello::Broken,
            _ => return Hello::Unfinished,
        }
    }
}

fn name(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    body.vector(1)?;
    body.vector(2)?;
    body.vector(1)?;
    if body.0.is_empty() {
        return Some(Hello::Silent);
    }
    let mut extensions = body.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut data = extensions.vector(2)?;
        if kind == 0 {
            let mut names = data.vector(2)?;
            let kind = names.number(1)?;
            let name = names.vector(2)?;
            // One name, of a host: more would be read by one program and not by the next.
            return (kind == 0 && names.0.is_empty()).then(|| Hello::Named(name.0.to_vec()));
        }
    }
    Some(Hello::Silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(server: &[u8]) -> Vec<u8> {
        let n = server.len();
        let mut extension = vec![0, 0, 0, (n + 5) as u8, 0, (n + 3) as u8, 0, 0, n as u8];
        extension.extend_from_slice(server);
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extension.len() as u16).to_be_bytes());
        body.extend(extension);
        let mut message = vec![1, 0, 0, body.len() as u8];
        message.extend(body);
        let mut record = vec![22, 3, 1, 0, message.len() as u8];
        record.extend(message);
        record
    }

    #[test]
    fn names_are_found_and_no_bytes_confuse() {
        let whole = sample(b"api.example.org");
        assert_eq!(hello(&whole), Hello::Named(b"api.example.org".to_vec()));
        for cut in 0..whole.len() {
            assert_eq!(hello(&whole[..cut]), Hello::Unfinished, "{cut}");
            let mut wrong = whole.clone();
            for value in 0..=255 {
                wrong[cut] = value;
                // Whatever it is, it is told without a panic.
                hello(&wrong);
            }
        }
        assert_eq!(hello(b"GET / HTTP/1.1"), Hello::Silent);
    }
}
