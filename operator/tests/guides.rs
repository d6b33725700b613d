//! What guides show against the code: the manifest that readers apply first.

use std::path::PathBuf;

use serde_json::Value;
use synod_api::ReplicatedService;

fn manifest(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, rest) = text.split_once("```yaml\n").expect("a manifest");
    let (yaml, _) = rest.split_once("```").expect("its end");
    yaml.to_owned()
}

#[test]
fn the_readmes_manifest_is_that_of_the_first_service() {
    assert_eq!(
        manifest("README.md"),
        manifest("docs/kubernetes/first-service.md")
    );
}

#[test]
fn the_first_manifest_is_one_that_the_operator_takes() {
    let value: Value = serde_yaml::from_str(&manifest("README.md")).expect("YAML");
    let service: ReplicatedService = serde_json::from_value(value).expect("a ReplicatedService");
    let name = service.metadata.name.unwrap_or_default();
    assert_eq!(synod_api::validate(&name, &service.spec), []);
}
