//! The tables of the README and the folder of scripts agree, and no script is a mere show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use synod_scenarios::{Item, Script, find};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scripts() -> BTreeMap<String, Script> {
    let found = find(&folder().join("scripts")).expect("the scripts are there");
    let read = |(name, path): (String, _)| {
        let text = std::fs::read_to_string(path).expect("it can be read");
        let script = Script::parse(&text);
        let script = script.unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, script)
    };
    found.into_iter().map(read).collect()
}

/// Rows of both tables: what each is about, and its scripts.
fn rows() -> Vec<(String, Vec<String>)> {
    let readme = std::fs::read_to_string(folder().join("README.md")).expect("it is there");
    let rows = readme.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, about, _, scripts, _] = cells[..] else {
            return None;
        };
        let scripts: Vec<String> = scripts
            .split(", ")
            .filter_map(|it| Some(it.strip_prefix('`')?.strip_suffix('`')?.to_owned()))
            .collect();
        (!scripts.is_empty()).then(|| (about.to_owned(), scripts))
    });
    rows.collect()
}

#[test]
fn the_tables_name_all_scripts_and_no_others() {
    let scripts = scripts();
    let named: BTreeSet<String> = rows()
        .into_iter()
        .flat_map(|(_, scripts)| scripts)
        .collect();
    let there: BTreeSet<String> = scripts.keys().cloned().collect();
    assert_eq!(
        named.difference(&there).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "named in the README, and not there"
    );
    assert_eq!(
        there.difference(&named).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "there, and not named in the README"
    );
    assert!(there.len() >= 80, "{} scripts", there.len());
}

#[test]
fn a_script_says_itself_which_rule_it_is_for() {
    let scripts = scripts();
    let is_rule = |about: &str| {
        let mut letters = about.chars();
        letters.next().is_some_and(|it| it.is_ascii_uppercase())
            && letters.next().is_some_and(|it| it.is_ascii_digit())
    };
    let rules = rows().into_iter().filter(|(about, _)| is_rule(about));
    let mut looked_at = 0;
    for (rule, named) in rules {
        for name in named {
            let about = scripts[&name].about.join(" ");
            let mut words = about.split(|it: char| !it.is_alphanumeric());
            assert!(words.any(|it| it == rule), "{name} does not mention {rule}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 80, "{looked_at}");
}

#[test]
fn every_script_claims_something() {
    for (name, script) in scripts() {
        let claims = script
            .items
            .iter()
            .any(|item| matches!(item, Item::Command { text, .. } if text.starts_with("expect ")));
        assert!(claims, "{name} has no `expect`");
        let area = name.split('/').next().unwrap_or_default();
        let begin = format!("{area}: ");
        assert!(
            script.title.starts_with(&begin),
            "{name}: `{}`",
            script.title
        );
    }
}
