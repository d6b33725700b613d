//! A member that was away for long: how fast it reads what it has missed, next to a plain copy of as much
//! over the same kind of connection.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use synod_sidecar::config::Config;
use synod_sidecar::identity::{Connector, Identity, Who, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::Settings;
use crate::client::{Client, request};
use crate::group::{Group, Options, Part};
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);
/// A request's body, in bytes.
const BODY: u64 = 1 << 20;
/// Requests under way at a time.
const TOGETHER: u64 = 8;
/// The copy is made so often, and the fastest counts.
const COPIES: u32 = 2;
/// Of the rate of a plain copy, at least: meanwhile everything is executed, too, and on few cores all of
/// that has to share them. A snapshot comes faster (`throughput` of the sidecar's tests).
const SHARE: f64 = 0.15;

/// See the module.
pub(super) async fn catches_up(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let group = Group::start(&Options::with_state(&[], "{type: Ephemeral}")?).await?;
    let leader = group.leader().await.context("nobody leads")?;
    let away = group.numbers().into_iter().find(|it| *it != leader);
    let away = away.context("nobody follows")?;
    let sidecar = group.process(away, Part::Sidecar).context("no sidecar")?;

    sidecar.signal(Signal::STOP)?;
    let bytes = settings.import_bytes.next_multiple_of(BODY);
    let written = write(&group, leader, bytes).await;
    let commit = of(&group, leader).await;
    sidecar.signal(Signal::CONT)?;
    let begun = Instant::now();
    written?;
    let commit = commit?.commit;
    let (mut read, limit) = (None, Instant::now() + 600 * SECOND);
    loop {
        let status = of(&group, away).await;
        if status.as_ref().is_ok_and(|it| it.commit >= commit) {
            read.get_or_insert_with(|| begun.elapsed());
        }
        if status.is_ok_and(|it| it.applied >= commit) {
            break;
        }
        ensure!(Instant::now() < limit, "member {away} does not catch up");
        sleep(Duration::from_millis(5)).await;
    }
    let (read, executed) = (read.unwrap_or_else(|| begun.elapsed()), begun.elapsed());
    // Beside the group, which is at rest.
    let folder = tempfile::tempdir()?;
    let mut plain = Duration::MAX;
    for _ in 0..COPIES {
        let copied = copy(&group, [leader, away], bytes, folder.path()).await?;
        plain = plain.min(copied);
    }
    let rate = |time: Duration| bytes as f64 / f64::from(1 << 20) / time.as_secs_f64();
    let share = plain.as_secs_f64() / read.as_secs_f64();
    report.say(format!(
        "{} MiB behind: its log had them after {:.2} s ({:.0} MiB/s), its app after {:.2} s; a plain copy over TLS takes {:.2} s ({:.0} MiB/s): {:.0} %",
        bytes >> 20,
        read.as_secs_f64(),
        rate(read),
        executed.as_secs_f64(),
        plain.as_secs_f64(),
        rate(plain),
        100.0 * share
    ));
    report.expect(
        share >= SHARE,
        format!("it catches up at {:.0} % of a plain copy", 100.0 * share),
    );
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}

async fn of(group: &Group, number: u32) -> anyhow::Result<crate::group::MemberStatus> {
    let name = format!("registers-{number}");
    let mut members = group.status().await?.into_iter();
    members
        .find(|it| it.name == name)
        .with_context(|| format!("{name} does not answer"))
}

/// Has that much agreed on. The app refuses the requests, which makes no difference to the log.
async fn write(group: &Group, through: u32, bytes: u64) -> anyhow::Result<()> {
    let client = Client::new(group.address(through));
    let mut random = StdRng::seed_from_u64(bytes);
    let mut body = vec![0; BODY as usize];
    random.fill_bytes(&mut body);
    let requests = bytes / BODY;
    let each = (0..TOGETHER).map(|first| {
        let (client, body) = (&client, &body);
        async move {
            for _ in (first..requests).step_by(TOGETHER as usize) {
                let put = request("PUT", "/nothing", body.clone());
                let answer = client.send(put, 60 * SECOND).await?;
                ensure!(
                    answer.slot().is_some(),
                    "{} {}",
                    answer.status,
                    answer.text()
                );
            }
            anyhow::Ok(())
        }
    });
    try_join_all(each).await.map(drop)
}

/// File to file between two members' identities, synced at the end.
async fn copy(
    group: &Group,
    members: [u32; 2],
    bytes: u64,
    folder: &Path,
) -> anyhow::Result<Duration> {
    let identity = |number: u32| {
        let config = Config::load(&group.member_folder(number).join("sidecar.yaml"))?;
        let who = Who::Member(config.member.clone());
        anyhow::Ok((
            Identity::load(&config.tls, &config.names(), who.clone())?,
            who,
        ))
    };
    let [(from, from_who), (to, _)] = [identity(members[0])?, identity(members[1])?];
    let (source, copied) = (folder.join("source"), folder.join("copy"));
    if !source.exists() {
        let mut content = vec![0; BODY as usize];
        let mut random = StdRng::seed_from_u64(bytes);
        let mut file = tokio::fs::File::create(&source).await?;
        for _ in 0..bytes / BODY {
            random.fill_bytes(&mut content);
            file.write_all(&content).await?;
        }
        file.sync_all().await?;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut accepted = accept(listener, from);
    let sending = tokio::spawn(async move {
        let stream = accepted.next().await.context("nobody came")?;
        let mut stream = stream?;
        let mut file = tokio::fs::File::open(source).await?;
        pass(&mut file, &mut stream).await?;
        stream.shutdown().await?;
        anyhow::Ok(())
    });
    let begun = Instant::now();
    let mut stream = Connector::fixed(to, from_who, address).dial().await?;
    let mut file = tokio::fs::File::create(&copied).await?;
    let count = pass(&mut stream, &mut file).await?;
    file.sync_all().await?;
    let took = begun.elapsed();
    sending.await??;
    ensure!(count == bytes, "{count} of {bytes} bytes were copied");
    Ok(took)
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) -> anyhow::Result<u64> {
    let mut piece = vec![0; 256 << 10];
    let mut passed = 0;
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(passed);
        }
        to.write_all(&piece[..count]).await?;
        passed += count as u64;
    }
}
