//! Turns `proto/proto/**/*.proto` into `proto/src/generated/aap.v1.rs`, without a system protobuf compiler.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("find the proto crate")?;
    let include = root.join("proto");
    let files = ["session", "operator", "node", "resources", "landing", "peer", "enrolment", "access"]
        .map(|name| include.join(format!("aap/v1/{name}.proto")));
    let descriptors = protox::compile(&files, [&include]).context("compile the .proto files")?;
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(root.join("src/generated"))
        .compile_fds(descriptors)
        .context("generate Rust")
}
