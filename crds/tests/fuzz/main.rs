//! Manifests by chance: what `synod local` and the operator read of them, and what an API server makes of them
//! by the definition. Neither takes what the other refuses, and nothing that is taken is ignored.

mod generate;
mod schema;

use serde_json::Value;
use synod_api::{Manifest, ManifestError, ReplicatedService, parse, validate};
use synod_fuzz::{corpus, fuzz, read_bytes, write_bytes};

/// Some 10 seconds of them.
const CASES: u32 = 6_000;

const DEFINITION: &str = include_str!("../../replicatedservices.yaml");

fn folder() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/manifests").to_owned()
}

/// What an API server lets in, and we refuse afterwards with a word about it: the beginning of the field's
/// path, without indices, and of what is said.
const REFUSED_LATER: &[(&str, &str)] = &[
    ("spec.template.spec.containers", "has no container"),
    ("spec.app.container", "no container of that name"),
    ("spec.app.", "no port"),
    ("spec.service.name", "is not a name of a Service"),
    ("spec.routes[].matches[].method", ""),
    ("spec.routes[].consistency", "would let any method pass"),
    ("spec.state.volume.mountPath", "cannot hold a volume"),
    ("spec.log.maxSize", "does not fit into"),
    (
        "spec.bootstrap.type",
        "needs an app whose state can be put back",
    ),
    (
        "spec.bootstrap.snapshot.path",
        "is not a folder in the claim",
    ),
    // What a text means.
    ("spec.", "is not a JSON pointer"),
    ("spec.", "is out of bounds: use"),
    ("spec.", "is not an amount of bytes"),
    ("spec.", "give an amount of bytes"),
];

/// What we take, and an API server refuses: in YAML, a number that stands where a text is meant, and what is
/// longer than an API server wants to store.
const TAKEN_HERE_ONLY: &[&str] = &["is no \"string\"", "its length is out of bounds"];

fn is_refused_later(path: &str, message: &str) -> bool {
    let path = without_indices(path);
    let known = |it: &(&str, &str)| path.starts_with(it.0) && message.contains(it.1);
    REFUSED_LATER.iter().any(known)
}

/// Why an API server refuses it.
fn refused_by_server(schema: &Value, manifest: &Value) -> Vec<String> {
    let mut complete = manifest.clone();
    schema::complete(schema, &mut complete);
    let mut found = Vec::new();
    schema::refusals(schema, "", &complete, &mut found);
    if found.is_empty() {
        schema::broken_rules(schema, &complete, &mut found);
    }
    found
}

/// A path such as `spec.routes[0].name` without its numbers.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|it| {
            inside = *it == '[' || (inside && *it != ']');
            !(inside && it.is_ascii_digit())
        })
        .collect()
}

fn check(schema: &Value, manifest: &Value) -> Result<(), String> {
    let yaml = serde_yaml::to_string(manifest).map_err(|error| error.to_string())?;
    let server = refused_by_server(schema, manifest);
    let read = match parse(&yaml) {
        Ok(read) => {
            let unexpected = server
                .iter()
                .find(|why| !TAKEN_HERE_ONLY.iter().any(|it| why.contains(it)));
            if let Some(why) = unexpected {
                return Err(format!("we take what the server refuses: {why}"));
            }
            if !server.is_empty() {
                return Ok(());
            }
            read
        }
        Err(ManifestError::Invalid(problems)) => {
            for problem in problems {
                if !problem.path.starts_with("spec") && !problem.path.starts_with("metadata") {
                    return Err(format!("a refusal without a field: {problem}"));
                }
                if server.is_empty() && !is_refused_later(&problem.path, &problem.message) {
                    return Err(format!("the server takes what we refuse: {problem}"));
                }
            }
            return Ok(());
        }
        Err(ManifestError::Field { path, message }) => {
            if server.is_empty() && !is_refused_later(&path, &message) {
                return Err(format!(
                    "the server takes what we cannot read: {path}: {message}"
                ));
            }
            if !path.starts_with("spec") || message.is_empty() {
                return Err(format!("a refusal without a field: {path}: {message}"));
            }
            return Ok(());
        }
        Err(other) => return Err(format!("it is a service: {other}")),
    };
    let written = serde_json::to_value(&read).map_err(|error| error.to_string())?;
    if !schema::is_kept(manifest, &written) {
        return Err(format!("a part of it is ignored: {written:#}"));
    }
    let again: Manifest = serde_json::from_value(written)
        .map_err(|error| format!("it does not read back: {error}"))?;
    if again != read {
        return Err("it reads back as something else".to_owned());
    }
    // As the operator gets it, with the server's defaults.
    let mut complete = manifest.clone();
    schema::complete(schema, &mut complete);
    let object: ReplicatedService = serde_json::from_value(complete)
        .map_err(|error| format!("the operator cannot read it: {error}"))?;
    if object.spec != read.spec {
        return Err(format!(
            "the operator reads {:#?} instead of {:#?}",
            object.spec, read.spec
        ));
    }
    let name = object.metadata.name.unwrap_or_default();
    if let [problem, ..] = &validate(&name, &object.spec)[..] {
        return Err(format!("the operator refuses it: {problem}"));
    }
    // Whatever is asked of it, it has an answer.
    synod_api::policy(&name, &object.spec);
    Ok(())
}

