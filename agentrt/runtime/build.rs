//! Generates the service's types from the project's proto files; protox compiles them, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let file = proto.join("gpve/runtime/v1/runtime.proto");
    println!("cargo:rerun-if-changed={}", file.display());
    let set = protox::compile([&file], [&proto])?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
