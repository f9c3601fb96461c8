use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::copy::{copy_in, copy_out, restore, snapshot};

/// A directory that is removed at the end.
pub(crate) struct Place(pub PathBuf);

impl Place {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gpve-archive-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn me() -> (u32, u32) {
    crate::sys::ids()
}

fn raw_name(name: &[u8]) -> Vec<Vec<u8>> {
    // One part with slashes in it: the writer joins parts, so that anything can be written.
    vec![name.to_vec()]
}

fn entry(name: &str, kind: Kind, size: u64, link: &str) -> Entry {
    Entry {
        name: raw_name(name.as_bytes()),
        kind,
        size,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_000_000,
        link: link.into(),
    }
}

/// An archive of these entries; files hold "content".
fn archive(entries: &[(&str, Kind, &str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, kind, link) in entries {
        let size = if *kind == Kind::File { 7 } else { 0 };
        let mode = if *kind == Kind::Directory { 0o755 } else { 0o644 };
        writer.add(&Entry { mode, ..entry(name, *kind, size, link) }, &b"content"[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn unpack(place: &Place, bytes: &[u8]) -> Result<Copied> {
    copy_in(place.open().as_fd(), me(), Path::new("inside"), bytes, &Limits::default())
}

fn layer(place: &Place, bytes: &[u8]) -> Result<Copied> {
    Unpacker::layer(place.open().as_raw_fd()).unpack(&mut Reader::new(bytes, Limits::default()))
}

#[test]
fn what_is_copied_in_comes_out_the_same() {
    let place = Place::new("round");
    let long = "d/".repeat(20) + &"n".repeat(200);
    let bytes = archive(&[
        ("a", Kind::Directory, ""),
        ("a/file", Kind::File, ""),
        ("a/link", Kind::Symlink, "file"),
        (&long, Kind::File, ""),
    ]);
    let copied = unpack(&place, &bytes).unwrap();
    assert_eq!((copied.entries, copied.bytes), (4, 14));
    assert_eq!(fs::read(place.0.join("inside").join(&long)).unwrap(), b"content");
    let mut out = Vec::new();
    copy_out(place.open().as_fd(), Path::new("inside"), &mut out, &Limits::default()).unwrap();
    let other = Place::new("round-other");
    copy_in(other.open().as_fd(), me(), Path::new("inside"), &out[..], &Limits::default()).unwrap();
    assert_eq!(fs::read(other.0.join("inside").join(&long)).unwrap(), b"content");
    assert_eq!(fs::read_link(other.0.join("inside/a/link")).unwrap(), Path::new("file"));
    let mut single = Vec::new();
    copy_out(place.open().as_fd(), Path::new("inside/a/file"), &mut single, &Limits::default()).unwrap();
    let mut reader = Reader::new(&single[..], Limits::default());
    assert_eq!(reader.next_entry().unwrap().unwrap().path(), b"file");
}

#[test]
fn a_snapshot_is_restored_whole() {
    let place = Place::new("snapshot");
    fs::create_dir(place.0.join("d")).unwrap();
    fs::write(place.0.join("d/kept"), "kept").unwrap();
    fs::set_permissions(place.0.join("d/kept"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut saved = Vec::new();
    snapshot(place.open().as_fd(), &mut saved).unwrap();
    fs::write(place.0.join("d/kept"), "changed").unwrap();
    fs::write(place.0.join("later"), "later").unwrap();
    restore(place.open().as_fd(), me(), &saved[..]).unwrap();
    assert_eq!(fs::read(place.0.join("d/kept")).unwrap(), b"kept");
    assert_eq!(fs::metadata(place.0.join("d/kept")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!place.0.join("later").exists());
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../out", "a/../../out", "/out", "a/..", ".."] {
        let place = Place::new("names");
        let error = unpack(&place, &archive(&[(name, Kind::File, "")])).unwrap_err().to_string();
        assert!(error.contains("refused"), "{name}: {error}");
        let error = layer(&place, &archive(&[(name, Kind::File, "")])).unwrap_err().to_string();
        assert!(error.contains("refused"), "{name}: {error}");
        assert!(!place.0.join("out").exists());
    }
}

#[test]
fn an_entry_is_not_written_through_a_link_before_it() {
    let outside = Place::new("through-outside");
    let target = outside.0.to_str().unwrap();
    for link in [target, "../../../../../../../../../../../../tmp"] {
        let place = Place::new("through");
        let bytes = archive(&[("way", Kind::Symlink, link), ("way/out", Kind::File, "")]);
        let error = unpack(&place, &bytes).unwrap_err().to_string();
        assert!(error.contains("a link is in its way"), "{error}");
        // A layer follows the link within its own root, where it leads to something of its own or nowhere.
        let _ = layer(&place, &bytes);
        assert!(!outside.0.join("out").exists());
    }
}

#[test]
fn a_file_replaces_a_link_and_never_follows_it() {
    let outside = Place::new("replace-outside");
    fs::write(outside.0.join("canary"), "canary").unwrap();
    let target = outside.0.join("canary");
    let place = Place::new("replace");
    let bytes = archive(&[("f", Kind::Symlink, target.to_str().unwrap()), ("f", Kind::File, "")]);
    unpack(&place, &bytes).unwrap();
    assert_eq!(fs::read(place.0.join("inside/f")).unwrap(), b"content");
    layer(&place, &bytes).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"canary");
}

#[test]
fn a_file_that_is_hard_linked_elsewhere_is_replaced_not_written() {
    let place = Place::new("hard");
    fs::create_dir(place.0.join("inside")).unwrap();
    fs::write(place.0.join("other"), "other").unwrap();
    fs::hard_link(place.0.join("other"), place.0.join("inside/f")).unwrap();
    unpack(&place, &archive(&[("f", Kind::File, "")])).unwrap();
    assert_eq!(fs::read(place.0.join("other")).unwrap(), b"other");
}

#[test]
fn hard_links_lead_only_to_files_of_the_archive() {
    let outside = Place::new("hardlink-outside");
    fs::write(outside.0.join("canary"), "canary").unwrap();
    let absolute = outside.0.join("canary");
    let place = Place::new("hardlinks");
    fs::create_dir(place.0.join("inside")).unwrap();
    symlink(&outside.0, place.0.join("inside/way")).unwrap();
    for target in [absolute.to_str().unwrap(), "../../canary", "way/canary", "missing"] {
        for unpacked in [unpack, layer] {
            let refused = unpacked(&place, &archive(&[("l", Kind::Hardlink, target)])).unwrap_err().to_string();
            assert!(refused.contains("refused"), "{target}: {refused}");
        }
    }
    let top = Place::new("hardlinks-top");
    copy_in(
        top.open().as_fd(),
        me(),
        Path::new(""),
        &archive(&[("f", Kind::File, ""), ("l", Kind::Hardlink, "f")])[..],
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(fs::read(top.0.join("l")).unwrap(), b"content");
}

#[test]
fn devices_and_pipes_are_refused() {
    for letter in [b'3', b'4', b'6', b'S', b'?'] {
        let place = Place::new("devices");
        let error = unpack(&place, &archive(&[("d", Kind::Other(letter), "")])).unwrap_err().to_string();
        assert!(error.contains("not unpacked") || error.contains("not known"), "{error}");
        layer(&place, &archive(&[("d", Kind::Other(letter), "")])).unwrap_err();
    }
}

#[test]
fn set_id_bits_are_dropped() {
    let place = Place::new("setid");
    let mut writer = Writer::new(Vec::new());
    writer.add(&Entry { mode: 0o6755, ..entry("s", Kind::File, 0, "") }, std::io::empty()).unwrap();
    let bytes = writer.finish().unwrap();
    unpack(&place, &bytes).unwrap();
    assert_eq!(fs::metadata(place.0.join("inside/s")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn whiteouts_remove_what_layers_below_have_put() {
    let place = Place::new("whiteouts");
    layer(&place, &archive(&[("a/one", Kind::File, ""), ("a/two", Kind::File, ""), ("b/x", Kind::File, "")])).unwrap();
    layer(
        &place,
        &archive(&[("a/.wh.one", Kind::File, ""), ("b/.wh..wh..opq", Kind::File, ""), ("b/y", Kind::File, "")]),
    )
    .unwrap();
    assert!(!place.0.join("a/one").exists() && place.0.join("a/two").exists());
    assert!(!place.0.join("b/x").exists() && place.0.join("b/y").exists());
    for name in ["a/.wh.", "a/.wh..", "a/.wh..."] {
        layer(&place, &archive(&[(name, Kind::File, "")])).unwrap_err();
    }
    assert!(place.0.join("a/two").exists());
}

#[test]
fn limits_hold() {
    let place = Place::new("limits");
    let bytes = archive(&[("a", Kind::File, ""), ("b", Kind::File, ""), ("c/d/e", Kind::File, "")]);
    let tight = [
        Limits { bytes: 13, ..Limits::default() },
        Limits { entries: 2, ..Limits::default() },
        Limits { depth: 2, ..Limits::default() },
    ];
    for limits in tight {
        copy_in(place.open().as_fd(), me(), Path::new(""), &bytes[..], &limits).unwrap_err();
    }
    // A size without content: the archive ends early, and nothing was reserved for it.
    let mut lying = archive(&[("big", Kind::File, "")]);
    lying[124..135].copy_from_slice(b"37777777777");
    lying.truncate(1024);
    unpack(&place, &lying).unwrap_err();
}

#[test]
fn paths_to_copy_are_relative_and_without_links() {
    let place = Place::new("paths");
    let outside = Place::new("paths-outside");
    fs::write(outside.0.join("canary"), "canary").unwrap();
    symlink(&outside.0, place.0.join("way")).unwrap();
    let bytes = archive(&[("f", Kind::File, "")]);
    for path in ["..", "/tmp", "a/../..", "way", "way/x"] {
        copy_in(place.open().as_fd(), me(), Path::new(path), &bytes[..], &Limits::default()).unwrap_err();
    }
    for path in ["..", "/etc/passwd", "way/canary", "missing"] {
        copy_out(place.open().as_fd(), Path::new(path), std::io::sink(), &Limits::default()).unwrap_err();
    }
    let mut out = Vec::new();
    copy_out(place.open().as_fd(), Path::new(""), &mut out, &Limits::default()).unwrap();
    assert!(!out.windows(6).any(|window| window == b"canary"), "a link was followed");
}

/// One thread swaps a directory for a link to the outside, as fast as it can; the other copies in and out.
#[test]
fn a_link_swapped_in_at_the_wrong_moment_leads_nowhere() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let place = Place::new("race");
    let outside = Place::new("race-outside");
    fs::write(outside.0.join("canary"), "canary").unwrap();
    fs::create_dir(place.0.join("real")).unwrap();
    fs::write(place.0.join("real/canary"), "harmless").unwrap();
    symlink(&outside.0, place.0.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    let bytes = archive(&[("door/planted", Kind::File, "")]);
    let (mut refused, mut passed) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (door, real, link) = (place.0.join("door"), place.0.join("real"), place.0.join("link"));
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(&real, &door);
                let _ = fs::rename(&door, &real);
                let _ = fs::rename(&link, &door);
                let _ = fs::rename(&door, &link);
            }
        });
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(1500) {
            match copy_in(place.open().as_fd(), me(), Path::new(""), &bytes[..], &Limits::default()) {
                Ok(_) => passed += 1,
                Err(_) => refused += 1,
            }
            let mut out = Vec::new();
            let _ = copy_out(place.open().as_fd(), Path::new("door/canary"), &mut out, &Limits::default());
            assert!(!out.windows(6).any(|window| window == b"canary" && !out.windows(8).any(|w| w == b"harmless")));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!outside.0.join("planted").exists(), "a file was planted outside");
    assert!(refused + passed > 100, "too few tries to mean anything");
}

#[test]
fn garbage_is_refused_and_never_panics() {
    let place = Place::new("garbage");
    let good = archive(&[("a", Kind::File, ""), ("b", Kind::Symlink, "x")]);
    let mut state = 1u64;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
        }
        let _ = unpack(&place, &bytes);
    }
}
