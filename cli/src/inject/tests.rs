//! What is printed is compared, whole, with files beside this one: `testdata/<name>.in.yaml` and
//! `.out.yaml`. `SYNOD_UPDATE_GOLDEN=1` writes the latter anew; read the difference before it is
//! committed.

use std::path::PathBuf;

use super::*;

fn place() -> Place {
    Place {
        cluster: "local".to_owned(),
        region: String::new(),
        image: "synod-sidecar:1".to_owned(),
        token: "3f9a".to_owned(),
    }
}

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/inject/testdata");
    folder.join(name)
}

fn input(name: &str) -> String {
    std::fs::read_to_string(file(&format!("{name}.in.yaml"))).expect("a file")
}

fn output(text: &str) -> Result<(String, usize), String> {
    transform(text, BTreeMap::new(), &place())
}

fn refusal(text: &str) -> String {
    output(text).expect_err(text)
}

const SERVICE: &str = "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\n\
    metadata: {name: notes}\nspec: {workloadRef: {apiVersion: apps/v1, kind: StatefulSet, name: web}}\n";
const SET: &str = "kind: StatefulSet\nmetadata: {name: web}\nspec: {podManagementPolicy: Parallel, \
    updateStrategy: {type: OnDelete}, template: {metadata: {labels: {synod.dev/inject: notes}}, \
    spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}}\n";

#[test]
fn what_is_printed_is_what_the_files_say_and_printing_that_changes_nothing() {
    for name in ["stream", "pod"] {
        let (found, count) = output(&input(name)).expect(name);
        assert_eq!(count, 1, "{name}");
        let path = file(&format!("{name}.out.yaml"));
        if std::env::var_os("SYNOD_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &found).expect("written");
        }
        let expected = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(found, expected, "{}", path.display());
        let mut other = place();
        other.token = "not this one".to_owned();
        let again = transform(&found, BTreeMap::new(), &other).expect(name);
        assert_eq!(again.0, expected, "{name}, again");
    }
}

#[test]
fn a_list_is_gone_through_and_what_asks_for_nothing_stays_to_the_byte() {
    let quiet = "# kept\nkind:   ConfigMap\ndata: {a: \"1\"}\n---\n---\nkind: Deployment\nspec: {template: {}}\n";
    assert_eq!(output(quiet), Ok((quiet.to_owned(), 0)));
    let list = format!(
        "{SERVICE}---\nkind: List\nitems: [{{kind: Pod}}, {}]\n",
        flow(SET)
    );
    let (_, count) = output(&list).expect("a list");
    assert_eq!(count, 1);
}

/// A document on one line.
fn flow(document: &str) -> String {
    let value: Value = serde_yaml::from_str(document).expect("YAML");
    value.to_string()
}

#[test]
fn every_refusal_names_the_document_the_field_and_the_way_out() {
    let cases = [
        (
            SET.to_owned(),
            "document 1 (StatefulSet web): spec.template.metadata.labels.synod.dev/inject: the ReplicatedService notes",
        ),
        (
            format!("{SERVICE}---\n{}", SET.replace("Parallel", "OrderedReady")),
            "document 2 (StatefulSet web): spec.podManagementPolicy: let it be Parallel",
        ),
        (
            format!("{SERVICE}---\n{}", SET.replace("OnDelete", "RollingUpdate")),
            "spec.updateStrategy.type: let it be OnDelete",
        ),
        (
            format!("{SERVICE}---\n{}", SET.replace("StatefulSet", "Deployment")),
            "a Deployment cannot have it",
        ),
        (
            format!(
                "{SERVICE}---\n{}",
                SET.replace("spec: {containers", "spec: {hostNetwork: true, containers")
            ),
            "spec.template.spec.hostNetwork: ",
        ),
        (
            format!(
                "{SERVICE}---\n{}",
                SET.replace(
                    "containers: [{name: a, ports: [{containerPort: 80}]}]",
                    "containers: [{name: a}]"
                )
            ),
            "spec.app.port",
        ),
        (
            format!(
                "{SERVICE}---\nkind: Pod\nmetadata: {{name: web, labels: {{synod.dev/inject: notes}}}}\nspec: {{containers: [{{name: a, ports: [{{containerPort: 80}}]}}]}}\n"
            ),
            "document 2 (Pod web): metadata.name: ",
        ),
        (
            format!(
                "{}---\n{SET}",
                SERVICE.replace(
                    "spec: {",
                    "spec: {state: {type: Volume, volume: {mountPath: /data}}, "
                )
            ),
            "nothing mounted at /data",
        ),
        (
            format!(
                "{SERVICE}---\nkind: List\nitems: [{{kind: Pod}}, {}]\n",
                flow(&SET.replace("Parallel", "OrderedReady"))
            ),
            "document 2 (List): items[1].spec.podManagementPolicy",
        ),
        ("a: [".to_owned(), "document 1: it is no YAML"),
        (SERVICE.replace("workloadRef", "workload"), "document 1: "),
    ];
    for (text, part) in cases {
        let words = refusal(&text);
        assert!(words.contains(part), "{part} is not in: {words}");
    }
}

#[test]
fn modes_that_kubectl_reads_as_octal_stay_these_numbers() {
    let text = format!(
        "{SERVICE}---\n{}",
        SET.replace(
            "spec: {containers",
            "spec: {volumes: [{name: v, configMap: {name: c, defaultMode: 0644}}], containers"
        )
    );
    let (found, _) = output(&text).expect("taken");
    assert!(found.contains("defaultMode: 420"), "{found}");
}
