//! What this machine must have. Comes in: nothing. Goes out: what is missing.

use anyhow::{Result, bail};

use crate::folder;

/// What must be there, and which package has it where one does.
const PROGRAMS: [(&str, &str); 20] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("tar", "tar"),
    ("ldd", "libc-bin"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("etcd", ""),
    ("kube-apiserver", ""),
    ("kube-controller-manager", ""),
    ("kube-scheduler", ""),
    ("kubelet", ""),
    ("kube-proxy", ""),
    ("coredns", ""),
    ("kubectl", ""),
];

/// An error that says what is missing here.
pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("clusters need root: namespaces, mounts, control groups");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut missing = Vec::new();
    for (program, package) in PROGRAMS {
        let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
        match places.find(|place| place.is_file()) {
            Some(place) => folder::visible(&place)?,
            None if package.is_empty() => {
                missing.push(format!("{program} (built by `tests/run kubernetes`)"));
            }
            None => missing.push(format!("{program} (package {package})")),
        }
    }
    if !missing.is_empty() {
        bail!("missing: {}", missing.join(", "));
    }
    Ok(())
}
