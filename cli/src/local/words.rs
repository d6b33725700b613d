//! What `synod local` says. Comes in: what is known. Goes out: texts for people; nothing is printed
//! here.

use std::path::Path;

use super::folder::Folder;
use super::keeper::{Event, HOPELESS, Part, What};
use super::member::Member;
use super::process::last_lines;
use super::settings::Settings;

/// What an app that does not come up may have missed.
const HINT: &str = "; an app has to stay in the foreground and to listen on {port} or PORT";

/// The first thing said.
pub(super) fn introduction(settings: &Settings, folder: &Folder) -> String {
    let end = if folder.is_temporary() {
        ", which is removed at the end"
    } else {
        ""
    };
    let mut lines = vec![format!(
        "starting {} members of {} in {}{end}",
        folder.numbers().len(),
        settings.service,
        folder.path().display()
    )];
    let ignored = &settings.ignored;
    if !ignored.is_empty() {
        lines.push("fields of the manifest that have no meaning here:".to_owned());
    }
    let width = ignored.iter().map(|it| it.path.len()).max().unwrap_or(0);
    lines.extend(
        ignored
            .iter()
            .map(|it| format!("  {:width$}  {}", it.path, it.reason)),
    );
    lines.join("\n")
}

/// A quorum is up: where it is, and three lines to paste.
pub(super) fn invitation(settings: &Settings, members: &[&Member]) -> String {
    let first = members[0];
    let other = members.get(2).or(members.last()).unwrap_or(&first);
    let (path, data) = match settings.command {
        None => ("/notes", "text=hello"),
        Some(_) => ("/", "hello"),
    };
    let pid_file = shell_quoted(&first.folder.pid("sidecar"));
    let commands = [
        (
            format!("curl -i -d {data} {}{path}", first.url()),
            format!("write through {}", first.name),
        ),
        (
            format!("curl -i {}{path}", other.url()),
            format!("read from {}", other.name),
        ),
        (
            format!("kill -9 $(cat {pid_file})"),
            format!("kill the sidecar of {}", first.name),
        ),
    ];
    let width = commands.iter().map(|it| it.0.len()).max().unwrap_or(0);
    let mut lines = vec![String::new(), format!("{} is up:", settings.service)];
    lines.extend(members.iter().map(|it| {
        let what = if it.witness {
            "  (a witness: no app)"
        } else {
            ""
        };
        format!("  {}  {}/{what}", it.name, it.url())
    }));
    lines.push("try it:".to_owned());
    lines.extend(
        commands
            .iter()
            .map(|(command, what)| format!("  {command:width$}  # {what}")),
    );
    lines.push("Ctrl-C ends it.".to_owned());
    lines.join("\n")
}

/// The apps do not listen, so there will be no quorum.
pub(super) const HOPELESSLY_SILENT: &str = "so many apps do not listen that there can be no quorum; one that only needs more time gets it with --app-timeout";

/// A group that was started without a manifest goes on with the policy of an earlier one.
pub(super) const POLICY_KEPT: &str = "without -f the policy that this group agreed on last stays in force: routes and limits of an earlier manifest";

/// What happened to a process of `member`.
pub(super) fn event(event: &Event, member: &Member) -> String {
    let name = &member.name;
    let (title, log, hint) = match event.part {
        Part::Sidecar => ("sidecar", member.folder.log("sidecar"), ""),
        Part::App => ("app", member.folder.log("app"), HINT),
    };
    match &event.what {
        What::Started { pid } => format!("{name}: {title} started, process {pid}"),
        What::Ended {
            how, quick_deaths, ..
        } if *quick_deaths == HOPELESS => format!(
            "{name}: the {title} does not come up: it {how}, {quick_deaths} times in a row{hint}\n{}",
            last_lines(&log)
        ),
        What::Ended { how, again_in, .. } if again_in.is_zero() => {
            format!("{name}: {title} {how} and is started again")
        }
        What::Ended { how, again_in, .. } => format!(
            "{name}: {title} {how} and is started again in {}",
            humantime::format_duration(*again_in)
        ),
        What::StoppedForRebuild => {
            format!("{name}: the app is stopped, and its copy is made anew")
        }
        What::StoppedForRevision(revision) => {
            format!(
                "{name}: the app is stopped, and revision {revision} runs along silently in its place"
            )
        }
        What::HeldBack(reason) => format!("{name}: the app is not started yet: {reason}"),
        What::CannotStart(problem) => format!("{name}: {title} cannot be started: {problem}"),
        What::NotListening(since) => format!(
            "{name}: the app runs, but does not listen on port {}, {} after it was started{hint}\n{}",
            member.app.port(),
            humantime::format_duration(*since),
            last_lines(&log)
        ),
    }
}

/// A path as a shell takes it.
fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |it: char| it.is_ascii_alphanumeric() || "/._-+:@%".contains(it);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_can_be_pasted() {
        assert_eq!(shell_quoted("/tmp/a-b/c.pid".as_ref()), "/tmp/a-b/c.pid");
        assert_eq!(
            shell_quoted("/tmp/a b/it's".as_ref()),
            r"'/tmp/a b/it'\''s'"
        );
    }
}
