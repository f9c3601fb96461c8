//! The store of images: OCI archives imported by digest, unpacked once, read-only for every agent.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Digest;
use crate::archive::{ArchiveError, Copied, Kind, Limits, Reader, Result, Unpacker};

/// Manifests, indexes and configurations beyond this size are refused.
const DOCUMENT: u64 = 4 << 20;

/// A directory of unpacked images, each in a directory named by the digest of its manifest.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Limits,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Store {
    /// A store in `directory`, which is made where it is missing.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self> {
        fs::create_dir_all(directory)
            .map_err(|error| ArchiveError::io(format!("making {}", directory.display()), error))?;
        Ok(Self { directory: directory.to_owned(), limits })
    }

    /// Where an image is unpacked, if it is here.
    pub fn root(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.directory.join(digest.hex()).join("root");
        path.is_dir().then_some(path)
    }

    /// Import an archive of the OCI image layout (tar). `wanted` is the digest of the manifest to import; without, the
    /// archive must hold one image for this architecture. Every blob is checked against its digest.
    ///
    /// Nothing is in the store unless everything was right: the image appears by one rename.
    pub fn import(&self, archive: impl Read, wanted: Option<&Digest>) -> Result<(Digest, Copied)> {
        let staging = self.directory.join(format!(".importing-{}-{}", std::process::id(), unique()));
        let cleaned = Cleaned(&staging);
        fs::create_dir(&staging).map_err(|error| ArchiveError::io(format!("making {}", staging.display()), error))?;
        let blobs = self.blobs(archive, &staging)?;
        let (digest, manifest) = choose(&blobs, wanted)?;
        if self.root(&digest).is_some() {
            return Ok((digest, Copied::default()));
        }
        let copied = self.unpack(&blobs, &manifest, &staging)?;
        let place = self.directory.join(digest.hex());
        fs::remove_dir_all(&blobs).map_err(|error| ArchiveError::io("removing blobs", error))?;
        match fs::rename(&staging, &place) {
            Ok(()) => std::mem::forget(cleaned),
            // Another import of the same image was faster; it has the same content.
            Err(_) if self.root(&digest).is_some() => {}
            Err(error) => return Err(ArchiveError::io(format!("renaming to {}", place.display()), error)),
        }
        Ok((digest, copied))
    }

    /// Remove an image; agents that run on it must be gone.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.directory.join(digest.hex());
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ArchiveError::io(format!("removing {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Take the blobs out of the archive, each checked against its name.
    fn blobs(&self, archive: impl Read, staging: &Path) -> Result<PathBuf> {
        let blobs = staging.join("blobs");
        fs::create_dir(&blobs).map_err(|error| ArchiveError::io("making a directory", error))?;
        let mut reader = Reader::new(archive, self.limits);
        while let Some(entry) = reader.next_entry()? {
            let path = entry.path();
            let (name, digest) = match &entry.name[..] {
                [name] if name == b"index.json" => ("index.json".to_owned(), None),
                [first, second, hex] if first == b"blobs" && second == b"sha256" && entry.kind == Kind::File => {
                    let digest = Digest::parse(&format!("sha256:{}", String::from_utf8_lossy(hex)));
                    let digest = digest.map_err(|why| ArchiveError::refused(&path, why))?;
                    (digest.hex().to_owned(), Some(digest))
                }
                // The layout's version, directories, annotations of tools: not needed.
                _ => continue,
            };
            if entry.kind != Kind::File {
                return Err(ArchiveError::refused(&path, "it must be a regular file"));
            }
            let target = blobs.join(&name);
            let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
            let mut file = made.map_err(|_| ArchiveError::refused(&path, "it is in the archive twice"))?;
            let hash = copy_hashed(&mut reader, &mut file)?;
            if digest.as_ref().is_some_and(|digest| digest.hex() != hash) {
                return Err(ArchiveError::refused(&path, format!("its content has the digest sha256:{hash}")));
            }
        }
        Ok(blobs)
    }

    fn unpack(&self, blobs: &Path, manifest: &Manifest, staging: &Path) -> Result<Copied> {
        let config: Configuration = document(blobs, &manifest.config)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ArchiveError::refused(
                b"",
                "its configuration and its manifest differ in the number of layers",
            ));
        }
        let root = staging.join("root");
        fs::create_dir(&root).map_err(|error| ArchiveError::io("making a directory", error))?;
        let top = File::open(&root).map_err(|error| ArchiveError::io("opening the image's root", error))?;
        let mut sum = Copied::default();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let digest = Digest::parse(&layer.digest).map_err(|why| ArchiveError::refused(b"", why))?;
            let file = File::open(blobs.join(digest.hex()))
                .map_err(|_| ArchiveError::refused(layer.digest.as_bytes(), "this layer is not in the archive"))?;
            let file = BufReader::with_capacity(1 << 16, file);
            let content: Box<dyn Read> = match layer.media_type.rsplit_once('.').map(|(_, last)| last) {
                Some("tar" | "v1.tar") => Box::new(file),
                Some("tar+gzip" | "gzip" | "diff.tar.gzip") => Box::new(flate2::read::MultiGzDecoder::new(file)),
                _ => {
                    let why = format!("layers of type {} are not known: only tar and tar+gzip", layer.media_type);
                    return Err(ArchiveError::refused(layer.digest.as_bytes(), why));
                }
            };
            // One limit over all layers: what is left of it.
            let left = Limits { bytes: self.limits.bytes - sum.bytes.min(self.limits.bytes), ..self.limits };
            let mut hashed = Hashed { from: content, hash: Sha256::new(), left: left.bytes.saturating_mul(2) };
            let copied = Unpacker::layer(top.as_raw_fd()).unpack(&mut Reader::new(&mut hashed, left))?;
            sum.entries += copied.entries;
            sum.bytes += copied.bytes;
            std::io::copy(&mut hashed, &mut std::io::sink())
                .map_err(|error| ArchiveError::io("reading a layer", error))?;
            let real = format!("sha256:{}", hex(&hashed.hash.finalize()));
            if real != *diff_id {
                let why = format!("it unpacks to {real}, and the configuration says {diff_id}");
                return Err(ArchiveError::refused(layer.digest.as_bytes(), why));
            }
        }
        Ok(sum)
    }
}

