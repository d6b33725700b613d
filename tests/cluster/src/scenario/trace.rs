//! What clusters could leave on this machine. Comes in: nothing. Goes out: a picture, to compare.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use synod_system::report::Report;

use super::Settings;
use crate::groups;

/// Lines about this machine, each with what it is about; none where clusters were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture(BTreeSet<String>);

/// Folders that container programs make in places of their own.
const PLACES: [&str; 9] = [
    "/run/containerd",
    "/run/flannel",
    "/run/xtables.lock",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
    "/etc/cni/net.d",
    "/etc/kubernetes",
];
/// Values of the kernel that Kubernetes sets.
const VALUES: [&str; 8] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max",
];

// === impl Picture ===

impl Picture {
    /// How it is now, unless clusters were given: those are on other machines, and stay.
    pub(super) fn unless_given(settings: &Settings) -> Result<Self> {
        match settings.kubeconfigs {
            Some(_) => Ok(Self(BTreeSet::new())),
            None => Self::take(),
        }
    }

    /// How it is now.
    pub(super) fn take() -> Result<Self> {
        let mut lines = BTreeSet::new();
        for mount in fs::read_to_string("/proc/self/mounts")?.lines() {
            lines.insert(format!("mount: {mount}"));
        }
        for (about, command) in [
            ("interface", "ip -brief link show type veth"),
            ("interface", "ip -brief link show type bridge"),
            ("route", "ip -4 route show table all"),
            ("network namespace", "ip netns list"),
            ("rule", "iptables-save"),
            ("rule", "ip6tables-save"),
            ("table", "nft list ruleset"),
        ] {
            for line in output(command)?
                .lines()
                .filter(|line| !line.starts_with('#'))
            {
                lines.insert(format!("{about}: {line}"));
            }
        }
        for group in groups::top() {
            lines.insert(format!("control group: {}", group.display()));
        }
        for place in PLACES.iter().filter(|place| Path::new(place).exists()) {
            lines.insert(format!("place: {place}"));
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                lines.insert(format!("place: {}", entry.path().display()));
            }
        }
        for value in VALUES {
            let now = fs::read_to_string(Path::new("/proc/sys").join(value)).unwrap_or_default();
            lines.insert(format!("value: {value} = {}", now.trim()));
        }
        Ok(Self(lines))
    }

    /// Fails for each difference to how it was before.
    pub(super) fn compare(&self, before: &Self, report: &mut Report) {
        for line in self.0.difference(&before.0) {
            report.fail(format!("left behind: {line}"));
        }
        for line in before.0.difference(&self.0) {
            report.fail(format!("taken away: {line}"));
        }
    }
}

fn output(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()
        .with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
