//! Writes the custom resource definitions next to the crate's manifest and into the chart.

fn main() -> std::io::Result<()> {
    for (path, text) in synod_api::files() {
        std::fs::write(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR")), text)?;
    }
    Ok(())
}
