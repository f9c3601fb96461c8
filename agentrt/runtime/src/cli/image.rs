//! `gpve-agentrt image`: OCI archives, unpacked once for all agents.

use crate::spawner::launch::images;
use agent_kernel::archive::Limits;
use agent_kernel::image::{Digest, Store};
use clap::{Args, Subcommand};
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Image {
    /// Unpack an OCI archive (a tar of an image layout); prints the digest that a policy names it by
    #[command(after_help = "Example:\n  gpve-agentrt image import python.tar")]
    Import(Import),
}

#[derive(Args)]
pub struct Import {
    /// The daemon's directory
    #[arg(long, default_value = "/var/lib/gpve-agentrt")]
    root: PathBuf,
    /// Refuse any image but this one (sha256:...)
    #[arg(long)]
    digest: Option<String>,
    /// OCI archive
    file: PathBuf,
}

pub fn image(command: Image) -> Result<ExitCode, String> {
    let Image::Import(args) = command;
    let wanted = args.digest.as_deref().map(Digest::parse).transpose()?;
    let place = args.file.display();
    let file = File::open(&args.file).map_err(|e| format!("{place}: {e}"))?;
    let directory = images(&args.root);
    std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let store = Store::open(&directory, Limits::default()).map_err(|e| format!("{}: {e}", directory.display()))?;
    let (digest, _) = store.import(file, wanted.as_ref()).map_err(|e| format!("{place}: {e}"))?;
    println!("sha256:{}", digest.hex());
    Ok(ExitCode::SUCCESS)
}
