//! What `synod local` was asked for, checked before anything is touched. Comes in: arguments and a
//! manifest's text. Goes out: [`Settings`], or a message with the way out.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use synod_api::{AppProtocol, Endpoint, ReplicatedServiceSpec, Risk, State, StateType};
use synod_proto::v1::Policy;

use super::LocalArgs;
use super::fields::{self, Ignored};
use super::folder::Group;
use super::state::by_http;
use crate::exit::Failure;

/// Service name of the bundled example.
const BUNDLED_NAME: &str = "notes";
/// Where it saves and restores its state.
const BUNDLED_BACKUP: &str = "/backup";
/// Of a group on one machine, and the highest number of one.
pub(super) const MAX_MEMBERS: u32 = 9;
const MAX_RTT: Duration = Duration::from_secs(10);
const SHORTEST_APP_TIMEOUT: Duration = Duration::from_secs(1);

/// All that a local group is made from.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) service: String,
    /// All of them.
    pub(super) members: u32,
    /// Those of them that run no app.
    pub(super) witnesses: u32,
    pub(super) listen: SocketAddr,
    /// `None`: a temporary folder.
    pub(super) data: Option<PathBuf>,
    pub(super) rtts: Vec<Duration>,
    /// How long an app may take until it listens.
    pub(super) app_timeout: Duration,
    /// What the state of the group begins with.
    pub(super) import: Option<PathBuf>,
    /// `None`: the bundled example.
    pub(super) command: Option<Vec<String>>,
    pub(super) policy: Policy,
    /// The policy is a manifest's, so a running group is to take it over.
    pub(super) policy_given: bool,
    pub(super) protocol: AppProtocol,
    pub(super) log_max_bytes: u64,
    /// Where the app keeps its state, and how it is saved.
    pub(super) state: State,
    /// The same, if anybody has said it.
    pub(super) state_given: Option<State>,
    pub(super) ignored: Vec<Ignored>,
}

impl Settings {
    /// Reads and checks everything that can be checked without starting anything.
    pub(super) fn new(args: LocalArgs) -> Result<Self, Failure> {
        let manifest = args.file.as_deref().map(read_manifest).transpose()?;
        let (name, spec, ignored) = match manifest {
            Some((service, ignored)) => (Some(service.metadata.name), service.spec, ignored),
            None => (None, ReplicatedServiceSpec::default(), Vec::new()),
        };
        let command = (!args.command.is_empty()).then_some(args.command);
        if let Some(command) = &command {
            find_program(&command[0])?;
        }
        let recorded = match (&args.data, &name) {
            (Some(folder), None) => Group::recorded(folder)?,
            _ => None,
        };
        let asked = match &args.file {
            Some(_) => Some(spec.state.clone()),
            None => args.state.state()?,
        };
        let state_given = asked.or_else(|| recorded.as_ref()?.state.clone());
        let (members, witnesses) = match (&recorded, args.replicas, args.witnesses) {
            (Some(group), None, None) => (group.count(), group.witnesses.len() as u32),
            (_, copies, witnesses) => members(copies, witnesses, &spec)?,
        };
        let ports = u32::from(args.listen.port()) + members - 1;
        if args.listen.port() == 0 || ports > u32::from(u16::MAX) {
            return Err(Failure::usage(format!(
                "--listen {}: {members} members need the ports from {} on: use a port from 1 to {}",
                args.listen,
                args.listen.port(),
                u32::from(u16::MAX) + 1 - members
            )));
        }
        let of_folder = recorded.map(|group| group.service);
        let service = name.or(of_folder).unwrap_or_else(|| match &command {
            Some(command) => service_name(&command[0]),
            None => BUNDLED_NAME.to_owned(),
        });
        let bundled = command.is_none();
        let kept = state_given.as_ref().map(|it| it.kind);
        if args.import.is_some() && kept != Some(StateType::Volume) {
            return Err(Failure::usage(
                "--import: the state of such an app is not in files: add --state volume, or set spec.state.type to Volume",
            ));
        }
        Ok(Self {
            import: args.import,
            policy: synod_api::policy(&service, &spec),
            policy_given: args.file.is_some(),
            service,
            members,
            witnesses,
            listen: args.listen,
            data: args.data,
            rtts: rtts(args.rtt.as_deref(), members)?,
            app_timeout: args.app_timeout,
            command,
            protocol: spec.app.protocol,
            log_max_bytes: spec.log.max_size.bytes(),
            state: state_given
                .clone()
                .unwrap_or_else(|| default_state(bundled)),
            state_given,
            ignored,
        })
    }
}

