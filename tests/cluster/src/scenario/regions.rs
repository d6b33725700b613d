//! Three clusters in three regions, 40 ms apart one way: one manifest in the hub, and any one region
//! may be cut off.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use synod_system::client::{Client, request};
use synod_system::report::{Distribution, Report};
use synod_system::workload::{Recorded, Workload};

use super::registers::{self, NAME};
use super::trace::Picture;
use super::{Settings, finish};
use crate::product::Product;
use crate::service::{Service, node_ports};
use crate::{Cluster, Clusters};

/// One way.
const DISTANCE: Duration = Duration::from_millis(40);
/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a region stays cut off: longer than members of it can think that nothing has happened.
const CUT: Duration = Duration::from_secs(6);
/// How often each region is cut off.
const ROUNDS: usize = 2;
/// Within this time the others go on.
const LIMIT_MS: f64 = 2000.0;

/// A region that was cut off, by the history's clock.
struct Cut {
    /// Its place among the clusters.
    place: usize,
    led: bool,
    at_ns: u64,
    healed_ns: u64,
}

pub(super) async fn cut_off(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(3, 1, DISTANCE).await?;
    let hub = clusters.first();
    let began = Instant::now();
    install(&product, &clusters, 2).await?;
    report.say(format!(
        "operators in three clusters, joined after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    let began = Instant::now();
    let places: Vec<String> = clusters
        .all()
        .iter()
        .map(|it| format!("{{cluster: {}, voters: 1}}", it.name))
        .collect();
    let members = format!("placement: [{}]", places.join(", "));
    let service = registers::apply(hub, &members).await?;
    service.wait("Ready", PATIENCE).await?;
    let seconds = began.elapsed().as_secs_f64();
    report.say(format!(
        "Ready in all three {seconds:.1} s after kubectl apply"
    ));
    tells(&service, report).await?;

    let mut entrances = Vec::new();
    for cluster in clusters.all() {
        let ports = node_ports(cluster, NAME).await?;
        entrances.push(*ports.first().context("no node")?);
    }
    let workload = Workload::start(&entrances, registers::plan());
    let mut cuts = Vec::new();
    for _ in 0..ROUNDS {
        for place in 0..clusters.all().len() {
            let cut = cut(&clusters, place, &service, &workload, &entrances, report).await?;
            cuts.push(cut);
        }
    }
    let recorded = workload.finish().await?;
    tell(&cuts, &clusters, &recorded, report);
    registers::check(&recorded, clusters.all(), report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

/// The operator in all clusters, the first of which is the hub of the others, and volumes in each.
pub(super) async fn install(product: &Product, clusters: &Clusters, volumes: u8) -> Result<()> {
    let hub = clusters.first();
    let installs = clusters.all().iter().map(|cluster| async move {
        product.load(cluster, volumes).await?;
        let values = [
            format!("cluster.name={}", cluster.name),
            format!("cluster.region={}", cluster.region),
            format!("hub={}", cluster.name == hub.name),
        ];
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        product.install(cluster, &values).await
    });
    try_join_all(installs).await?;
    for cluster in &clusters.all()[1..] {
        product.join(cluster, hub).await?;
    }
    Ok(())
}

/// What the status shows.
async fn tells(service: &Service<'_>, report: &mut Report) -> Result<()> {
    let line = service.hub.kubectl(["get", "rsvc", NAME]).await?;
    report.say(&line);
    let object = service.object().await?;
    let status = &object["status"];
    let leader = &status["leader"];
    report.expect(
        leader["region"].as_str().is_some_and(|it| !it.is_empty()),
        format!("the leader's region is not told: {leader}"),
    );
    let tolerates = status["summary"]["tolerates"].as_str().unwrap_or_default();
    report.expect(
        tolerates.contains("region"),
        format!("what the service tolerates is {tolerates:?}"),
    );
    Ok(())
}

/// Cuts a region off, sees what clients of it are told, and heals it.
async fn cut(
    clusters: &Clusters,
    place: usize,
    service: &Service<'_>,
    workload: &Workload,
    entrances: &[SocketAddr],
    report: &mut Report,
) -> Result<Cut> {
    let cluster: &Cluster = &clusters.all()[place];
    let leader = service.leader().await?;
    let led = leader.contains(&format!("-{}-", cluster.name));
    let at_ns = workload.now_ns();
    clusters.cut(&cluster.region)?;
    tokio::time::sleep(CUT).await;
    let client = Client::new(entrances[place]);
    let write = client.send(request("POST", "/echo", "cut"), PATIENCE).await;
    let told = write.as_ref().map(|it| (it.status.as_u16(), it.outcome()));
    let refused = matches!(
        told,
        Ok((503, Some("not-ordered")) | (504, Some("unknown")))
    );
    report.expect(
        refused,
        format!("a write in {}, cut off, got {write:?}", cluster.name),
    );
    clusters.heal(&cluster.region)?;
    let healed_ns = workload.now_ns();
    serves(&client, &cluster.name).await?;
    service
        .wait("Ready", PATIENCE)
        .await
        .with_context(|| format!("after {} was cut off", cluster.name))?;
    Ok(Cut {
        place,
        led,
        at_ns,
        healed_ns,
    })
}

/// Waits until a write is served again.
async fn serves(client: &Client, name: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = client
            .send(request("POST", "/echo", "healed"), PATIENCE)
            .await;
        if answer.is_ok_and(|it| it.status.is_success()) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("{name} does not serve after it was healed");
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// How soon the other regions, and then the cut one, served writes again.
fn tell(cuts: &[Cut], clusters: &Clusters, recorded: &Recorded, report: &mut Report) {
    let first_write = |place: usize, from_ns: u64| {
        let member = place as u32 + 1;
        let after = recorded
            .tries
            .iter()
            .filter(|it| it.write && it.served && it.member == member && it.begun_ns >= from_ns);
        after
            .map(|it| (it.ended_ns - from_ns) as f64 / 1e6)
            .min_by(f64::total_cmp)
    };
    let (mut others, mut back) = (Vec::new(), Vec::new());
    for cut in cuts {
        let name = &clusters.all()[cut.place].name;
        let slowest = (0..clusters.all().len())
            .filter(|place| *place != cut.place)
            .map(|place| first_write(place, cut.at_ns).unwrap_or(f64::INFINITY))
            .max_by(f64::total_cmp)
            .unwrap_or(f64::INFINITY);
        let healed = first_write(cut.place, cut.healed_ns).unwrap_or(f64::INFINITY);
        let role = if cut.led { ", which led," } else { "" };
        report.say(format!(
            "{name}{role} cut off: the others served after {slowest:.0} ms, \
             it served {healed:.0} ms after it was healed"
        ));
        others.push(slowest);
        back.push(healed);
    }
    let others = Distribution::new(others);
    report.say(format!("the others go on: {others}"));
    report.say(format!("the cut one is back: {}", Distribution::new(back)));
    report.expect(
        others.max() <= LIMIT_MS,
        format!("the others took up to {:.0} ms", others.max()),
    );
}
