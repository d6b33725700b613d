//! Writes the page of the documentation that lists all conditions and reasons.

fn main() -> std::io::Result<()> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/kubernetes/conditions.md"
    );
    std::fs::write(path, synod_operator::conditions::markdown())
}
