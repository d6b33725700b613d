//! The product on a cluster. Comes in: the programs built beside this one and the chart. Goes out:
//! images on nodes, and an operator that helm has installed. It calls helm and kubectl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use synod_system::group::binary;

use crate::Cluster;
use crate::cluster::output;
use crate::dockerfile::Builder;
use crate::images::{Image, USER, archive};

/// Namespace of the operator, as the guides have it.
pub const NAMESPACE: &str = "synod-system";
/// Name of the chart's release, as the guides have it.
pub const RELEASE: &str = "synod";
/// The chart, seen from the top of the tree.
const CHART: &str = "charts/synod";
/// The image that the guide's manifest names: the example app.
pub const NOTES: &str = "registry.example/notes:1.4";
/// The app whose answers say enough to check histories.
pub const REGISTERS: &str = "synod.test/registers:1";
/// The same program under another name, which answers `POST /which` differently: a new version of the
/// app.
pub const REGISTERS_NEXT: &str = "synod.test/registers:2";
/// A third version, which fails at that route.
pub const REGISTERS_FAILS: &str = "synod.test/registers:3";
const OPERATOR: &str = "synod.test/operator";
const SIDECAR: &str = "synod.test/sidecar";
const TAG: &str = "v1";

/// An installation of the chart.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where the operator runs.
    pub namespace: &'a str,
}

/// As the guides have it.
const USUAL: Release<'static> = Release {
    name: RELEASE,
    namespace: NAMESPACE,
};

/// Where clusters that were given pull the images from, in place of the first part of their names.
const PLACE: &str = "E2E_IMAGES";

/// An image as clusters know it.
pub fn image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    match std::env::var(PLACE) {
        Ok(place) if !place.is_empty() => format!("{}/{last}", place.trim_end_matches('/')),
        _ => name.to_owned(),
    }
}

/// Images of the product and of apps, ready to be loaded.
#[derive(Debug)]
pub struct Product {
    archives: Vec<PathBuf>,
}

// === impl Product ===

impl Product {
    /// Makes the images in `folder`.
    pub fn assemble(folder: &Path) -> Result<Self> {
        ensure!(
            Path::new(CHART).is_dir(),
            "{CHART} is not here: run from the top of the tree"
        );
        std::fs::create_dir_all(folder)?;
        let operator = binary("synod-operator", "SYNOD_OPERATOR_BIN")?;
        let sidecar = binary("synod-sidecar", "SYNOD_SIDECAR_BIN")?;
        let synod = binary("synod", "SYNOD_BIN")?;
        let registers = binary("synod-test-app", "SYNOD_TEST_APP_BIN")?;
        let (operator_name, sidecar_name) =
            (format!("{OPERATOR}:{TAG}"), format!("{SIDECAR}:{TAG}"));
        let make = |name: &str, program: &Path, arguments: &[&str]| {
            let file = program.file_name().unwrap_or_default();
            let place = format!("/usr/bin/{}", file.to_string_lossy());
            archive(
                &Image {
                    name,
                    files: &[(program, &place)],
                    entrypoint: &[&[place.as_str()], arguments].concat(),
                    environment: &["PORT=8080", "DATA_DIR=/tmp"],
                    user: USER,
                },
                folder,
            )
        };
        let archives = vec![
            make(&operator_name, &operator, &[])?,
            make(&sidecar_name, &sidecar, &[])?,
            make(NOTES, &synod, &["example-app"])?,
            make(REGISTERS, &registers, &[])?,
            make(REGISTERS_NEXT, &registers, &["--revision", "1"])?,
            make(
                REGISTERS_FAILS,
                &registers,
                &["--revision", "2", "--which", "500"],
            )?,
        ];
        Ok(Self { archives })
    }

    /// The same images, where there is a Dockerfile by that.
    pub fn by_dockerfiles(folder: &Path) -> Result<Self> {
        let product = Self::assemble(folder)?;
        let operator = binary("synod-operator", "SYNOD_OPERATOR_BIN")?;
        let sidecar = binary("synod-sidecar", "SYNOD_SIDECAR_BIN")?;
        let synod = binary("synod", "SYNOD_BIN")?;
        let builder = Builder::new(folder, &[&operator, &sidecar, &synod])?;
        for (dockerfile, name) in [
            ("operator/Dockerfile", format!("{OPERATOR}:{TAG}")),
            ("sidecar/Dockerfile", format!("{SIDECAR}:{TAG}")),
            ("docs/kubernetes/notes.Dockerfile", NOTES.to_owned()),
        ] {
            let archive = builder.build(dockerfile, &name)?;
            ensure!(
                product.archives.contains(&archive),
                "{name} is another file: {}",
                archive.display()
            );
        }
        Ok(product)
    }

