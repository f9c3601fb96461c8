use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::archive::{Entry, Kind, Limits, Writer};

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gpve-image-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
    fn store(&self) -> Store {
        Store::open(&self.0, Limits { bytes: 1 << 20, ..Limits::default() }).unwrap()
    }
    fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.0).unwrap().count() == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, content) in entries {
        let entry = Entry {
            name: vec![name.as_bytes().to_vec()],
            kind: Kind::File,
            size: content.len() as u64,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            link: Vec::new(),
        };
        writer.add(&entry, *content).unwrap();
    }
    writer.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An image of these layers as an OCI archive, and its digest. `spoil` may change the blobs (name, content).
fn image(layers: &[Vec<u8>], spoil: impl Fn(&mut Vec<(String, Vec<u8>)>)) -> (Vec<u8>, Digest) {
    let packed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let describe = |kind: &str, blob: &[u8]| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, hash(blob), blob.len())
    };
    let ids = layers.iter().map(|layer| format!("{:?}", hash(layer))).collect::<Vec<_>>().join(",");
    let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#)
        .into_bytes();
    let described = packed
        .iter()
        .map(|layer| describe("application/vnd.oci.image.layer.v1.tar+gzip", layer))
        .collect::<Vec<_>>()
        .join(",");
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{described}]}}"#,
        describe("application/vnd.oci.image.config.v1+json", &config)
    )
    .into_bytes();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        describe("application/vnd.oci.image.manifest.v1+json", &manifest)
    )
    .into_bytes();
    let digest = Digest::parse(&hash(&manifest)).unwrap();
    let mut blobs = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
    ];
    for blob in packed.into_iter().chain([config, manifest]) {
        blobs.push((format!("blobs/sha256/{}", &hash(&blob)[7..]), blob));
    }
    spoil(&mut blobs);
    let entries: Vec<(&str, &[u8])> = blobs.iter().map(|(name, blob)| (name.as_str(), blob.as_slice())).collect();
    (tar(&entries), digest)
}

#[test]
fn an_image_is_imported_by_digest_layer_over_layer() {
    let place = Place::new("good");
    let (archive, digest) = image(
        &[tar(&[("bin/sh", b"one"), ("etc/gone", b"x")]), tar(&[("etc/.wh.gone", b""), ("etc/new", b"y")])],
        |_| (),
    );
    let (imported, copied) = place.store().import(&archive[..], Some(&digest)).unwrap();
    assert_eq!((imported, copied.bytes), (digest.clone(), 5));
    let root = place.store().root(&digest).unwrap();
    assert_eq!(std::fs::read(root.join("bin/sh")).unwrap(), b"one");
    assert!(!root.join("etc/gone").exists() && root.join("etc/new").exists());
    // Once more is nothing more to do; without a digest the only image is meant.
    assert_eq!(place.store().import(&archive[..], None).unwrap().1.bytes, 0);
    place.store().remove(&digest).unwrap();
    assert!(place.store().root(&digest).is_none() && place.is_empty());
}

#[test]
fn what_is_not_what_its_digest_says_is_refused_and_nothing_is_left() {
    let layer = || vec![tar(&[("f", b"content")])];
    let other = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    type Spoil = Box<dyn Fn(&mut Vec<(String, Vec<u8>)>)>;
    let spoils: Vec<(&str, Spoil, &str)> = vec![
        ("layer", Box::new(|blobs| blobs[2].1[20] ^= 1), "digest"),
        ("manifest", Box::new(|blobs| blobs.last_mut().unwrap().1.push(b' ')), "digest"),
        ("missing", Box::new(|blobs| drop(blobs.remove(2))), "not in the archive"),
        ("twice", Box::new(|blobs| blobs.push(blobs[2].clone())), "twice"),
        ("no index", Box::new(|blobs| drop(blobs.remove(1))), "not in the archive"),
        ("nonsense", Box::new(|blobs| blobs[1].1 = b"{".to_vec()), "EOF"),
        ("climbing", Box::new(|blobs| blobs[2].0 = "blobs/sha256/../x".into()), ".."),
    ];
    for (name, spoil, expected) in spoils {
        let place = Place::new(&format!("spoilt-{}", name.replace(' ', "-")));
        let (archive, digest) = image(&layer(), spoil);
        let said = place.store().import(&archive[..], Some(&digest)).unwrap_err().to_string();
        assert!(said.contains(expected), "{name}: {said}");
        assert!(place.is_empty(), "{name}: something is left");
    }
    let place = Place::new("other");
    let said = place.store().import(&image(&layer(), |_| ()).0[..], Some(&other)).unwrap_err().to_string();
    assert!(said.contains("has no manifest"), "{said}");
}

#[test]
fn a_layer_that_unpacks_without_end_is_stopped() {
    let place = Place::new("bomb");
    let (archive, digest) = image(&[tar(&[("zeros", &vec![0; 8 << 20])])], |_| ());
    assert!(archive.len() < 200_000);
    let said = place.store().import(&archive[..], Some(&digest)).unwrap_err().to_string();
    assert!(said.contains("more than"), "{said}");
    assert!(place.is_empty());
}

#[test]
fn a_hostile_layer_is_refused() {
    for entries in [[("../out", &b"x"[..])], [("/out", b"x")], [(".wh...", b"x")]] {
        let place = Place::new("hostile");
        let (archive, digest) = image(&[tar(&entries)], |_| ());
        place.store().import(&archive[..], Some(&digest)).unwrap_err();
        assert!(place.is_empty());
    }
}
