//! Generates the Protobuf messages with a compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["penstock/v1/logs.proto"], ["."])?;
    prost_build::Config::new().compile_fds(files)?;
    println!("cargo::rerun-if-changed=penstock/v1/logs.proto");
    Ok(())
}