    /// Where the images are, as `docker load` takes them.
    pub fn archives(&self) -> &[PathBuf] {
        &self.archives
    }

    /// Brings the images to every node, and makes so many volumes on each. Clusters that were given
    /// have their own ways to both.
    pub async fn load(&self, cluster: &Cluster, volumes: u8) -> Result<()> {
        if cluster.is_given() {
            return Ok(());
        }
        try_join_all(self.archives.iter().map(|it| cluster.load_image(it))).await?;
        cluster.make_volumes(volumes, "ReadWriteOncePod").await
    }

    /// What to tell helm, so that it takes the images.
    pub fn values() -> [String; 4] {
        [
            format!("image.repository={}", image(OPERATOR)),
            format!("image.tag={TAG}"),
            format!("sidecar.image.repository={}", image(SIDECAR)),
            format!("sidecar.image.tag={TAG}"),
        ]
    }

    /// `helm upgrade --install --wait`, with more values; how long it took.
    pub async fn install(&self, cluster: &Cluster, values: &[&str]) -> Result<Duration> {
        self.install_as(&USUAL, cluster, values).await
    }

    /// The same as another release.
    pub async fn install_as(
        &self,
        release: &Release<'_>,
        cluster: &Cluster,
        values: &[&str],
    ) -> Result<Duration> {
        let own = Self::values();
        let mut arguments = vec![
            "upgrade",
            "--install",
            release.name,
            CHART,
            "--create-namespace",
            "--wait",
            "--timeout=180s",
        ];
        for value in own.iter().map(String::as_str).chain(values.iter().copied()) {
            arguments.extend(["--set", value]);
        }
        let began = Instant::now();
        helm(cluster, release, &arguments).await?;
        Ok(began.elapsed())
    }

    /// `synod cluster join`, and what it prints applied in the hub.
    pub async fn join(&self, cluster: &Cluster, hub: &Cluster) -> Result<()> {
        let mut command = Command::new(binary("synod", "SYNOD_BIN")?);
        command
            .args(["cluster", "join", "--name", &cluster.name])
            .args(["--region", &cluster.region, "--kubeconfig"])
            .arg(&cluster.kubeconfig);
        let registration = output(command, "").await?;
        let apply = ["apply", "--server-side", "--filename=-"];
        hub.kubectl_with(apply, &registration).await?;
        Ok(())
    }

    /// `synod cluster ..` against a hub; what it prints.
    pub async fn cluster(&self, hub: &Cluster, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("synod", "SYNOD_BIN")?);
        command.arg("cluster").args(arguments);
        command.arg("--kubeconfig").arg(&hub.kubeconfig);
        output(command, "").await
    }

    /// `helm uninstall --wait`.
    pub async fn uninstall(&self, cluster: &Cluster) -> Result<()> {
        self.uninstall_as(&USUAL, cluster).await
    }

    /// The same of another release.
    pub async fn uninstall_as(&self, release: &Release<'_>, cluster: &Cluster) -> Result<()> {
        let arguments = ["uninstall", release.name, "--wait", "--timeout=120s"];
        helm(cluster, release, &arguments).await?;
        Ok(())
    }

    /// `helm test`.
    pub async fn test(&self, cluster: &Cluster) -> Result<String> {
        helm(cluster, &USUAL, &["test", RELEASE, "--logs"]).await
    }
}

/// Ends all operators at once, without a word; others are made for them, without kubelet's pause for
/// what crashes.
pub async fn end_operators(cluster: &Cluster) -> Result<()> {
    let delete = ["delete", "pods", "--all", "--namespace", NAMESPACE];
    let at_once = ["--force", "--grace-period=0"];
    cluster.kubectl(delete.into_iter().chain(at_once)).await?;
    Ok(())
}

async fn helm(cluster: &Cluster, release: &Release<'_>, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("helm");
    command
        .args(["--namespace", release.namespace, "--kubeconfig"])
        .arg(&cluster.kubeconfig)
        .args(arguments);
    output(command, "")
        .await
        .with_context(|| format!("in cluster {}", cluster.name))
}
