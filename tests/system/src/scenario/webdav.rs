//! A WebDAV server that nobody here wrote, with a volume full of files.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tokio::time::Instant;

use super::Settings;
use super::members::{fill, tree};
use crate::client::{Client, request};
use crate::group::{Group, Options, Part};
use crate::process::eventually;
use crate::report::Report;

const LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// A copy of a full volume is made anew within that.
const FULL: Duration = Duration::from_secs(600);
/// Folders that clients make; each takes twelve requests.
const FOLDERS: u32 = 20;

/// What lighttpd has on its disk becomes the state of three copies; it is written to, saved, rolled back
/// and given to a member that has lost its own, to the last byte.
pub(super) async fn volume(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let from = folder.path().join("used");
    let files = fill(&from.join("files"), settings.import_bytes)?;
    let mut options = Options::with_state(
        &[],
        "{type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}",
    )?;
    options.command = vec![settings.apps.join("lighttpd/run").display().to_string()];
    options.arguments = vec!["--import".to_owned(), from.display().to_string()];
    options.patience = Some(FULL);
    let begun = Instant::now();
    let mut group = Group::start(&options).await?;
    report.say(format!(
        "{} bytes in {files} files are served by three copies after {:.1} s",
        settings.import_bytes,
        begun.elapsed().as_secs_f64()
    ));

    change(&group, "before").await?;
    let begun = Instant::now();
    let taken = group.command(&["snapshot", "take"]).await?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    ensure!(taken.status.success(), "no snapshot: {said}");
    report.say(format!("saved in {:.1} s", begun.elapsed().as_secs_f64()));
    change(&group, "behind").await?;

    let app = group.process(2, Part::App).context("no app runs")?;
    let begun = Instant::now();
    app.signal(Signal::KILL)?;
    let died = eventually(LIMIT, LOOK, async || !app.lives());
    ensure!(died.await, "the app survived SIGKILL");
    let back = eventually(FULL, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        group.process(2, Part::App).is_some() && members.iter().all(|it| it.serving)
    });
    ensure!(back.await, "its copy is not back");
    report.say(format!(
        "rolled back and level after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));

    let begun = Instant::now();
    let replaced = group
        .command(&["members", "replace", "registers-3"])
        .await?;
    let said = String::from_utf8_lossy(&replaced.stderr).into_owned();
    ensure!(replaced.status.success(), "not replaced: {said}");
    report.say(format!(
        "another member in place of one after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    change(&group, "at the end").await?;

    group.wait_until_level(LIMIT).await?;
    let wanted = tree(&from.join("files"))?;
    let mut copies = Vec::new();
    for index in group.numbers() {
        copies.push(tree(&group.member_folder(index).join("data/files"))?);
    }
    for (index, copy) in copies.iter().enumerate() {
        let kept = wanted
            .iter()
            .filter(|(name, hash)| copy.get(*name) == Some(hash));
        let kept = kept.count();
        report.expect(
            kept == wanted.len(),
            format!(
                "copy {index} has {kept} of {} files as they were",
                wanted.len()
            ),
        );
        report.expect(
            *copy == copies[0],
            format!("copy {index} differs from the first"),
        );
    }
    let written = copies[0].len() - wanted.len();
    // Two of each folder are left.
    let expected = 3 * 2 * FOLDERS as usize;
    report.expect(
        written == expected,
        format!("{written} files of clients are there, not {expected}"),
    );
    let leader = group.leader().await.context("nobody leads")?;
    let told = group.tell(leader).await?;
    report.expect(
        told["diverged"].as_array().is_some_and(Vec::is_empty),
        format!("copies differ: {}", told["diverged"]),
    );
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}

/// Folders and files come, change, move and go, through one member after another.
async fn change(group: &Group, name: &str) -> anyhow::Result<()> {
    let clients: Vec<Client> = group.addresses().into_iter().map(Client::new).collect();
    let name = name.replace(' ', "-");
    for number in 0..FOLDERS {
        let client = &clients[number as usize % clients.len()];
        let at = |file: &str| format!("/{name}-{number}/{file}");
        let to = |file: &str| format!("http://files.example{}", at(file));
        let big = number.to_string().repeat(20_000);
        let steps = [
            ("MKCOL", at(""), String::new(), String::new(), 201),
            ("PUT", at("one"), String::new(), "one".to_owned(), 201),
            ("PUT", at("one"), String::new(), "another".to_owned(), 204),
            ("PUT", at("big"), String::new(), big, 201),
            ("COPY", at("big"), to("copy"), String::new(), 201),
            ("MOVE", at("one"), to("moved"), String::new(), 201),
            ("MKCOL", at("inner/"), String::new(), String::new(), 201),
            (
                "PUT",
                at("inner/file"),
                String::new(),
                "inside".to_owned(),
                201,
            ),
            ("DELETE", at("big"), String::new(), String::new(), 204),
            ("DELETE", at("inner/"), String::new(), String::new(), 204),
            ("GET", at("moved"), String::new(), String::new(), 200),
            ("GET", at("big"), String::new(), String::new(), 404),
        ];
        for (method, target, destination, body, status) in steps {
            let mut request = request(method, &target, body);
            let headers = request.headers_mut();
            headers.insert("host", "files.example".parse()?);
            if !destination.is_empty() {
                headers.insert("destination", destination.parse()?);
            }
            let answer = client.send(request, LIMIT).await?;
            ensure!(
                answer.status == status,
                "{method} {target}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
    Ok(())
}
