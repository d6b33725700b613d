//! Manifests by chance, against the schema that API servers go by: what one takes, the other takes, and what is
//! refused is told with its path and the way out.

use std::collections::BTreeSet;

use proptest::prelude::{any, prop};
use proptest::sample::{Index, select};
use proptest::strategy::Strategy;
use serde_json::Value;
use synod_api::{FIELD_RULES, ManifestError, parse};
use synod_fuzz::manifests::{Changed, changed, good, schema};
use synod_fuzz::schema::{violations, with_defaults};
use synod_fuzz::{changed as changed_bytes, corpus, fuzz, read_bytes, write_bytes};

const GOOD: u32 = 1_000;
const CHANGED: u32 = 6_000;
const TEXTS: u32 = 2_000;

/// Fields of which the code asks more than the schema and the rules of the custom resource do.
const ASKS_MORE: &[&str] = &[
    "apiVersion",
    "kind",
    "spec.app.applyTimeout",
    "spec.app.container",
    "spec.app.passthroughPorts[].port",
    "spec.app.port",
    "spec.bootstrap.snapshot.path",
    "spec.divergence.ignoreJSONPointers[]",
    "spec.leader.preferredRegions[]",
    "spec.log.volumeClaim.spec.resources.requests.storage",
    "spec.ordering.idempotency.header",
    "spec.ordering.idempotency.keepFor",
    "spec.ordering.idempotency.maxSize",
    "spec.ordering.idempotency.principal.cookies[]",
    "spec.ordering.idempotency.principal.headers[]",
    "spec.ordering.lanes[].key.header",
    "spec.ordering.lanes[].key.jsonPointer",
    "spec.ordering.queueTimeout",
    "spec.placement[].witnesses",
    "spec.routes[].consistency",
    "spec.routes[].matches[].method",
    "spec.routes[].matches[].path.value",
    "spec.service.name",
    "spec.sidecar.ports.admin",
    "spec.sidecar.ports.http",
    "spec.sidecar.ports.peer",
    "spec.state.applied.method",
    "spec.state.applied.path",
    "spec.state.maxReplay",
    "spec.state.snapshot.every.logSize",
    "spec.state.snapshot.http.restore.method",
    "spec.state.snapshot.http.restore.path",
    "spec.state.snapshot.http.save.method",
    "spec.state.snapshot.http.save.path",
    "spec.state.snapshot.http.settle.method",
    "spec.state.snapshot.http.settle.path",
    "spec.state.snapshot.transferRate",
    "spec.state.volume.volumeClaim.spec.resources.requests.storage",
    "spec.template.spec.containers",
    "spec.template.spec.containers[].name",
    "spec.template.spec.containers[].ports[].containerPort",
    "spec.workloadRef.apiVersion",
    "spec.workloadRef.kind",
    "spec.workloadRef.name",
];

fn yaml(value: &Value) -> String {
    serde_yaml::to_string(value).expect("JSON is YAML")
}

/// Without the numbers of entries.
fn plain(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('[') {
        match part.split_once(']') {
            Some((_, rest)) => out.extend(["[]", rest]),
            None => out.push_str(part),
        }
    }
    out
}

/// Paths and messages of a refusal.
fn told(error: &ManifestError) -> Vec<(String, String)> {
    match error {
        ManifestError::Field { path, message } => vec![(path.clone(), message.clone())],
        ManifestError::Invalid(problems) => problems
            .iter()
            .map(|it| (it.path.clone(), it.message.clone()))
            .collect(),
        ManifestError::ApiVersion(_) => vec![("apiVersion".to_owned(), error.to_string())],
        ManifestError::NoService { .. } => vec![("kind".to_owned(), error.to_string())],
        ManifestError::Syntax(_) | ManifestError::SeveralServices(_) => {
            vec![(String::new(), error.to_string())]
        }
    }
}

