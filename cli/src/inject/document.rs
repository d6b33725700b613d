//! One object of a stream: whether its pods ask for a sidecar, and the object with it. Pure.

use serde_json::{Value, json};
use synod_api::{GroupApp, RawObject, ReplicatedServiceSpec, StateType};
use synod_inject::{
    AppState, InjectedApp, Injection, LogVolume, Member, Way, asked, names, render, state_volume,
};

/// What the sidecars are made from besides their service.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) cluster: String,
    pub(super) region: String,
    pub(super) image: String,
    /// What hooks show to the sidecar, unless the object has one already.
    pub(super) token: String,
}

/// A service by its name.
pub(super) type Find<'a> = dyn Fn(&str) -> Option<&'a ReplicatedServiceSpec> + 'a;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) path: String,
    pub(super) message: String,
}

/// Where the pods of an object are described, by its kind.
const TEMPLATES: [(&str, &str); 7] = [
    ("Pod", ""),
    ("StatefulSet", "/spec/template"),
    ("Deployment", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// Puts the sidecar into the object, or into those of a list, where it is asked for. Returns how many
/// got one.
pub(super) fn inject(
    object: &mut Value,
    place: &Place,
    find: &Find<'_>,
) -> Result<usize, Vec<Wrong>> {
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        let (mut count, mut wrongs) = (0, Vec::new());
        for (index, item) in items.iter_mut().enumerate() {
            match inject(item, place, find) {
                Ok(more) => count += more,
                Err(found) => wrongs.extend(found.into_iter().map(|it| Wrong {
                    path: format!("items[{index}].{}", it.path),
                    ..it
                })),
            }
        }
        return if wrongs.is_empty() {
            Ok(count)
        } else {
            Err(wrongs)
        };
    }
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let found = TEMPLATES.iter().find(|(of, _)| *of == kind);
    let Some((kind, pointer)) = found else {
        return Ok(0);
    };
    let template = object.pointer(pointer).and_then(Value::as_object);
    let Some(service) = template.and_then(asked).map(str::to_owned) else {
        return Ok(0);
    };
    let dotted = pointer.trim_start_matches('/').replace('/', ".");
    let dot = if dotted.is_empty() { "" } else { "." };
    let label = format!("{dotted}{dot}metadata.labels.{}", names::INJECT_LABEL);
    let spec = find(&service).ok_or_else(|| {
        wrong(
            &label,
            format!(
                "the ReplicatedService {service} is not among the documents: add it, or give its \
                 file with --service"
            ),
        )
    })?;
    let mut injection = match *kind {
        "Pod" => of_pod(object, &service, place)?,
        "StatefulSet" => of_set(object, &service, place)?,
        _ => {
            return Err(wrong(
                &label,
                format!(
                    "a {kind} cannot have it: each copy needs a name and a volume that stay with \
                     it. Use a StatefulSet, or take the label out and let the service's \
                     spec.workloadRef name this object"
                ),
            ));
        }
    };
    let template = object.pointer_mut(pointer).expect("looked at above");
    octal(template);
    describe(&mut injection, spec, template, &format!("{dotted}{dot}"))?;
    if let Some(token) = token_of(template) {
        injection.token = token;
    }
    let rendered = render(template, &injection).map_err(|error| {
        let problems = error.problems.into_iter();
        let wrong = problems.map(|it| Wrong {
            path: format!("{dotted}{dot}{}", it.path),
            message: it.message,
        });
        wrong.collect::<Vec<_>>()
    })?;
    *template = rendered;
    if *kind == "StatefulSet" {
        claims(object, spec, &injection)?;
    }
    Ok(1)
}

fn wrong(path: &str, message: impl Into<String>) -> Vec<Wrong> {
    vec![Wrong {
        path: path.to_owned(),
        message: message.into(),
    }]
}

/// The app, its state and the ports, as the service has them.
fn describe(
    injection: &mut Injection,
    spec: &ReplicatedServiceSpec,
    template: &Value,
    prefix: &str,
) -> Result<(), Vec<Wrong>> {
    // The app's ports are what they were before an earlier sidecar.
    let bare = synod_inject::remove(template).map_err(|error| {
        let problems = error.problems.into_iter();
        let wrong = problems.map(|it| Wrong {
            path: format!("{prefix}{}", it.path),
            message: it.message,
        });
        wrong.collect::<Vec<_>>()
    })?;
    let mut spec = spec.clone();
    spec.template = bare.as_object().cloned().map(RawObject);
    let app = GroupApp::of(&spec).ok_or_else(|| {
        wrong(
            &format!("{prefix}spec.containers"),
            match &spec.app.container {
                Some(name) => {
                    format!("none is named {name}, as the service's spec.app.container says")
                }
                None => "there is none".to_owned(),
            },
        )
    })?;
    if app.port == 0 {
        return Err(wrong(
            &format!("{prefix}spec.containers"),
            format!(
                "the port of {} is not known: declare it in its ports, or give the service's \
                 spec.app.port",
                app.container
            ),
        ));
    }
    injection.app = InjectedApp {
        container: app.container,
        port: app.port,
        protocol: app.protocol,
    };
    injection.ports = spec.sidecar.ports;
    injection.resources = spec.sidecar.resources;
    if let (StateType::Volume, Some(volume)) = (spec.state.kind, spec.state.volume) {
        let mount_path = volume.mount_path;
        let name = state_volume(&bare, &injection.app.container, &mount_path);
        if name == names::STATE_VOLUME {
            return Err(wrong(
                &format!("{prefix}spec.containers"),
                format!(
                    "{} has nothing mounted at {mount_path}, where the service's \
                     spec.state.volume says that the app keeps its state: mount a volume there",
                    injection.app.container
                ),
            ));
        }
        injection.state = AppState::Volume { mount_path };
    }
    Ok(())
}

fn injection(service: &str, place: &Place, member: Member, log: LogVolume) -> Injection {
    Injection {
        service: service.to_owned(),
        cluster: place.cluster.clone(),
        region: place.region.clone(),
        image: place.image.clone(),
        pull_policy: None,
        way: Way::Labelled,
        member,
        app: InjectedApp {
            container: String::new(),
            port: 0,
            protocol: synod_api::AppProtocol::default(),
        },
        revision: 0,
        ports: synod_api::SidecarPorts::default(),
        resources: None,
        token: place.token.clone(),
        log,
        state: AppState::Ephemeral,
        source: None,
        labels: std::collections::BTreeMap::new(),
    }
}

/// One pod is the member that has its number.
fn of_pod(pod: &Value, service: &str, place: &Place) -> Result<Injection, Vec<Wrong>> {
    let name = pod.pointer("/metadata/name").and_then(Value::as_str);
    let number = name
        .and_then(|it| it.rsplit_once('-'))
        .and_then(|(_, number)| number.parse::<u32>().ok())
        .ok_or_else(|| {
            wrong(
                "metadata.name",
                "it must end in `-` and the member's number, as the names of a StatefulSet's pods do",
            )
        })?;
    let member = format!("{service}-{}-{number}", place.cluster);
    let log = LogVolume::Claim(names::log_claim(&member));
    Ok(injection(service, place, Member::Named(member), log))
}

/// Pods of a StatefulSet are the members that have their numbers, with logs of its claims.
fn of_set(set: &Value, service: &str, place: &Place) -> Result<Injection, Vec<Wrong>> {
    let text = |pointer: &str| set.pointer(pointer).and_then(Value::as_str);
    let mut wrongs = Vec::new();
    if text("/spec/podManagementPolicy") != Some("Parallel") {
        wrongs.extend(wrong(
            "spec.podManagementPolicy",
            "let it be Parallel: a pod that waits for the others would wait for ever",
        ));
    }
    if text("/spec/updateStrategy/type") != Some("OnDelete") {
        wrongs.extend(wrong(
            "spec.updateStrategy.type",
            "let it be OnDelete: the operator replaces pods, with regard to the others",
        ));
    }
    if !wrongs.is_empty() {
        return Err(wrongs);
    }
    let member = Member::Numbered(format!("{service}-{}", place.cluster));
    Ok(injection(service, place, member, LogVolume::ClaimTemplate))
}

/// The claim template for the log, unless there is one of that name.
fn claims(
    set: &mut Value,
    spec: &ReplicatedServiceSpec,
    injection: &Injection,
) -> Result<(), Vec<Wrong>> {
    let claims = set["spec"]
        .as_object_mut()
        .expect("it has a template")
        .entry("volumeClaimTemplates")
        .or_insert(Value::Null);
    if claims.is_null() {
        *claims = json!([]);
    }
    let Some(list) = claims.as_array_mut() else {
        return Err(wrong("spec.volumeClaimTemplates", "it is no list"));
    };
    let is_log = |it: &Value| {
        it.pointer("/metadata/name").and_then(Value::as_str) == Some(names::LOG_VOLUME)
    };
    if list.iter().any(is_log) {
        return Ok(());
    }
    let given = spec.log.volume_claim.as_ref();
    let mut claim = given.map_or_else(Default::default, |it| it.spec.0.clone());
    // Only one pod can have it at a time: a member and its successor never write the same log.
    claim
        .entry("accessModes")
        .or_insert_with(|| json!(["ReadWriteOncePod"]));
    claim
        .entry("resources")
        .or_insert_with(|| json!({"requests": {"storage": "10Gi"}}));
    list.push(json!({
        "metadata": {
            "name": names::LOG_VOLUME,
            "labels": {names::SERVICE_LABEL: injection.service, names::CLUSTER_LABEL: injection.cluster},
        },
        "spec": claim,
    }));
    Ok(())
}

/// The token that an earlier sidecar of this template has: what was rendered stays as it is.
fn token_of(template: &Value) -> Option<String> {
    let init = template.pointer("/spec/initContainers")?.as_array()?;
    let ours = init.iter().find(|it| it["name"] == names::CONTAINER)?;
    let env = ours.get("env")?.as_array()?;
    let token = env.iter().find(|it| it["name"] == "SYNOD_APP_TOKEN")?;
    token["value"].as_str().map(str::to_owned)
}

/// `0644` is a number to kubectl, which reads YAML 1.1, and a text to YAML 1.2.
fn octal(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let mode = value
                    .as_str()
                    .filter(|it| (key == "mode" || key == "defaultMode") && it.starts_with('0'))
                    .and_then(|it| u32::from_str_radix(it, 8).ok());
                match mode {
                    Some(mode) => *value = json!(mode),
                    None => octal(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(octal),
        _ => {}
    }
}