/// The manifest to import, and its digest.
fn choose(blobs: &Path, wanted: Option<&Digest>) -> Result<(Digest, Manifest)> {
    let index = read_document(&blobs.join("index.json"))?;
    let mut found = Vec::new();
    collect(blobs, &index, 0, &mut found)?;
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let fits = |d: &&Descriptor| match (wanted, &d.platform) {
        (Some(wanted), _) => d.digest == wanted.to_string(),
        (None, Some(platform)) => platform.os == "linux" && platform.architecture == architecture,
        (None, None) => true,
    };
    let fitting: Vec<&Descriptor> = found.iter().filter(fits).collect();
    let [one] = fitting[..] else {
        let known = found.iter().map(|d| d.digest.as_str()).collect::<Vec<_>>().join(", ");
        let why = match wanted {
            Some(wanted) => format!("it has no manifest {wanted}; it has {known}"),
            None => format!("it has {} images for linux/{architecture}: say which, of {known}", fitting.len()),
        };
        return Err(ArchiveError::refused(b"index.json", why));
    };
    let digest = Digest::parse(&one.digest).map_err(|why| ArchiveError::refused(b"index.json", why))?;
    Ok((digest, document(blobs, one)?))
}

/// Manifests of an index, those of nested indexes included.
fn collect(blobs: &Path, text: &[u8], depth: u32, into: &mut Vec<Descriptor>) -> Result<()> {
    let index: Index = parse("index", text)?;
    for descriptor in index.manifests {
        if descriptor.media_type.ends_with(".index.v1+json") || descriptor.media_type.contains("manifest.list") {
            if depth >= 3 {
                return Err(ArchiveError::refused(b"index.json", "indexes within indexes, too deep"));
            }
            let digest = Digest::parse(&descriptor.digest).map_err(|why| ArchiveError::refused(b"index.json", why))?;
            let inner = blobs.join(digest.hex());
            if inner.exists() {
                collect(blobs, &read_document(&inner)?, depth + 1, into)?;
            }
        } else {
            into.push(descriptor);
        }
        if into.len() > 1000 {
            return Err(ArchiveError::refused(b"index.json", "more than 1000 manifests"));
        }
    }
    Ok(())
}

fn document<T: for<'de> Deserialize<'de>>(blobs: &Path, descriptor: &Descriptor) -> Result<T> {
    let digest = Digest::parse(&descriptor.digest).map_err(|why| ArchiveError::refused(b"", why))?;
    let text = read_document(&blobs.join(digest.hex()))?;
    if text.len() as u64 != descriptor.size {
        return Err(ArchiveError::refused(descriptor.digest.as_bytes(), "its size is not the one that is stated"));
    }
    parse(&descriptor.digest, &text)
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| ArchiveError::refused(what.as_bytes(), error.to_string()))
}

fn read_document(path: &Path) -> Result<Vec<u8>> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
    let file = File::open(path).map_err(|_| ArchiveError::refused(&name, "this document is not in the archive"))?;
    let mut text = Vec::new();
    file.take(DOCUMENT + 1).read_to_end(&mut text).map_err(|error| ArchiveError::io("reading a document", error))?;
    if text.len() as u64 > DOCUMENT {
        return Err(ArchiveError::refused(&name, format!("a document of more than {DOCUMENT} bytes")));
    }
    Ok(text)
}

fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0u8; 1 << 16];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(got) => {
                hash.update(&chunk[..got]);
                to.write_all(&chunk[..got]).map_err(|error| ArchiveError::io("writing a blob", error))?;
            }
            Err(error) => return Err(ArchiveError::io("reading the archive", error)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Hashes what is read through it, and ends a bomb that unpacks without end.
struct Hashed {
    from: Box<dyn Read>,
    hash: Sha256,
    left: u64,
}

impl Read for Hashed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let got = self.from.read(into)?;
        self.hash.update(&into[..got]);
        self.left = self
            .left
            .checked_sub(got as u64)
            .ok_or_else(|| std::io::Error::other("it unpacks to more than is allowed"))?;
        Ok(got)
    }
}

/// Removes a directory that was left unfinished.
struct Cleaned<'a>(&'a Path);

impl Drop for Cleaned<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}