/// Of an app of which nobody has said anything. The bundled example saves and restores its state.
fn default_state(bundled: bool) -> State {
    let backup = |method: &str| Endpoint {
        method: method.to_owned(),
        path: BUNDLED_BACKUP.to_owned(),
    };
    let mut state = State::default();
    if bundled {
        state.snapshot = by_http(backup("GET"), backup("PUT"));
    }
    state
}

fn read_manifest(path: &Path) -> Result<(synod_api::Manifest, Vec<Ignored>), Failure> {
    let (text, name) = if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin());
        (text, "on standard input".to_owned())
    } else {
        (std::fs::read_to_string(path), path.display().to_string())
    };
    let text =
        text.map_err(|error| Failure::usage(format!("cannot read the manifest {name}: {error}")))?;
    let service = synod_api::parse(&text)
        .map_err(|error| Failure::usage(format!("the manifest {name} is refused:\n{error}")))?;
    let ignored = fields::without_meaning(&text);
    Ok((service, ignored))
}

/// An address to listen on. Names are those of this machine itself: which other of its addresses
/// a name may stand for one day is not for a resolver to say.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    const ALLOWED: &str = "give an address of this machine and a port, such as 127.0.0.1:8080, localhost:8080, [::1]:8080 or 0.0.0.0:8080";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Ok(addresses) = text.to_socket_addrs() else {
        return Err(ALLOWED.to_owned());
    };
    let mut addresses: Vec<_> = addresses.filter(|it| it.ip().is_loopback()).collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let none = || format!("this name does not stand for this machine's loopback: {ALLOWED}");
    addresses.first().copied().ok_or_else(none)
}

/// A time limit for apps.
pub(super) fn app_timeout(text: &str) -> Result<Duration, String> {
    let time: synod_api::Duration = text.parse().map_err(|error| format!("{error}"))?;
    if time.get() < SHORTEST_APP_TIMEOUT {
        return Err("no app listens that soon: give 1s or more".to_owned());
    }
    Ok(time.get())
}

/// All members, and how many of them are witnesses.
fn members(
    copies: Option<u32>,
    witnesses: Option<u32>,
    spec: &ReplicatedServiceSpec,
) -> Result<(u32, u32), Failure> {
    let placed = spec.placement.iter().flatten();
    let placed: u32 = placed.map(|it| it.witnesses).sum();
    if copies.is_none() && witnesses.is_none() {
        return Ok((spec.votes(), placed));
    }
    let copies = copies.unwrap_or(spec.votes() - placed);
    let witnesses = witnesses.unwrap_or(placed);
    if !(1..=MAX_MEMBERS).contains(&copies) {
        return Err(Failure::usage(format!(
            "--replicas {copies}: use 1 to {MAX_MEMBERS}"
        )));
    }
    let members = copies.saturating_add(witnesses);
    if members > MAX_MEMBERS {
        return Err(Failure::usage(format!(
            "--replicas {copies} --witnesses {witnesses}: use {MAX_MEMBERS} together at most"
        )));
    }
    if witnesses > 0 && members.is_multiple_of(2) && !spec.acknowledges(Risk::EvenVoters) {
        return Err(Failure::usage(format!(
            "--replicas {copies} --witnesses {witnesses}: {members} votes tolerate no more losses than {}: use an odd number of both together, such as --replicas 2 --witnesses 1, or a manifest with EvenVoters in spec.acknowledgedRisks",
            members - 1
        )));
    }
    if members.is_multiple_of(2) && !spec.acknowledges(Risk::EvenVoters) {
        return Err(Failure::usage(format!(
            "--replicas {members}: {members} members tolerate no more losses than {}: use an odd number, or a manifest with EvenVoters in spec.acknowledgedRisks",
            members - 1
        )));
    }
    Ok((members, witnesses))
}

