//! What a template must not say when a sidecar is to run in its pods. Looks at the template without
//! the sidecar's own parts.

use serde_json::Value;

use super::error::{InjectError, InjectProblem};
use super::hooks;
use super::injection::{AppState, Injection, Way};
use super::json::{list, named, text};
use super::names;
use super::volume;

struct Problems(Vec<InjectProblem>);

/// Whether it can be gone through at all.
pub(super) fn readable(template: &Value) -> Result<(), InjectError> {
    let mut problems = Problems(Vec::new());
    shape(&mut problems, template);
    problems.result()
}

/// Every problem of a template that is [`readable`].
pub(super) fn check(template: &Value, injection: &Injection) -> Result<(), InjectError> {
    let mut problems = Problems(Vec::new());
    let spec = &template["spec"];
    pod(&mut problems, spec);
    containers(&mut problems, spec, injection);
    ports(&mut problems, spec, injection);
    claims(&mut problems, spec, injection);
    app(&mut problems, spec, injection);
    state(&mut problems, template, injection);
    problems.result()
}

/// Objects and lists where they are changed or gone through.
fn shape(p: &mut Problems, template: &Value) {
    let object = |it: Option<&Value>| it.is_none_or(|it| it.is_null() || it.is_object());
    let list = |it: Option<&Value>| it.is_none_or(|it| it.is_null() || it.is_array());
    if !template.get("spec").is_some_and(Value::is_object) {
        p.add("spec", "it is missing or no object: give a pod's spec");
        return;
    }
    for path in [
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/spec/securityContext",
    ] {
        p.add_if(
            !object(template.pointer(path)),
            &dotted(path),
            "it is no object",
        );
    }
    for path in ["/spec/containers", "/spec/initContainers", "/spec/volumes"] {
        p.add_if(
            !list(template.pointer(path)),
            &dotted(path),
            "it is no list",
        );
    }
    for (path, container) in all(&template["spec"]) {
        if !container.is_object() {
            p.add(&path, "it is no object");
            continue;
        }
        for field in ["ports", "env", "volumeMounts"] {
            p.add_if(
                !list(container.get(field)),
                &format!("{path}.{field}"),
                "it is no list",
            );
        }
        for field in [
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
        ] {
            p.add_if(
                !object(container.get(field)),
                &format!("{path}.{field}"),
                "it is no object",
            );
        }
        p.add_if(
            text(container, "name").is_none_or(str::is_empty),
            &format!("{path}.name"),
            "it is missing: every container needs one",
        );
    }
}

fn pod(p: &mut Problems, spec: &Value) {
    p.add_if(
        spec.get("hostNetwork") == Some(&Value::Bool(true)),
        "spec.hostNetwork",
        "the app would be reached past the sidecar, and two pods on a node would share its ports: remove it",
    );
    p.add_if(
        text(spec, "restartPolicy").is_some_and(|it| it != "Always"),
        "spec.restartPolicy",
        "a copy must be started anew whenever it ends: use Always, or remove it",
    );
    let windows = spec.get("os").and_then(|it| text(it, "name")) == Some("windows");
    p.add_if(
        windows,
        "spec.os.name",
        "the sidecar runs on Linux: use linux, or remove it",
    );
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let taken = text(volume, "name").filter(|name| names::VOLUMES.contains(name));
        if let Some(name) = taken {
            p.add(
                &format!("spec.volumes[{index}].name"),
                format!("`{name}` is a volume of the sidecar's: choose another name"),
            );
        }
    }
}

fn containers(p: &mut Problems, spec: &Value, injection: &Injection) {
    for (path, container) in all(spec) {
        p.add_if(
            text(container, "name") == Some(names::CONTAINER),
            &format!("{path}.name"),
            "`synod` is the name of the sidecar's container: choose another, or remove it when it was copied from a pod that has the sidecar",
        );
    }
    let found = list(spec, "containers");
    if named(found, &injection.app.container).is_none() {
        let names: Vec<_> = found.iter().filter_map(|it| text(it, "name")).collect();
        p.add(
            "spec.containers",
            format!(
                "none is named `{}`, the app's: name one so, or set the service's spec.app.container to one of {}",
                injection.app.container,
                if names.is_empty() { "them once there are any".to_owned() } else { names.join(", ") }
            ),
        );
    }
}