fn show(manifest: &Value) -> String {
    serde_yaml::to_string(manifest).unwrap_or_else(|error| error.to_string())
}

#[test]
fn what_was_found_before_is_read_alike_by_all() {
    let schema = schema::of_definition(DEFINITION);
    for (name, text) in corpus(folder()) {
        let manifest: Value =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        check(&schema, &manifest).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn manifests_by_chance_are_read_alike_by_all() {
    let schema = schema::of_definition(DEFINITION);
    let (taken, refused) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    fuzz(CASES, &generate::manifest(&schema), show, |manifest| {
        let count = if refused_by_server(&schema, &manifest).is_empty() {
            &taken
        } else {
            &refused
        };
        count.set(count.get() + 1);
        check(&schema, &manifest)
    });
    let (taken, refused) = (taken.get(), refused.get());
    assert!(
        taken > CASES / 10 && refused > CASES / 10,
        "{taken} of them are taken, {refused} are not"
    );
}

#[test]
fn every_rule_of_the_definition_is_known() {
    for it in synod_api::FIELD_RULES
        .iter()
        .filter(|it| it.kind == "ReplicatedService")
    {
        if !it.rule.contains("oldSelf") {
            schema::rule(it.rule);
        }
    }
}

/// Whatever the text, there is an answer, soon, and in few words.
fn answers(text: &str) -> Result<(), String> {
    let begun = std::time::Instant::now();
    let read = parse(text);
    let took = begun.elapsed();
    if took > std::time::Duration::from_secs(60) {
        return Err(format!("it took {took:?}"));
    }
    match read {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().len() < 16 << 10 => Ok(()),
        Err(error) => Err(format!("{} bytes about it", error.to_string().len())),
    }
}

#[test]
fn texts_that_mean_no_good_are_answered() {
    let head =
        "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: notes}\nspec:\n";
    let mut bomb = String::new();
    for it in 1..30 {
        let before = format!("*b{}", it - 1);
        let line = format!("  b{it}: &b{it} [{}]\n", vec![before; 8].join(", "));
        bomb.push_str(&line);
    }
    let texts = [
        format!("{head}  b0: &b0 x\n{bomb}"),
        format!("{head}  template: &t {{spec: *t}}\n"),
        format!("{head}  template: {}", "{a: ".repeat(20_000)),
        format!("{head}  template: {}", "[".repeat(10_000)),
        format!(
            "{head}  template: {{spec: {}{}}}",
            "{a: ".repeat(2_000),
            "}".repeat(2_000)
        ),
        format!("{head}  paused: !!python/object:os.system x\n"),
        format!("{head}  paused: !Some true\n"),
        format!("{head}  replicas: 1e400\n"),
        format!("{head}  replicas: .nan\n"),
        format!("{head}  replicas: 0x3\n"),
        format!("{head}  replicas: 99999999999999999999999999\n"),
        format!("{head}  ? {{a: b}}\n  : c\n"),
        format!("{head}  <<: {{replicas: 3}}\n"),
        format!("{head}  {}: x\n", "x".repeat(1 << 20)),
        format!("{head}  replicas: {}\n", "x".repeat(1 << 20)),
        format!("{head}  app: {{port: \"{}\"}}\n", "\\0".repeat(1 << 16)),
        format!("\u{feff}{head}"),
        "---\n".repeat(50_000),
        "kind: ReplicatedService\n---\n".repeat(2_000),
        format!("kind: {}\n", "x".repeat(1 << 20)),
        "{".to_owned(),
        "\u{0}".to_owned(),
        "%YAML 9.9\n---\nkind: x".to_owned(),
    ];
    for text in texts {
        answers(&text).unwrap_or_else(|why| {
            panic!("{}..: {why}", text.chars().take(200).collect::<String>())
        });
    }
}

#[test]
fn texts_changed_by_chance_are_answered() {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    let seeds: Vec<Vec<u8>> = corpus(folder())
        .into_iter()
        .map(|(_, text)| text.into_bytes())
        .collect();
    let pieces: Vec<&[u8]> = vec![
        b"\n",
        b"  ",
        b"\t",
        b": ",
        b"- ",
        b"&a ",
        b"*a",
        b"!x ",
        b"!!binary ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"'",
        b"\"",
        b"|\n",
        b">-\n",
        b"#",
        b"? ",
        b"---\n",
        b"...\n",
        b"<<: ",
        b"~",
        b"null",
        b"-0",
        b"1e999",
        b".inf",
        b"0o7",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\xc3\xa9",
        b"\x85",
        b"yes",
        b",",
    ];
    let change = (any::<Index>(), 0..8_usize, select(pieces));
    let texts =
        (select(seeds), prop::collection::vec(change, 1..6)).prop_map(|(mut text, changes)| {
            for (at, removed, piece) in changes {
                let at = at.index(text.len() + 1);
                let end = (at + removed).min(text.len());
                text.splice(at..end, piece.iter().copied());
            }
            text
        });
    fuzz(
        CASES,
        &texts,
        |it| write_bytes(it),
        |text| answers(&String::from_utf8_lossy(&text)),
    );
    // So that what is shown there can be put here.
    let text = read_bytes("kind: ReplicatedService\\nspec: !x {\\n");
    answers(&String::from_utf8_lossy(&text)).unwrap();
}
