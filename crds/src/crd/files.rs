//! The files that are generated from the definitions: as they are, for `kubectl apply`, and as
//! templates of the chart, where values say whether they are installed and whether they stay.

use super::definitions;

const HEAD: &str = "Generated from the Rust types: cargo run -p synod-api --example crds";
/// Where the labels begin; the chart's annotation goes before them, its labels after.
const LABELS: &str = "\n  labels:\n";

/// Paths from the top of the tree, and what is in these files.
pub fn files() -> Vec<(String, String)> {
    definitions()
        .into_iter()
        .flat_map(|(file, crd)| {
            let text = serde_yaml::to_string(&crd).expect("a definition is YAML");
            let template = template(&text);
            [
                (format!("crds/{file}"), format!("# {HEAD}\n{text}")),
                (format!("charts/synod/templates/crds/{file}"), template),
            ]
        })
        .collect()
}

/// Helm takes a chart's `crds` folder at the first installation only and never updates it: so the
/// chart has them as templates.
fn template(text: &str) -> String {
    // Nothing in a description may be taken for a template's action.
    let text = text.replace("{{", "{{ \"{{\" }}");
    let (before, after) = text.split_once(LABELS).expect("definitions have labels");
    format!(
        "{{{{- /* {HEAD} */ -}}}}
{{{{- if .Values.crds.install }}}}
{before}
  {{{{- if .Values.crds.keep }}}}
  annotations:
    helm.sh/resource-policy: keep
  {{{{- end }}}}
  labels:
    {{{{- include \"synod.labels\" . | nindent 4 }}}}
{after}{{{{- end }}}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_types_say() {
        for (path, text) in files() {
            let full = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
            let written = std::fs::read_to_string(&full).unwrap_or_default();
            assert!(
                written == text,
                "{path} is not what the types say: run `cargo run -p synod-api --example crds`"
            );
        }
    }

    #[test]
    fn braces_in_a_description_are_no_action_of_the_template() {
        let text = "metadata:\n  labels:\n    a: b\ndescription: 'such as {{ name }}'\n";
        let template = template(text);
        assert!(
            template.contains("'such as {{ \"{{\" }} name }}'"),
            "{template}"
        );
    }
}
