//! An archive, unpacked as a layer and into a workspace: no panic, and nothing is written beside the directory.
#![no_main]

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use agent_kernel::archive::{Limits, Reader, Unpacker};
use agent_kernel::copy::{copy_in, copy_out};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 64, name: 512, depth: 8 };

fuzz_target!(|bytes: &[u8]| {
    let top = std::env::temp_dir().join(format!("gpve-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&top);
    let inside = top.join("inside");
    fs::create_dir_all(&inside).expect("a directory");
    fs::write(top.join("canary"), "canary").expect("the canary");
    {
        let directory = File::open(&inside).expect("the directory");
        let _ = Unpacker::layer(directory.as_raw_fd()).unpack(&mut Reader::new(bytes, LIMITS));
        let owner = agent_kernel::sys::ids();
        let copied = copy_in(directory.as_fd(), owner, Path::new("work"), bytes, &LIMITS);
        if copied.is_ok() {
            let mut out = Vec::new();
            if copy_out(directory.as_fd(), Path::new("work"), &mut out, &LIMITS).is_ok() {
                copy_in(directory.as_fd(), owner, Path::new("again"), &out[..], &LIMITS).expect("our own archive");
            }
        }
    }
    assert_eq!(fs::read(top.join("canary")).expect("the canary"), b"canary");
    assert_eq!(fs::read_dir(&top).expect("the top").count(), 2, "something was written outside");
    let _ = fs::remove_dir_all(&top);
});