/// One is the other, or holds it.
fn are_near(a: &str, b: &str) -> bool {
    let holds = |a: &str, b: &str| {
        let rest = b.strip_prefix(a);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    holds(a, b) || holds(b, a)
}

fn check_good(schema: &Value, manifest: &Value) -> Result<(), String> {
    let text = yaml(manifest);
    let parsed = parse(&text).map_err(|error| format!("refused: {error}"))?;
    let found = violations(schema, manifest);
    if !found.is_empty() {
        return Err(format!("the schema refuses {found:?}"));
    }
    let written = serde_json::to_value(&parsed).expect("it is JSON");
    for (what, text) in [
        (
            "as YAML",
            serde_yaml::to_string(&parsed).expect("it is YAML"),
        ),
        ("as JSON", written.to_string()),
        ("with defaults", yaml(&with_defaults(schema, manifest))),
    ] {
        let again = parse(&text).map_err(|error| format!("{what} refused: {error}"))?;
        if again != parsed {
            return Err(format!(
                "{what} it is another: {again:?}, before {parsed:?}"
            ));
        }
    }
    let found = violations(schema, &written);
    if !found.is_empty() {
        return Err(format!("as it is written, the schema refuses {found:?}"));
    }
    Ok(())
}

/// What a change of the manifest leads to; the fields of which more was asked than the schema says.
fn check_changed(schema: &Value, case: &Changed) -> Result<Vec<String>, String> {
    let refused = violations(schema, &case.manifest);
    let error = match parse(&yaml(&case.manifest)) {
        Ok(_) if refused.is_empty() => return Ok(Vec::new()),
        Ok(_) => return Err(format!("taken, and the schema refuses {refused:?}")),
        Err(error) => error,
    };
    let told = told(&error);
    for (path, message) in &told {
        let fits = path.len() < 1_200 && (15..1_200).contains(&message.len());
        if !fits || path.is_empty() {
            return Err(format!("no help: {path}: {message}"));
        }
    }
    let paths = || told.iter().map(|(path, _)| path.as_str());
    for path in &refused {
        if !paths().any(|it| are_near(it, path)) && matches!(error, ManifestError::Invalid(_)) {
            return Err(format!("{path} is refused by the schema, said was {error}"));
        }
    }
    let is_refused = |path: &str| refused.iter().any(|it| are_near(it, path));
    let more: Vec<&str> = paths().filter(|it| !is_refused(it)).collect();
    if let (ManifestError::Field { path, .. }, [_]) = (&error, &more[..]) {
        if !is_nothing(&case.manifest, path) {
            return Err(format!("the schema takes it, the code says {error}"));
        }
        return Ok(Vec::new());
    }
    if more.is_empty() && !paths().any(|it| are_near(it, &case.path) || is_refused(it)) {
        return Err(format!("{} was changed, said was {error}", case.path));
    }
    Ok(more.into_iter().map(plain).collect())
}

/// Nothing is given there: API servers take that as if the field were not there, the code says so.
fn is_nothing(manifest: &Value, path: &str) -> bool {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    manifest.pointer(&pointer).is_none_or(Value::is_null)
}

#[test]
fn a_good_manifest_is_taken_and_the_same_when_it_is_written() {
    let schema = schema();
    fuzz(GOOD, &good(), yaml, |manifest| {
        check_good(&schema, &manifest)
    });
}

#[test]
fn a_changed_manifest_is_taken_by_the_code_if_the_schema_takes_it_or_is_refused_with_the_way_out() {
    let schema = schema();
    let asked = std::cell::RefCell::new(BTreeSet::new());
    let show = |case: &Changed| format!("# {}\n{}", case.path, yaml(&case.manifest));
    fuzz(CHANGED, &changed(), show, |case| {
        asked.borrow_mut().extend(check_changed(&schema, &case)?);
        Ok(())
    });
    let by_rules = FIELD_RULES
        .iter()
        .filter_map(|it| it.message.split_once(": "));
    let by_rules: BTreeSet<&str> = by_rules.map(|(path, _)| path).collect();
    let asked = asked.into_inner();
    let mut asked = asked.iter().map(String::as_str);
    let more = asked.find(|it| !by_rules.contains(it) && !ASKS_MORE.contains(it));
    assert_eq!(more, None, "of it more is asked than the API server does");
}

/// Manifests as text, with things that only YAML has.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        "\t".to_owned(),
        "    \t- ".to_owned(),
        "\n---\n".to_owned(),
        "\n...\n".to_owned(),
        "%YAML 1.1\n---\n".to_owned(),
        "\nspec:\n  paused: true\n".to_owned(),
        "\n  paused: true\n  paused: true\n".to_owned(),
        "\n  <<: &a {paused: true}\n".to_owned(),
        "\n  <<: *a\n".to_owned(),
        "&a ".to_owned(),
        "*a".to_owned(),
        "!!binary ".to_owned(),
        "!x ".to_owned(),
        "? ".to_owned(),
        "|\n".to_owned(),
        ">-\n".to_owned(),
        "# ".to_owned(),
        "\u{feff}".to_owned(),
        "\u{2028}".to_owned(),
        "\u{0}".to_owned(),
        "0x10".to_owned(),
        "1_000".to_owned(),
        ".nan".to_owned(),
        "[".repeat(20_000),
        "{a: ".repeat(5_000),
        "- ".repeat(5_000),
        "[".repeat(100) + &"]".repeat(100),
        "\"".to_owned(),
        "'".to_owned(),
        ": ".to_owned(),
        "\n ".to_owned(),
    ];
    let pieces: Vec<Vec<u8>> = pieces.into_iter().map(String::into_bytes).collect();
    (
        good(),
        prop::collection::vec((any::<Index>(), select(pieces)), 0..3),
    )
        .prop_flat_map(|(manifest, pieces)| {
            let mut text = yaml(&manifest).into_bytes();
            for (at, piece) in pieces {
                let at = at.index(text.len() + 1);
                text.splice(at..at, piece);
            }
            changed_bytes(vec![text])
        })
}

/// What is taken is good, and what is refused is told in few words.
fn check_text(schema: &Value, bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    match parse(&text) {
        Ok(parsed) => {
            let written = serde_json::to_value(&parsed).expect("it is JSON");
            check_good(schema, &written)
        }
        Err(error) => {
            let told = told(&error);
            let longest = told
                .iter()
                .map(|(path, message)| path.len() + message.len());
            match longest.max() {
                Some(15..2_400) => Ok(()),
                _ => Err(format!("no help: {error}")),
            }
        }
    }
}

#[test]
fn a_text_that_is_damaged_is_refused_in_few_words_or_good() {
    let schema = schema();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/manifests");
    for (name, text) in corpus(folder) {
        check_text(&schema, &read_bytes(&text)).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    let show = |bytes: &Vec<u8>| write_bytes(bytes);
    fuzz(TEXTS, &texts(), show, |bytes| check_text(&schema, &bytes));
}