/// Containers of a pod share its ports, declared or not.
fn ports(p: &mut Problems, spec: &Value, injection: &Injection) {
    let own = [
        ("http", injection.ports.http),
        ("peer", injection.ports.peer),
        ("admin", injection.ports.admin),
    ];
    for (name, ours) in own {
        p.add_if(
            ours == injection.app.port,
            "spec.app.port",
            format!("{ours} is the sidecar's own: set the service's spec.sidecar.ports.{name} to another"),
        );
    }
    for (path, container) in all(spec) {
        for (index, port) in list(container, "ports").iter().enumerate() {
            let number = port.get("containerPort").and_then(Value::as_u64);
            let at = format!("{path}.ports[{index}]");
            for (name, ours) in own {
                p.add_if(
                    number == Some(ours.into()),
                    &format!("{at}.containerPort"),
                    format!("{ours} is the sidecar's own: set the service's spec.sidecar.ports.{name} to another"),
                );
            }
            let is_app = text(container, "name") == Some(&injection.app.container)
                && number == Some(injection.app.port.into());
            p.add_if(
                is_app && port.get("hostPort").is_some_and(|it| it.as_u64().unwrap_or(0) != 0),
                &format!("{at}.hostPort"),
                "it leads to the app past the sidecar: remove it, and use the service's spec.service.type",
            );
            port_name(
                p,
                &at,
                text(port, "name"),
                is_app,
                client_port(spec, injection),
            );
        }
        for (index, variable) in list(container, "env").iter().enumerate() {
            let value = text(variable, "value").and_then(|it| it.parse::<u16>().ok());
            for (name, ours) in own {
                p.add_if(
                    text(variable, "name") == Some("PORT") && value == Some(ours),
                    &format!("{path}.env[{index}].value"),
                    format!("{ours} is the sidecar's own port: give the program another, or set the service's spec.sidecar.ports.{name}"),
                );
            }
        }
    }
}

/// Services find a port by its name in any container of the pod, ordinary ones first.
fn port_name(p: &mut Problems, at: &str, name: Option<&str>, is_app: bool, client: &str) {
    let Some(name) = name else { return };
    let ours = [names::PEER_PORT, names::ADMIN_PORT].contains(&name);
    p.add_if(
        ours || (name == client && !is_app),
        &format!("{at}.name"),
        format!("`{name}` is the name by which the sidecar's own port is found: choose another"),
    );
}

/// The name that the sidecar's port for clients gets.
pub(super) fn client_port<'a>(spec: &'a Value, injection: &Injection) -> &'a str {
    match injection.way {
        Way::Rendered => names::CLIENT_PORT,
        Way::Labelled => port_name_of(spec, &injection.app.container, injection.app.port)
            .unwrap_or(names::CLIENT_PORT),
    }
}

/// The name of a port in a pod's spec.
pub(super) fn port_name_of<'a>(spec: &'a Value, container: &str, port: u16) -> Option<&'a str> {
    list(named(list(spec, "containers"), container)?, "ports")
        .iter()
        .filter(|it| is_port(it, port))
        .find_map(|it| text(it, "name"))
}

/// Whether a container's port is this one; UDP and SCTP ports are others.
pub(super) fn is_port(port: &Value, number: u16) -> bool {
    port.get("containerPort").and_then(Value::as_u64) == Some(number.into())
        && text(port, "protocol").is_none_or(|it| it == "TCP")
}

