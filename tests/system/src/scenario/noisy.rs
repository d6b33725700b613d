//! Programs that nobody here wrote and that draw lots: what is told of them, and what is done.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Settings;
use crate::client::{Answer, Client, request};
use crate::group::{Group, Options};
use crate::process::eventually;
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(20);
/// A copy that is to be made anew is made anew within that.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Nobody is taken out for noise: looked at for so long.
const QUIET: Duration = Duration::from_secs(3);

const LOCK: &str = r#"<?xml version="1.0"?>
<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>"#;

async fn start(settings: &Settings, app: &str) -> anyhow::Result<Group> {
    let run = settings.apps.join(app).join("run");
    Group::start(&Options {
        command: vec![run.display().to_string()],
        ..Options::default()
    })
    .await
}

/// lighttpd gives out a random token for each lock, on each copy its own.
pub(super) async fn locks(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = start(settings, "lighttpd").await?;
    let clients: Vec<Client> = group.addresses().into_iter().map(Client::new).collect();
    let send = async |member: usize, method: &str, body: &str, with: &[(&'static str, &str)]| {
        let mut request = request(method, "/plan.txt", body.to_owned());
        for (name, value) in with {
            request.headers_mut().insert(*name, value.parse()?);
        }
        anyhow::Ok(clients[member].send(request, LIMIT).await?)
    };
    let made = send(0, "PUT", "one", &[]).await?;
    ensure!(made.status == 201, "{}", told(&made));
    quiet(&group, "after a PUT", report).await?;

    let locked = send(0, "LOCK", LOCK, &[("timeout", "Second-600")]).await?;
    ensure!(locked.status == 200, "{}", told(&locked));
    let token = locked.headers.get("lock-token").context("no token")?;
    let token = token.to_str()?.to_owned();
    tells_noise(&group, "lock-token", report).await?;
    quiet(&group, "for tokens", report).await?;
    // Locked it is, on every copy.
    for member in 0..3 {
        let refused = send(member, "PUT", "two", &[]).await?;
        report.expect(refused.status == 423, told(&refused));
    }
    quiet(&group, "for refusals", report).await?;

    // The token is that of one copy: only there may it write. Two copies have refused.
    let begun = Instant::now();
    let alone = send(0, "PUT", "two", &[("if", &format!("({token})"))]).await?;
    ensure!(alone.status == 204, "{}", told(&alone));
    let diverged = eventually(
        SECOND,
        LOOK,
        async || matches!(find(&group, "diverged").await, Ok(found) if !found.is_empty()),
    );
    report.expect(diverged.await, "the copy that wrote alone is not found");
    report.say(format!(
        "with the token one copy writes, which is found after {:.2} s",
        begun.elapsed().as_secs_f64()
    ));
    let back = eventually(BACK_WITHIN, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        let found = find(&group, "diverged").await;
        members.len() == 3
            && members.iter().all(|it| it.serving)
            && found.is_ok_and(|it| it.is_empty())
    });
    report.expect(back.await, "the copy that wrote alone is not made anew");
    report.say(format!(
        "and is as the others again after {:.2} s",
        begun.elapsed().as_secs_f64()
    ));
    group.wait_until_level(LIMIT).await?;
    let copies = group.ask_copies("/plan.txt").await?;
    report.expect(
        copies.iter().all(|it| *it == "one"),
        format!("the copies hold {copies:?}"),
    );
    group.stop().await?;
    Ok(())
}

/// Adminer begins a session with a random cookie, on each copy its own.
pub(super) async fn sessions(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = start(settings, "adminer").await?;
    let clients: Vec<Client> = group.addresses().into_iter().map(Client::new).collect();
    for client in &clients {
        let form = "auth[driver]=server&auth[server]=127.0.0.1&auth[username]=u&auth[password]=p";
        let mut login = request("POST", "/adminer.php", form.to_owned());
        let form = "application/x-www-form-urlencoded".parse()?;
        login.headers_mut().insert("content-type", form);
        let answer = client.send(login, LIMIT).await?;
        ensure!(answer.status == 302, "{}", told(&answer));
        ensure!(answer.headers.contains_key("set-cookie"), "no session");
    }
    tells_noise(&group, "set-cookie", report).await?;
    quiet(&group, "for cookies", report).await?;
    group.wait_until_level(LIMIT).await?;
    group.stop().await?;
    Ok(())
}

fn told(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.text())
}

/// This part is told to differ on all copies.
async fn tells_noise(group: &Group, part: &str, report: &mut Report) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    let told = eventually(2 * SECOND, LOOK, async || {
        let found = find(group, "not_deterministic").await.unwrap_or_default();
        let found = found.iter().filter_map(|it| it["part"].as_str());
        parts = found.map(ToOwned::to_owned).collect();
        parts.iter().any(|it| it.contains(part))
    });
    report.expect(told.await, format!("{part} is not told"));
    report.say(format!("told to be not deterministic: {parts:?}"));
    Ok(())
}

async fn find(group: &Group, what: &str) -> anyhow::Result<Vec<Value>> {
    let leader = group.leader().await.context("nobody leads")?;
    let told = group.tell(leader).await?;
    Ok(told[what].as_array().cloned().unwrap_or_default())
}

/// For a while no copy is found to differ, and all serve.
async fn quiet(group: &Group, why: &str, report: &mut Report) -> anyhow::Result<()> {
    let end = Instant::now() + QUIET;
    while Instant::now() < end {
        let found = find(group, "diverged").await?;
        let members = group.status().await?;
        let serve = members.iter().filter(|it| it.serving).count();
        ensure!(
            found.is_empty() && serve == 3,
            "{why}: {found:?}, {serve} members serve"
        );
        sleep(5 * LOOK).await;
    }
    report.expect(
        !group.said().contains("made anew"),
        format!("{why}, a copy was made anew"),
    );
    Ok(())
}
