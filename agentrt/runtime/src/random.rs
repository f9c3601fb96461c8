//! Randomness for jitter and made-up ids. Nothing secret comes from here.

/// From the kernel; 0 where it gives none.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut raw = [0u8; N];
    // SAFETY: getrandom writes at most N bytes into the array.
    unsafe { libc::getrandom(raw.as_mut_ptr().cast(), N, 0) };
    raw
}

pub fn u16() -> u16 {
    u16::from_le_bytes(bytes())
}

/// A new id of an agent.
pub fn id() -> String {
    let mut id = String::from("a-");
    for byte in bytes::<6>() {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}
