//! Generates the service's types from the project's proto files; protox compiles them, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let file = proto.join("gpve/runtime/v1/runtime.proto");
    println!("cargo:rerun-if-changed={}", file.display());
    let set = protox::compile([&file], [&proto])?;
    // Messages are stored on disk and printed by the command line as JSON; states and reasons as words there.
    let mut builder = tonic_prost_build::configure()
        .btree_map(".")
        .message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]")
        .enum_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"snake_case\")]");
    for (field, with) in [
        ("Agent.state", "state"),
        ("Event.state", "state"),
        ("Exit.reason", "reason"),
        ("RestartPolicy.when", "when"),
        ("AgentSpec.ttl_action", "ttl_action"),
    ] {
        builder = builder
            .field_attribute(format!(".gpve.runtime.v1.{field}"), format!("#[serde(with = \"crate::words::{with}\")]"));
    }
    builder.compile_fds(set)?;
    Ok(())
}
