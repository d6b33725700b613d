//! Whatever manifest is taken, sidecars take the configuration that is made of it.

use std::collections::BTreeMap;
use std::path::Path;

use kube::Resource as _;
use synod_api::ReplicaGroup;
use synod_fuzz::fuzz;
use synod_fuzz::manifests::{changed, good};
use synod_sidecar::config::Config;

use super::super::roster::Formed;
use super::super::validate::tests::{judge, open};
use super::*;
use crate::group::configurations;

const GOOD: u32 = 300;
const CHANGED: u32 = 10_000;

/// The configurations of all clusters are read; how many there were.
fn check(manifest: &serde_json::Value) -> Result<usize, String> {
    let yaml = serde_yaml::to_string(manifest).expect("JSON is YAML");
    let Ok(manifest) = synod_api::parse(&yaml) else {
        return Ok(0);
    };
    let placed = manifest.spec.placement.iter().flatten();
    let mut views: Vec<_> = placed.map(|it| open(&it.cluster, &it.cluster)).collect();
    views.push(open("local", ""));
    let mut spec = manifest.spec;
    if spec.workload_ref.take().is_some() {
        let template =
            "{spec: {containers: [{name: notes, ports: [{name: http, containerPort: 8080}]}]}}";
        spec.template = serde_yaml::from_str(template).ok();
    }
    // What this version does not do yet is refused, with words of its own.
    let Ok(valid) = judge(&spec, Formed::No, &views) else {
        return Ok(0);
    };
    let mut count = 0;
    for (cluster, spec) in plan(&valid, &views, &Issued::default(), "synod.local").groups {
        let mut group = ReplicaGroup::new("notes", spec);
        group.meta_mut().namespace = Some("default".to_owned());
        group.meta_mut().uid = Some("uid-of-group".to_owned());
        let Ok(files) = configurations(&group, &cluster) else {
            continue;
        };
        for (name, text) in files {
            Config::parse(Path::new(&name), &text, &BTreeMap::new())
                .map_err(|error| format!("{error}\n\n{text}"))?;
            count += 1;
        }
    }
    Ok(count)
}

#[test]
fn sidecars_take_what_is_made_of_any_manifest_that_is_taken() {
    let count = std::cell::Cell::new(0);
    let show = |it: &serde_json::Value| it.to_string();
    fuzz(GOOD, &good(), show, |manifest| {
        count.set(count.get() + check(&manifest)?);
        Ok(())
    });
    assert!(
        count.get() > GOOD as usize / 10,
        "{} were made",
        count.get()
    );
    fuzz(
        CHANGED,
        &changed(),
        |it| it.manifest.to_string(),
        |case| check(&case.manifest).map(drop),
    );
}
