//! The programs of a cluster that are not on its nodes: etcd, API server, controller manager,
//! scheduler, name server. Comes in: a machine with its addresses. Goes out: those programs,
//! running in it, and a kubeconfig.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::certificates::{Authority, MASTERS, Subject};
use crate::machine::Machine;
use crate::network::Plan;

/// Starts the API server and what it stores in, and writes `kubeconfig` for one who may do all.
pub(crate) fn start_api(
    machine: &mut Machine,
    authority: &Authority,
    plan: Plan,
    region: u8,
    cluster: &str,
    kubeconfig: &Path,
) -> Result<()> {
    let disk = machine.folder().to_owned();
    let address = plan.control(region);
    let administrator = Subject::in_group("administrator", MASTERS);
    authority.kubeconfig(kubeconfig, cluster, address, administrator)?;
    // These tests end machines, but never this one with its data: syncing would only cost time.
    machine.spawn(
        "etcd",
        &words(&[
            "etcd",
            &format!("--data-dir={}", disk.join("etcd").display()),
            "--unsafe-no-fsync",
            "--log-level=warn",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ]),
    )?;
    let serving = authority.issue(
        "api-server",
        Subject {
            addresses: &[address, plan.first_service(region), [127, 0, 0, 1].into()],
            hosts: &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ],
            ..Subject::user("kube-apiserver")
        },
    )?;
    let to_kubelets = Subject::in_group("kube-apiserver-kubelet-client", MASTERS);
    let to_kubelets = authority.issue("to-kubelets", to_kubelets)?;
    let (own, tokens) = (authority.own(), authority.token_keys()?);
    let ca = own.certificate.display();
    machine.spawn(
        "kube-apiserver",
        &words(&[
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            &format!("--advertise-address={address}"),
            &format!("--service-cluster-ip-range={}", plan.services(region)),
            &format!("--client-ca-file={ca}"),
            &format!("--tls-cert-file={}", serving.certificate.display()),
            &format!("--tls-private-key-file={}", serving.key.display()),
            &format!("--kubelet-certificate-authority={ca}"),
            &format!(
                "--kubelet-client-certificate={}",
                to_kubelets.certificate.display()
            ),
            &format!("--kubelet-client-key={}", to_kubelets.key.display()),
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            &format!(
                "--service-account-key-file={}",
                tokens.certificate.display()
            ),
            &format!(
                "--service-account-signing-key-file={}",
                tokens.key.display()
            ),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            // No kube-proxy runs on this machine: webhooks are called at their pods' addresses.
            "--enable-aggregator-routing",
        ]),
    )
}

/// Starts the rest, once the API server answers.
pub(crate) fn start_rest(
    machine: &mut Machine,
    authority: &Authority,
    plan: Plan,
    region: u8,
    cluster: &str,
) -> Result<()> {
    let disk = machine.folder().to_owned();
    let address = plan.control(region);
    let login = |user: &str, subject| -> Result<String> {
        let file = disk.join(format!("{user}.kubeconfig"));
        authority.kubeconfig(&file, cluster, address, subject)?;
        Ok(file.display().to_string())
    };
    let own = authority.own();
    let manager = "system:kube-controller-manager";
    let tokens = own.key.with_file_name("service-accounts.key");
    let manager = login("kube-controller-manager", Subject::user(manager))?;
    machine.spawn(
        "kube-controller-manager",
        &words(&[
            "kube-controller-manager",
            &format!("--kubeconfig={manager}"),
            &format!("--root-ca-file={}", own.certificate.display()),
            &format!("--cluster-signing-cert-file={}", own.certificate.display()),
            &format!("--cluster-signing-key-file={}", own.key.display()),
            &format!("--service-account-private-key-file={}", tokens.display()),
            "--use-service-account-credentials",
            // Its forty accounts are made one after another, at 20 a second unless told otherwise.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ]),
    )?;
    let scheduler = login("kube-scheduler", Subject::user("system:kube-scheduler"))?;
    machine.spawn(
        "kube-scheduler",
        &words(&[
            "kube-scheduler",
            &format!("--kubeconfig={scheduler}"),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ]),
    )?;
    // It has no account of its own, as it would in a pod, so it comes as one who may see all.
    let names = login("coredns", Subject::in_group("coredns", MASTERS))?;
    let corefile = disk.join("Corefile");
    fs::write(
        &corefile,
        format!(
            ".:53 {{\n\
               bind {address}\n\
               errors\n\
               ready 127.0.0.1:8181\n\
               kubernetes cluster.local in-addr.arpa {{\n\
                 kubeconfig {names}\n\
               }}\n\
             }}\n"
        ),
    )?;
    machine.spawn(
        "coredns",
        &words(&["coredns", "-conf", &corefile.display().to_string()]),
    )
}

/// A command from its words.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