fn app(p: &mut Problems, spec: &Value, injection: &Injection) {
    let found = list(spec, "containers");
    let index = found
        .iter()
        .position(|it| text(it, "name") == Some(&injection.app.container));
    let Some(index) = index else { return };
    let (path, app) = (format!("spec.containers[{index}]"), &found[index]);
    p.0.extend(hooks::problems(&path, app));
    if let AppState::Volume { mount_path } = &injection.state {
        for (at, mount) in list(app, "volumeMounts").iter().enumerate() {
            p.add_if(
                text(mount, "mountPath") == Some(mount_path)
                    && mount.get("readOnly") == Some(&Value::Bool(true)),
                &format!("{path}.volumeMounts[{at}].readOnly"),
                "the app keeps its state there: remove it",
            );
        }
    }
}

/// What the sidecar needs to save and put back the app's volume.
fn state(p: &mut Problems, template: &Value, injection: &Injection) {
    let AppState::Volume { mount_path } = &injection.state else {
        return;
    };
    let (spec, container) = (&template["spec"], &injection.app.container);
    let found = list(spec, "containers");
    let index = found
        .iter()
        .position(|it| text(it, "name") == Some(container));
    let Some(index) = index else { return };
    p.add_if(
        volume::owner(spec, container).is_none(),
        &format!("spec.containers[{index}].securityContext.runAsUser"),
        "it is missing: the sidecar saves and puts back the app's files, which only the same user \
         can; give the number of the user that the app's image runs as",
    );
    let name = super::state_volume(template, container, mount_path);
    for (path, container) in all(spec) {
        for (at, mount) in list(container, "volumeMounts").iter().enumerate() {
            p.add_if(
                text(mount, "name") == Some(&name) && text(mount, "subPathExpr").is_some(),
                &format!("{path}.volumeMounts[{at}].subPathExpr"),
                "on the volume with the app's state only subPath can be used: use that",
            );
        }
    }
}

/// Claims that the app writes to, where each copy must have its state to itself: members that share one
/// write over each other, and what is on a claim already is not what a log begins with.
fn claims(p: &mut Problems, spec: &Value, injection: &Injection) {
    let found = list(spec, "containers");
    let index = found
        .iter()
        .position(|it| text(it, "name") == Some(&injection.app.container));
    let Some(index) = index else { return };
    let writable = |name: &str| {
        let claim = named(list(spec, "volumes"), name)?.get("persistentVolumeClaim")?;
        let writable = claim.get("readOnly") != Some(&Value::Bool(true));
        writable.then(|| text(claim, "claimName").unwrap_or_default())
    };
    for (at, mount) in list(&found[index], "volumeMounts").iter().enumerate() {
        let Some(claim) = text(mount, "name").and_then(writable) else {
            continue;
        };
        let path = text(mount, "mountPath").unwrap_or_default();
        let own = match (&injection.state, injection.way) {
            (AppState::Ephemeral, _) => false,
            // Each pod of the user's own StatefulSet brings its claims.
            (AppState::Volume { .. }, Way::Labelled) => true,
            // A claim template takes its place.
            (AppState::Volume { mount_path }, Way::Rendered) => mount_path == path,
        };
        if own || mount.get("readOnly") == Some(&Value::Bool(true)) {
            continue;
        }
        p.add(
            &format!("spec.containers[{index}].volumeMounts[{at}]"),
            format!(
                "the app would write to the claim `{claim}` at {path}, which is not the state of one \
                 copy: for a program that keeps its state there, set the service's spec.state to \
                 {{type: Volume, volume: {{mountPath: {path}}}}}, which gives each copy an empty one \
                 of its own; otherwise remove the mount, or let it be readOnly"
            ),
        );
    }
}

/// Every container with its path.
fn all(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(|key| {
            let of_key = list(spec, key).iter().enumerate();
            of_key.map(move |(index, it)| (format!("spec.{key}[{index}]"), it))
        })
}

/// `/spec/volumes` as `spec.volumes`.
fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

// === impl Problems ===

impl Problems {
    fn result(self) -> Result<(), InjectError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(InjectError { problems: self.0 })
    }

    fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(InjectProblem {
            path: path.to_owned(),
            message: message.into(),
        });
    }

    fn add_if(&mut self, wrong: bool, path: &str, message: impl Into<String>) {
        if wrong {
            self.add(path, message);
        }
    }
}
