//! Writes the custom resource definitions next to the crate's manifest.

fn main() -> std::io::Result<()> {
    for (file, crd) in synod_api::definitions() {
        let text = serde_yaml::to_string(&crd).expect("a definition is YAML");
        let head = "# Generated from the Rust types: cargo run -p synod-api --example crds\n";
        std::fs::write(
            format!("{}/{file}", env!("CARGO_MANIFEST_DIR")),
            format!("{head}{text}"),
        )?;
    }
    Ok(())
}
