//! The service whose answers say enough to check histories, as scenarios run it: registers, counters
//! and lists.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use synod_system::app::parse_dump;
use synod_system::report::Report;
use synod_system::scenario::agreement::check_history;
use synod_system::workload::{Plan, Recorded};

use crate::Cluster;
use crate::product::REGISTERS;
use crate::service::{Service, member_pods};

/// Its name.
pub(super) const NAME: &str = "registers";
/// How long the last writes may be on their way to the last copy.
const LEVEL: Duration = Duration::from_secs(20);

/// Applies it; `members` is the field that says how many there are, or where.
pub(super) async fn apply<'a>(hub: &'a Cluster, members: &str) -> Result<Service<'a>> {
    apply_with(hub, members, "{}", "").await
}

/// The same with `spec.state`, and a line of further fields for the app's container.
pub(super) async fn apply_with<'a>(
    hub: &'a Cluster,
    members: &str,
    state: &str,
    container: &str,
) -> Result<Service<'a>> {
    let manifest = format!(
        r"
apiVersion: synod.dev/v1alpha1
kind: ReplicatedService
metadata: {{name: {NAME}}}
spec:
  {members}
  state: {state}
  acknowledgedRisks: [NoSnapshot]
  service: {{type: NodePort}}
  routes:
  - {{name: dump, matches: [{{path: {{type: Exact, value: /dump}}, method: GET}}], consistency: Local}}
  template:
    spec:
      # It does not listen to SIGTERM.
      terminationGracePeriodSeconds: 2
      containers:
      - name: registers
        image: {REGISTERS}
        ports: [{{name: http, containerPort: 8080}}]
        {container}
"
    );
    hub.kubectl_with(["apply", "--filename=-"], &manifest)
        .await?;
    Ok(Service { hub, name: NAME })
}

/// Traffic that a small machine bears besides its clusters.
pub(super) fn plan() -> Plan {
    Plan {
        rate: 60,
        keys: 120,
        ..Plan::default()
    }
}

/// Holds what clients saw, and what the copies hold in the end, against the promises.
pub(super) async fn check(
    recorded: &Recorded,
    clusters: &[Cluster],
    report: &mut Report,
) -> Result<()> {
    for (answer, times) in &recorded.unexpected {
        report.fail(format!("{times} times: {answer}"));
    }
    let copy = copies(clusters, report).await?;
    check_history(recorded, &parse_dump(copy.as_bytes())?, true, report);
    Ok(())
}

/// What the copies hold, which must be the same.
async fn copies(clusters: &[Cluster], report: &mut Report) -> Result<String> {
    let began = Instant::now();
    loop {
        let mut dumps = Vec::new();
        for cluster in clusters {
            for pod in member_pods(cluster, NAME).await? {
                dumps.push(pod.ask("GET", "/dump", "").await?.text());
            }
        }
        let equal = dumps.len() == 3 && dumps.iter().all(|it| *it == dumps[0]);
        if !equal && began.elapsed() < LEVEL {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        report.expect(equal, "the copies' contents differ at the end");
        return dumps.pop().context("there is no copy");
    }
}