/// Round-trip times in the order of [`pairs`]; empty when nothing is to be simulated.
fn rtts(text: Option<&str>, members: u32) -> Result<Vec<Duration>, Failure> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    let times: Vec<Duration> = text
        .split(',')
        .map(|it| {
            let time: synod_api::Duration = it
                .trim()
                .parse()
                .map_err(|error| Failure::usage(format!("--rtt: {error}")))?;
            if time.get() > MAX_RTT {
                return Err(Failure::usage(format!("--rtt {time}: at most 10s")));
            }
            Ok(time.get())
        })
        .collect::<Result<_, _>>()?;
    let pairs = pairs(members);
    if times.len() != pairs.len() {
        let names: Vec<_> = pairs.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        return Err(Failure::usage(format!(
            "--rtt needs one time for each pair of members, {} of them{}{}, not {}",
            pairs.len(),
            if pairs.is_empty() { "" } else { ": " },
            names.join(", "),
            times.len()
        )));
    }
    Ok(times)
}

/// The pairs of members, counted from 1, in the order in which `--rtt` lists them.
pub(super) fn pairs(members: u32) -> Vec<(u32, u32)> {
    (1..=members)
        .flat_map(|a| (a + 1..=members).map(move |b| (a, b)))
        .collect()
}

/// Refuses a program that is not there, before anything is started.
pub(crate) fn find_program(program: &str) -> Result<(), Failure> {
    if program.contains('{') {
        // Known only when its member is.
        return Ok(());
    }
    let found = if program.contains('/') {
        is_executable(Path::new(program))
    } else {
        std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|folder| is_executable(&folder.join(program)))
        })
    };
    if found {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the command `{program}` was not found{}: install it, or give the path of an executable file",
        if program.contains('/') {
            ""
        } else {
            " in PATH"
        }
    )))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// A service's name made from a program's: what is left of it is a DNS label.
