//! From a manifest's text to a checked [`Manifest`].

mod words;

use std::fmt;

use serde::Deserialize;
use serde_yaml::Value;

use crate::meta::Manifest;
use crate::service::{API_VERSION, KIND};
use crate::validate::{Problem, validate};

/// Why a manifest is refused: where, and what is allowed there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not YAML or JSON.
    #[error("the manifest is not valid YAML: {0}")]
    Syntax(String),
    /// No document in it is a service.
    #[error(
        "the manifest holds no {KIND}: it needs `apiVersion: {API_VERSION}` and `kind: {KIND}`{found}"
    )]
    NoService {
        /// What is there instead, to be put behind the sentence.
        found: String,
    },
    /// Several documents in it are services.
    #[error("the manifest holds {0} objects of kind {KIND}: give one at a time")]
    SeveralServices(usize),
    /// It is of an API version that this program does not know.
    #[error("apiVersion: `{0}` is not known for kind {KIND}, use `{API_VERSION}`")]
    ApiVersion(String),
    /// A field is unknown, missing, or holds what it cannot hold.
    #[error("{path}: {message}")]
    Field {
        /// Path of the field, such as `spec.routes[0].name`.
        path: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// Fields contradict each other or are out of bounds.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads the one `ReplicatedService` in a YAML or JSON text, and checks it by [`validate`].
/// Documents of other kinds in the same text are passed over, so that the file given to Kubernetes
/// can be given here too.
pub fn parse(yaml: &str) -> Result<Manifest, ManifestError> {
    let index = find(yaml)?;
    let document = serde_yaml::Deserializer::from_str(yaml)
        .nth(index)
        .expect("the document was there a moment ago");
    let service: Manifest = serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        field(&path, &message)
    })?;
    let problems = validate(&service.metadata.name, &service.spec);
    if problems.is_empty() {
        Ok(service)
    } else {
        Err(ManifestError::Invalid(problems))
    }
}

fn field(path: &str, message: &str) -> ManifestError {
    ManifestError::Field {
        path: words::shortened(if path == "." { "manifest" } else { path }),
        message: words::shortened(&words::plain(path, message)),
    }
}

fn syntax(message: String) -> ManifestError {
    match words::duplicate(&message) {
        Some((path, message)) => ManifestError::Field {
            path: words::shortened(&path),
            message: words::shortened(&message),
        },
        None => ManifestError::Syntax(words::shortened(&message)),
    }
}

/// Which document is the service.
fn find(yaml: &str) -> Result<usize, ManifestError> {
    let mut services = Vec::new();
    let mut kinds = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(yaml).enumerate() {
        let value = Value::deserialize(document).map_err(|error| syntax(error.to_string()))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        match text("kind") {
            Some(kind) if kind == KIND => services.push((index, text("apiVersion"))),
            Some(kind) => kinds.push(kind),
            None => {}
        }
    }
    match services.as_slice() {
        [(index, Some(version))] if version == API_VERSION => Ok(*index),
        [(_, version)] => Err(ManifestError::ApiVersion(words::shortened(
            version.as_deref().unwrap_or_default(),
        ))),
        [] => Err(ManifestError::NoService {
            found: if kinds.is_empty() {
                String::new()
            } else {
                words::shortened(&format!(", found {}", kinds.join(", ")))
            },
        }),
        several => Err(ManifestError::SeveralServices(several.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: notes}\n";
    const TEMPLATE: &str = "  template: {spec: {containers: [{name: notes, image: i, ports: [{containerPort: 8080}]}]}}\n";

    fn refusal(spec: &str) -> String {
        let text = format!("{HEAD}spec:\n{TEMPLATE}{spec}");
        parse(&text).expect_err(spec).to_string()
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path_and_what_is_allowed() {
        let text = refusal("  routes: [{name: a, matches: [{pth: {value: /}}]}]");
        assert!(text.starts_with("spec.routes[0].matches[0]"), "{text}");
        assert!(text.contains("unknown field `pth`"), "{text}");
        assert!(
            text.contains("`path`") && text.contains("`method`"),
            "{text}"
        );

        let text = refusal("  replica: 3");
        assert!(
            text.starts_with("spec.replica: unknown field `replica`: did you mean `replicas`?"),
            "{text}"
        );
        let text = refusal("  replicas: 3\n  replicas: 5");
        assert!(
            text.starts_with("spec.replicas: it is given twice"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_value_is_refused_with_its_path_and_what_is_allowed() {
        let text = refusal("  routes: [{name: a, consistency: Strong}]");
        assert!(text.starts_with("spec.routes[0].consistency: "), "{text}");
        assert!(
            text.contains("`Strong`") && text.contains("`BoundedStale`"),
            "{text}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_path() {
        let text = refusal("  replicas: three");
        assert_eq!(
            text,
            "spec.replicas: found the text `three`: give a whole number, 0 or more (line 6)"
        );
        let text = refusal("  ordering: {queueTimeout: 10}");
        assert!(text.starts_with("spec.ordering.queueTimeout: "), "{text}");
        let text = refusal("  ordering: {queueTimeout: 10x}");
        assert!(text.contains("1h30m"), "{text}");
        let text = refusal("  ordering: {maxBodySize: 16MB}");
        assert!(
            text.starts_with("spec.ordering.maxBodySize: ") && text.contains("16Mi"),
            "{text}"
        );
    }

    #[test]
    fn text_that_is_not_yaml_is_refused() {
        assert!(matches!(parse("a: [1"), Err(ManifestError::Syntax(_))));
        assert!(matches!(parse("\u{0}"), Err(ManifestError::Syntax(_))));
    }

    #[test]
    fn a_text_without_exactly_one_service_is_refused() {
        assert!(matches!(parse(""), Err(ManifestError::NoService { .. })));
        assert!(matches!(
            parse("[1, 2]"),
            Err(ManifestError::NoService { .. })
        ));
        let text = parse("kind: Deployment\n")
            .expect_err("no service")
            .to_string();
        assert!(text.contains("found Deployment"), "{text}");
        let one = format!("{HEAD}spec:\n{TEMPLATE}");
        let two = format!("{one}---\n{one}");
        assert_eq!(parse(&two), Err(ManifestError::SeveralServices(2)));
        let old = one.replace("v1alpha1", "v1");
        assert_eq!(
            parse(&old),
            Err(ManifestError::ApiVersion("synod.dev/v1".to_owned()))
        );
    }

    #[test]
    fn other_documents_of_the_file_are_passed_over() {
        let text = format!("kind: Namespace\nmetadata: {{name: x}}\n---\n{HEAD}spec:\n{TEMPLATE}");
        assert_eq!(parse(&text).expect("one service").metadata.name, "notes");
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let text = refusal("  replicas: 2\n  routes: [{name: A}, {name: b, maxStaleness: 1s}]");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
