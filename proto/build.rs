//! Generates the Rust code for `synod/v1/*.proto` without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["synod/v1/command.proto", "synod/v1/peer.proto", "synod/v1/control.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
