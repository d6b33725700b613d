//! Generates the Rust code for `synod/v1/*.proto` without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "synod/v1";
    println!("cargo:rerun-if-changed={folder}");
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|it| it == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    files.sort();
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