fn service_name(program: &str) -> String {
    let base = program.rsplit('/').next().unwrap_or(program);
    let mut name: String = base
        .to_ascii_lowercase()
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() { it } else { '-' })
        .skip_while(|it| !it.is_ascii_alphabetic())
        .take(40)
        .collect();
    while name.ends_with('-') {
        name.pop();
    }
    if name.is_empty() {
        "app".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::Folder;
    use super::*;
    use crate::exit::USAGE;
    use synod_api::{OnUncleanCrash, SnapshotType, StateType};

    fn args(list: &[&str]) -> LocalArgs {
        super::super::parse_for_tests(list)
    }

    fn refusal(list: &[&str]) -> String {
        let failure = Settings::new(args(list)).expect_err("refused");
        assert_eq!(failure.code, USAGE);
        failure.to_string()
    }

    #[test]
    fn without_arguments_three_members_run_the_bundled_example() {
        let settings = Settings::new(args(&[])).expect("fine");
        assert_eq!(settings.service, "notes");
        assert_eq!(settings.members, 3);
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert!(settings.command.is_none() && settings.data.is_none() && settings.rtts.is_empty());
        assert_eq!(settings.policy.version, 1);
    }

    #[test]
    fn a_service_is_named_after_its_program() {
        for (program, name) in [
            ("/usr/sbin/nginx", "nginx"),
            ("./My_App.py", "my-app-py"),
            ("7zip!", "zip"),
            ("123", "app"),
        ] {
            assert_eq!(service_name(program), name);
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        assert!(refusal(&["--", "no-such-program-here"]).contains("`no-such-program-here`"));
        assert!(refusal(&["--", "/etc/passwd"]).contains("executable"));
        assert!(Settings::new(args(&["--", "sh", "-c", "true"])).is_ok());
    }

    #[test]
    fn round_trip_times_are_given_for_each_pair() {
        let settings = Settings::new(args(&["--rtt", "65ms,75ms,135ms"])).expect("fine");
        assert_eq!(settings.rtts[2], Duration::from_millis(135));
        assert_eq!(pairs(3), [(1, 2), (1, 3), (2, 3)]);
        let text = refusal(&["--rtt", "65ms"]);
        assert!(text.contains("3 of them: 1-2, 1-3, 2-3, not 1"), "{text}");
        assert!(refusal(&["--rtt", "65,1ms,1ms"]).contains("1h30m"));
        assert!(refusal(&["--rtt", "1h,1ms,1ms"]).contains("at most"));
    }

    #[test]
    fn numbers_of_members_and_ports_that_cannot_be_are_refused() {
        assert!(refusal(&["--replicas", "2"]).contains("odd"));
        assert!(refusal(&["--replicas", "0"]).contains("1 to 9"));
        assert!(refusal(&["--replicas", "11"]).contains("1 to 9"));
        assert!(refusal(&["--replicas", "8", "--witnesses", "3"]).contains("9 together"));
        assert!(refusal(&["--witnesses", "1"]).contains("--replicas 2 --witnesses 1"));
        assert!(refusal(&["--listen", "127.0.0.1:65534"]).contains("65533"));
        assert!(refusal(&["--listen", "127.0.0.1:0"]).contains("--listen"));
    }

    #[test]
    fn witnesses_are_members_besides_the_copies() {
        let count = |list: &[&str]| {
            let settings = Settings::new(args(list)).expect("fine");
            (settings.members, settings.witnesses)
        };
        assert_eq!(count(&["--replicas", "2", "--witnesses", "1"]), (3, 1));
        assert_eq!(count(&["--replicas", "1", "--witnesses", "2"]), (3, 2));
        let parent = tempfile::tempdir().expect("folder");
        let file = parent.path().join("m.yaml");
        let manifest = "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: board}\nspec: {placement: [{cluster: a, voters: 2}, {cluster: b, witnesses: 1}], template: {spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}}\n";
        std::fs::write(&file, manifest).expect("write");
        let file = file.to_str().expect("text");
        assert_eq!(count(&["-f", file]), (3, 1));
        assert_eq!(count(&["-f", file, "--replicas", "4"]), (5, 1));
        let path = parent.path().join("data");
        let group = Group::new("wiki", 3, None).with_witnesses(1);
        assert_eq!(group.witnesses, ["wiki-3"]);
        let folder = Folder::open(Some(&path), group).expect("made");
        folder.member(1).expect("made");
        let data = path.to_str().expect("text");
        assert_eq!(count(&["--data", data, "--", "sh"]), (3, 1));
        drop(folder);
        let error = Folder::open(Some(&path), Group::new("wiki", 3, None)).expect_err("refused");
        assert!(
            error.to_string().contains("--replicas 2 --witnesses 1"),
            "{error}"
        );
    }

    #[test]
    fn names_of_the_loopback_are_addresses_to_listen_on() {
        assert_eq!(
            listen("localhost:81").map(|it| it.to_string()),
            Ok("127.0.0.1:81".to_owned())
        );
        assert!(listen("[::1]:81").is_ok() && listen("0.0.0.0:81").is_ok());
        for text in ["8080", "localhost", ":8080", "a b:1", "localhost:x", ""] {
            let error = listen(text).expect_err(text);
            assert!(error.contains("localhost:8080"), "{error}");
        }
        assert_eq!(app_timeout("2m"), Ok(Duration::from_secs(120)));
        assert!(app_timeout("0s").is_err() && app_timeout("5").is_err());
    }

    #[test]
    fn what_a_folder_was_used_with_counts_where_nothing_else_is_said() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let data = path.to_str().expect("text");
        let folder = Folder::open(Some(&path), Group::new("wiki", 5, None)).expect("made");
        let named = |list: &[&str]| {
            let list = [&["--data", data], list].concat();
            let settings = Settings::new(args(&list)).expect("fine");
            (settings.service, settings.members)
        };
        let fresh = ("sh".to_owned(), 3);
        assert_eq!(named(&["--", "sh"]), fresh, "no member was made in it yet");
        folder.member(1).expect("made");
        assert_eq!(named(&["--", "sh"]), ("wiki".to_owned(), 5));
        assert_eq!(named(&["--replicas", "3"]), ("wiki".to_owned(), 3));
        let file = parent.path().join("m.yaml");
        std::fs::write(&file, "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: board}\nspec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}}\n").expect("write");
        let given = named(&["-f", file.to_str().expect("text")]);
        assert_eq!(given, ("board".to_owned(), 3));
        assert!(refusal(&["--data", file.to_str().expect("text")]).contains("is a file"));
    }

    #[test]
    fn a_state_is_what_was_said_last_or_else_the_bundled_example_saves_itself() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let data = path.to_str().expect("text");
        let state = |list: &[&str]| {
            let list = [&["--data", data], list].concat();
            Settings::new(args(&list)).expect("fine").state
        };
        let bundled = state(&[]);
        assert_eq!(bundled.kind, StateType::Ephemeral);
        assert_eq!(bundled.snapshot.kind, SnapshotType::Http);
        assert_eq!(state(&["--", "sh"]), State::default());
        let volume = state(&["--state", "volume"]);
        assert_eq!(volume.kind, StateType::Volume);
        assert_eq!(volume.snapshot.kind, SnapshotType::Volume);
        let asks = [
            "--state",
            "volume",
            "--applied",
            "GET /a",
            "--snapshot",
            "none",
        ];
        let asks = state(&asks);
        let crash = Some(OnUncleanCrash::AppliedHeader);
        assert_eq!(
            (asks.on_unclean_crash, asks.snapshot.kind),
            (crash, SnapshotType::None)
        );

        let group = Group::new("notes", 3, Some(asks.clone()));
        Folder::open(Some(&path), group)
            .expect("made")
            .member(1)
            .expect("made");
        assert_eq!(state(&[]), asks);
        assert_eq!(state(&["--", "sh"]), asks);
        assert_eq!(state(&["--state", "volume"]), volume);
    }

    #[test]
    fn arguments_about_the_state_that_contradict_each_other_are_refused() {
        assert!(refusal(&["--applied", "GET /a"]).contains("--state volume"));
        assert!(refusal(&["--snapshot", "volume"]).contains("--state volume"));
        let of_file = ["--state", "ephemeral", "--snapshot", "volume"];
        assert!(refusal(&of_file).contains("--snapshot-save"));
    }

    #[test]
    fn a_manifest_gives_name_policy_and_members_and_is_refused_when_bad() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("m.yaml");
        let file = path.to_str().expect("text");
        let manifest = "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: wiki}\nspec:\n  replicas: 5\n  template: {spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}\n  ordering: {queueTimeout: 3s}\n";
        std::fs::write(&path, manifest).expect("write");
        let settings = Settings::new(args(&["-f", file])).expect("fine");
        assert_eq!((settings.service.as_str(), settings.members), ("wiki", 5));
        assert_eq!(settings.policy.queue_timeout_ms, 3_000);
        let settings = Settings::new(args(&["-f", file, "--replicas", "3"])).expect("fine");
        assert_eq!(settings.members, 3);

        std::fs::write(&path, manifest.replace("replicas", "replica")).expect("write");
        assert!(refusal(&["-f", file]).contains("unknown field `replica`"));
        let volume = format!("{manifest}  state: {{type: Volume, volume: {{mountPath: /d}}}}\n");
        std::fs::write(&path, volume).expect("write");
        let settings = Settings::new(args(&["-f", file])).expect("fine");
        assert_eq!(settings.state.kind, StateType::Volume);
        assert_eq!(settings.ignored[1].path, "spec.state.volume");
        assert!(refusal(&["-f", "/no/such/file"]).contains("/no/such/file"));
    }
}
