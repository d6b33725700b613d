//! From a manifest's text to a checked [`Manifest`].

mod bounds;
mod json;
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

/// Reads the one `ReplicatedService` in a YAML or JSON text, and checks it by [`validate`] and by the
/// bounds that the API server knows.
/// Documents of other kinds in the same text are passed over, so that the file given to Kubernetes
/// can be given here too.
pub fn parse(yaml: &str) -> Result<Manifest, ManifestError> {
    read(yaml).map_err(ManifestError::shortened)
}

fn read(yaml: &str) -> Result<Manifest, ManifestError> {
    let (index, document) = find(yaml)?;
    let object = json::object(document)?;
    let typed = serde_yaml::Deserializer::from_str(yaml)
        .nth(index)
        .expect("the document was there a moment ago");
    // This one knows the lines. It takes numbers for text, which the next does not.
    let _: Manifest = serde_path_to_error::deserialize(typed).map_err(field)?;
    let service: Manifest = serde_path_to_error::deserialize(&object).map_err(field)?;
    let mut problems = validate(&service.metadata.name, &service.spec);
    for problem in bounds::check(&object) {
        if !problems.iter().any(|it| it.path == problem.path) {
            problems.push(problem);
        }
    }
    if problems.is_empty() {
        Ok(service)
    } else {
        Err(ManifestError::Invalid(problems))
    }
}

fn field(error: serde_path_to_error::Error<impl fmt::Display>) -> ManifestError {
    let path = error.path().to_string();
    let message = error.into_inner().to_string();
    ManifestError::Field {
        message: words::plain(&path, &message),
        path: if path == "." {
            "manifest".to_owned()
        } else {
            path
        },
    }
}

fn syntax(message: String) -> ManifestError {
    match words::duplicate(&message) {
        Some((path, message)) => ManifestError::Field { path, message },
        None => ManifestError::Syntax(message),
    }
}

/// The document that is the service, and its number.
fn find(yaml: &str) -> Result<(usize, Value), ManifestError> {
    let mut services = Vec::new();
    let mut kinds = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(yaml).enumerate() {
        let value = Value::deserialize(document).map_err(|error| syntax(error.to_string()))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        match text("kind") {
            Some(kind) if kind == KIND => services.push((index, value)),
            Some(kind) => kinds.push(kind),
            None => {}
        }
    }
    match services.len() {
        0 => Err(ManifestError::NoService {
            found: if kinds.is_empty() {
                String::new()
            } else {
                format!(", found {}", kinds.join(", "))
            },
        }),
        1 => {
            let (index, value) = services.remove(0);
            match value.get("apiVersion").and_then(Value::as_str) {
                Some(API_VERSION) => Ok((index, value)),
                other => Err(ManifestError::ApiVersion(
                    other.unwrap_or_default().to_owned(),
                )),
            }
        }
        several => Err(ManifestError::SeveralServices(several)),
    }
}

// === impl ManifestError ===

impl ManifestError {
    /// It repeats what is in the manifest, which may be of any length.
    fn shortened(self) -> Self {
        let short = |text: String| words::shortened(&text);
        match self {
            Self::Syntax(text) => Self::Syntax(short(text)),
            Self::NoService { found } => Self::NoService {
                found: short(found),
            },
            Self::ApiVersion(found) => Self::ApiVersion(short(found)),
            Self::Field { path, message } => Self::Field {
                path: short(path),
                message: short(message),
            },
            Self::Invalid(problems) => {
                let short = |it: Problem| Problem {
                    path: short(it.path),
                    message: short(it.message),
                };
                Self::Invalid(problems.into_iter().map(short).collect())
            }
            Self::SeveralServices(_) => self,
        }
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
    fn a_number_where_text_is_meant_is_refused_as_the_api_server_does() {
        let text = refusal("  service: {labels: {tier: 1}}");
        assert_eq!(
            text,
            "spec.service.labels.tier: found `1`: give text, in quotes"
        );
        let text = refusal("  app: {container: true}");
        assert!(
            text.starts_with("spec.app.container: found `true`: give text"),
            "{text}"
        );
    }

    #[test]
    fn what_json_has_no_word_for_is_refused_with_its_path() {
        for (spec, path) in [
            (
                "  sidecar: {resources: {limits: &a {cpu: 1}, requests: {<<: *a}}}",
                "spec.sidecar.resources.requests.<<: mappings are not merged",
            ),
            (
                "  sidecar: {resources: {limits: !big {cpu: 1}}}",
                "spec.sidecar.resources.limits: the tag `!big`",
            ),
            (
                "  sidecar: {resources: {limits: {cpu: .inf}}}",
                "spec.sidecar.resources.limits.cpu: found `.inf`",
            ),
            (
                "  sidecar: {resources: {limits: {[a]: 1}}}",
                "spec.sidecar.resources.limits: it has a key",
            ),
            (
                "  sidecar: {resources: {limits: {1: 1, '1': 2}}}",
                "spec.sidecar.resources.limits.1: it is given twice",
            ),
        ] {
            let text = refusal(spec);
            assert!(text.starts_with(path), "{text}");
        }
    }

    #[test]
    fn bounds_of_the_schema_hold_here_too_and_nothing_is_said_twice() {
        let long = "a".repeat(254);
        let text = refusal(&format!("  divergence: {{ignoreHeaders: ['', {long}]}}"));
        assert_eq!(
            text,
            "spec.divergence.ignoreHeaders[0]: 0 characters are out of bounds: at least 1\n\
             spec.divergence.ignoreHeaders[1]: 254 characters are out of bounds: at most 64"
        );
        let text = refusal("  replicas: 11");
        assert_eq!(text.lines().count(), 1, "{text}");
        let text = refusal(&format!("  routes: [{{name: {}}}]", "a".repeat(100_000)));
        assert!(text.len() < 2_000, "{} bytes", text.len());
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
