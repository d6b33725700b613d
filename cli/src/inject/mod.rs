//! `synod inject`: the sidecar put into manifests without a cluster. Comes in: a stream of YAML with
//! workloads, and the services that their pods are members of. Goes out: the stream with the sidecar
//! in those that ask for it, all else as it was.

mod document;
mod stream;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;
use synod_api::ReplicatedServiceSpec;

use crate::exit::Failure;
use document::{Place, inject};

/// Add the sidecar to manifests
///
/// Takes a stream of YAML documents and prints it with the sidecar in every Pod and StatefulSet whose
/// pods have the label `synod.dev/inject: SERVICE`; everything else is printed as it is. The
/// ReplicatedService of that name must be among the documents, or in a file given with --service.
/// What has the sidecar already gets it anew.
///
/// The operator's webhook does the same when pods are created. This is for clusters where the chart
/// was installed with `webhook.enabled=false`.
#[derive(Debug, clap::Args)]
pub(crate) struct InjectArgs {
    /// The manifests; `-` reads the standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// A file with the ReplicatedService; may be given several times
    #[arg(long, value_name = "FILE")]
    service: Vec<PathBuf>,
    /// Name of the cluster that the manifests are for, as its operator has it
    #[arg(long, value_name = "NAME", default_value = "local")]
    cluster: String,
    /// Region of that cluster
    #[arg(long, value_name = "NAME", default_value = "")]
    region: String,
    /// Image of the sidecar
    #[arg(long, value_name = "IMAGE", default_value = concat!("synod-sidecar:", env!("CARGO_PKG_VERSION")))]
    sidecar_image: String,
    /// What hooks of the app's container show to the sidecar; random, unless the manifest has one
    #[arg(long, value_name = "TEXT")]
    token: Option<String>,
}

/// Reads, renders, prints.
pub(crate) fn run(args: &InjectArgs) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let mut services = BTreeMap::new();
    for path in &args.service {
        let (text, name) = (read(path)?, path.display());
        let manifest = synod_api::parse(&text)
            .map_err(|error| Failure::usage(format!("the manifest {name} is refused:\n{error}")))?;
        services.insert(manifest.metadata.name, manifest.spec);
    }
    let place = Place {
        cluster: args.cluster.clone(),
        region: args.region.clone(),
        image: args.sidecar_image.clone(),
        token: args.token.clone().unwrap_or_else(random),
    };
    let (out, count) = transform(&text, services, &place).map_err(Failure::usage)?;
    if count == 0 {
        eprintln!("synod: no pod in there has the label synod.dev/inject: nothing was changed");
    }
    crate::print(&out)
}

fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn read(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))
}

/// The stream with sidecars, and how many; or every problem, one a line.
fn transform(
    text: &str,
    mut services: BTreeMap<String, ReplicatedServiceSpec>,
    place: &Place,
) -> Result<(String, usize), String> {
    let parts = stream::parts(text);
    let mut objects = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let deserializer = serde_yaml::Deserializer::from_str(part.text);
        let object = Value::deserialize(deserializer)
            .map_err(|error| format!("document {}: it is no YAML: {error}", index + 1))?;
        if object["kind"] == synod_api::KIND {
            let manifest = synod_api::Manifest::deserialize(&object)
                .map_err(|error| format!("document {}: {error}", index + 1))?;
            services.insert(manifest.metadata.name, manifest.spec);
        }
        objects.push(object);
    }
    let (mut out, mut count, mut problems) = (String::new(), 0, String::new());
    for (index, (part, mut object)) in parts.iter().zip(objects).enumerate() {
        let name = format!("document {}{}", index + 1, title(&object));
        match inject(&mut object, place, &|name| services.get(name)) {
            Ok(0) => part.keep(&mut out),
            Ok(more) => {
                count += more;
                let text = serde_yaml::to_string(&object).map_err(|error| error.to_string())?;
                part.replace(&text, &mut out);
            }
            Err(wrongs) => {
                for it in wrongs {
                    let gap = if problems.is_empty() { "" } else { "\n" };
                    write!(problems, "{gap}{name}: {}: {}", it.path, it.message)
                        .expect("a string takes everything");
                }
            }
        }
    }
    if problems.is_empty() {
        Ok((out, count))
    } else {
        Err(problems)
    }
}

/// ` (Kind name)`.
fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    match (text("/kind"), text("/metadata/name")) {
        (Some(kind), Some(name)) => format!(" ({kind} {name})"),
        (Some(kind), None) => format!(" ({kind})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
