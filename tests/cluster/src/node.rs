//! The programs of one node: containerd, kubelet, kube-proxy. Comes in: a machine with its addresses.
//! Goes out: those programs, running in it, and pods.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::certificates::{Authority, Subject};
use crate::control_plane::words;
use crate::groups;
use crate::images::PAUSE;
use crate::machine::Machine;
use crate::network::Plan;

/// Which one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) plan: Plan,
    pub(crate) cluster: &'a str,
    pub(crate) region: u8,
    pub(crate) node: u8,
}

/// The kubelet, for those who stop and start it.
pub(crate) const KUBELET: &str = "kubelet";

// === impl Place ===

impl Place<'_> {
    /// The node's name in its cluster, unique over all clusters.
    pub(crate) fn name(self) -> String {
        format!("{}-{}", self.cluster, self.node)
    }
}

/// Starts containerd, which takes images as soon as it listens; no API server is needed for that.
pub(crate) fn start_containerd(machine: &mut Machine, place: Place<'_>) -> Result<()> {
    groups::make(place.plan, &place.name())?;
    let disk = machine.folder().to_owned();
    let interfaces = disk.join("cni");
    fs::create_dir_all(&interfaces)?;
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            // A link for each pod and a route to it: no bridge, no rules, addresses as they are.
            {"type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": place.plan.pods(place.region, place.node)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    fs::write(interfaces.join("10-pods.conflist"), network.to_string())?;
    let config = disk.join("containerd.toml");
    fs::write(&config, containerd_config(&interfaces, &plugins()?))?;
    let config = config.display().to_string();
    machine.spawn("containerd", &words(&["containerd", "--config", &config]))
}

fn containerd_config(interfaces: &Path, plugins: &Path) -> String {
    let (interfaces, plugins) = (interfaces.display(), plugins.display());
    // Without CAP_SYS_RESOURCE, as in many a sandbox, a lower score for a container is refused, and
    // runc dies of it. An AppArmor profile would stay in the kernel after us. Port 80 for everybody is
    // what newer versions have from the start.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_unprivileged_ports = true
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "{interfaces}"
  bin_dir = "{plugins}"
"#
    )
}

/// Where the network plugins are installed.
fn plugins() -> Result<PathBuf> {
    for folder in ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"] {
        let folder = Path::new(folder);
        if folder.join("ptp").exists() {
            return Ok(folder.to_owned());
        }
    }
    bail!("no network plugins: install containernetworking-plugins")
}

/// Starts the kubelet and kube-proxy, once the API server answers.
pub(crate) fn start_kubelet(
    machine: &mut Machine,
    authority: &Authority,
    place: Place<'_>,
) -> Result<()> {
    let (disk, name) = (machine.folder().to_owned(), place.name());
    let login = |user: &str, subject| -> Result<String> {
        let file = disk.join(format!("{user}.kubeconfig"));
        let address = place.plan.control(place.region);
        authority.kubeconfig(&file, place.cluster, address, subject)?;
        Ok(file.display().to_string())
    };
    let user = format!("system:node:{name}");
    let kubelet = login(KUBELET, Subject::in_group(&user, "system:nodes"))?;
    let config = disk.join("kubelet.json");
    fs::write(&config, kubelet_config(authority, place)?)?;
    machine.spawn(
        KUBELET,
        &words(&[
            "kubelet",
            &format!("--config={}", config.display()),
            &format!("--kubeconfig={kubelet}"),
            &format!("--hostname-override={name}"),
            &format!("--node-ip={}", place.plan.node(place.region, place.node)),
            &format!(
                "--node-labels=topology.kubernetes.io/region={0},topology.kubernetes.io/zone={0}",
                place.cluster
            ),
        ]),
    )?;
    let proxy = login("kube-proxy", Subject::user("system:kube-proxy"))?;
    let config = disk.join("kube-proxy.json");
    let text = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": proxy},
        "hostnameOverride": name,
        "clusterCIDR": place.plan.machines(place.region),
        // Those are limits of the kernel, not of the namespace.
        "conntrack": {"maxPerCore": 0, "min": 0},
    });
    fs::write(&config, text.to_string())?;
    let config = format!("--config={}", config.display());
    machine.spawn("kube-proxy", &words(&["kube-proxy", &config]))
}

fn kubelet_config(authority: &Authority, place: Place<'_>) -> Result<String> {
    let name = place.name();
    let address = place.plan.node(place.region, place.node);
    let serving = authority.issue(
        &format!("{name}.serving"),
        Subject {
            addresses: &[address],
            hosts: &[&name],
            ..Subject::user(&name)
        },
    )?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority.own().certificate},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.certificate,
        "tlsPrivateKeyFile": serving.key,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDomain": "cluster.local",
        "clusterDNS": [place.plan.control(place.region)],
        // Names of the outside are none of a test's business.
        "resolvConf": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": groups::of_node(place.plan, &name),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        // Images come from archives, and nobody can pull them again; a full disk is not our topic.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
    });
    serde_json::to_string_pretty(&config).context("kubelet's configuration")
}

/// `ctr` of the node, for images.
pub(crate) fn import(machine: &Machine, archive: &Path) -> Result<std::process::Command> {
    let mut command = machine.command()?;
    command.args(["ctr", "--namespace=k8s.io", "images", "import"]);
    command.arg(archive);
    Ok(command)
}
