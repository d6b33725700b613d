//! The configuration of one sidecar: one validated struct, from a file and the environment. It
//! holds local matters only; whatever members must agree on is in the replicated policy (rule P7).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::apply::StateType;
use crate::identity::Names;

pub mod founding;
pub mod genesis;
pub mod join;
pub mod limits;
pub mod peers;
pub mod state;
mod token;

pub use token::Token;

/// Variables that stand above the file: what a pod knows of itself only when it runs.
pub const OVERRIDES: [&str; 4] = [
    "SYNOD_MEMBER",
    "SYNOD_REGION",
    "SYNOD_DATA",
    "SYNOD_APP_TOKEN",
];
/// What stands in paths for this member's name, so that one file serves all members.
const MEMBER: &str = "{member}";

/// Longest list of preferred regions, as in the manifest.
const MAX_REGIONS: usize = 16;

/// The file given by `--config`, YAML or JSON. In its paths, `{member}` stands for the member's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Name of the service.
    pub service: String,
    /// This member's stable name.
    pub member: String,
    /// Where it is; empty when there is only one place.
    #[serde(default)]
    pub region: String,
    /// Trust domain and namespace of the members' names in certificates:
    /// `spiffe://<trust_domain>/ns/<namespace>/rsvc/<service>/member/<member>`.
    pub trust_domain: String,
    /// See `trust_domain`.
    pub namespace: String,
    /// Folder for log, ledger and spooled bodies; made with mode 0700 when missing.
    pub data: PathBuf,
    /// File of the first configuration (rule M5); it may come to exist only later.
    pub genesis: PathBuf,
    /// File by which this member gets into a group that runs already; it may come to exist only later.
    /// Without a path, only the genesis can make it a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<PathBuf>,
    /// File with the addresses of the members, read again when it changes.
    pub peers: PathBuf,
    /// Certificates.
    pub tls: Tls,
    /// Where to listen.
    pub listen: Listen,
    /// It is a witness of its group: it votes and keeps the log, and runs no app. Said here since it must
    /// be known before there is a group; a group that counts on it as something else is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub witness: bool,
    /// Where the app listens. A witness has none.
    #[serde(default, skip_serializing_if = "App::is_none")]
    pub app: App,
    /// The log on disk.
    #[serde(default)]
    pub log: Log,
    /// Where the leader should be.
    #[serde(default)]
    pub leader: Leader,
    /// Where the app keeps its state. A witness has nothing of that; should it lead, it goes by when the
    /// next snapshot is due.
    #[serde(default)]
    pub state: state::State,
    /// From what the group begins; without it, with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<founding::Founding>,
}

/// Where the leader should be. A wish of this member's, which the others are told: with different
/// lists the members still agree on who is the better leader.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Leader {
    /// Regions, the best first. Empty: anywhere.
    pub preferred_regions: Vec<String>,
}

impl Leader {
    /// How gladly a member in this region leads, of 100. Never 0: that is for who was asked to let
    /// another lead.
    pub fn preference(&self, region: &str) -> u32 {
        let count = self.preferred_regions.len() as u32;
        let place = self.preferred_regions.iter().position(|it| it == region);
        match place {
            _ if count == 0 => 100,
            Some(place) => 100 * (count - place as u32) / count,
            None => 1,
        }
    }
}

/// PEM files, read again when their content changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Trusted authorities.
    pub ca: PathBuf,
    /// This member's chain.
    pub cert: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
}

/// Addresses this sidecar listens on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listen {
    /// Clients' HTTP/1.1 and h2c.
    pub http: SocketAddr,
    /// Other members' gRPC with mTLS.
    pub peer: SocketAddr,
    /// Admin HTTP.
    pub admin: SocketAddr,
}

/// The app beside this sidecar.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct App {
    /// Its address, on the loopback.
    pub address: SocketAddr,
    /// `HTTP1` or `H2C`.
    #[serde(default)]
    pub protocol: Protocol,
    /// What probes and hooks of the app's container show in the header `Synod-App-Token`; without a
    /// token here they need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Without it the app is always of revision 0, the first.
    #[serde(default, skip_serializing_if = "Revision::is_first")]
    pub revision: Revision,
}

/// Which revision the app is of.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Revision {
    /// The same as long as this sidecar runs: another revision comes with a sidecar of its own.
    Always(u64),
    /// That in the file, a decimal number, written before an app of that revision is started and while none
    /// runs.
    InFile(PathBuf),
}

impl Revision {
    fn is_first(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self::Always(0)
    }
}

impl Default for App {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            protocol: Protocol::default(),
            token: None,
            revision: Revision::default(),
        }
    }
}

impl App {
    /// There is none.
    pub fn is_none(&self) -> bool {
        self.address.port() == 0
    }

    /// The revision of an app that is about to start.
    pub fn read_revision(&self) -> io::Result<u64> {
        let path = match &self.revision {
            Revision::Always(number) => return Ok(*number),
            Revision::InFile(path) => path,
        };
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let words = format!("{} does not hold a decimal number", path.display());
                io::Error::new(io::ErrorKind::InvalidData, words)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// How the app is spoken to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2 with prior knowledge.
    #[serde(rename = "H2C")]
    H2c,
}

/// Limits of the log on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// Proposals are refused when the log is larger, in bytes.
    pub max_bytes: u64,
    /// Size of one segment, in bytes.
    pub segment_bytes: u64,
    /// How often the whole log is read, so that damage is found and mended from other members, in
    /// seconds; 0: never.
    pub scrub_seconds: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 30,
            segment_bytes: 64 << 20,
            scrub_seconds: 86_400,
        }
    }
}

impl Log {
    /// How often the whole log is read; `None`: never.
    pub fn scrub(&self) -> Option<Duration> {
        (self.scrub_seconds > 0).then(|| Duration::from_secs(self.scrub_seconds))
    }
}

/// What is wrong with a configuration: exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {error}; give its path with --config")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is not YAML or JSON of this shape.
    #[error("{path}: {field}: {problem}")]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Path of the field, such as `listen.http`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value is not allowed.
    #[error("{field}: {value:?} is not allowed: {allowed}")]
    Value {
        /// Path of the field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would be.
        allowed: String,
    },
}

// === impl Config ===

impl Config {
    /// Reads a file, puts the environment's [`OVERRIDES`] above it and checks everything.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let environment = OVERRIDES
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(path, &text, &environment)
    }

    /// As [`Config::load`], from a text (YAML, of which JSON is a part). `path` is for messages.
    pub fn parse(
        path: &Path,
        text: &str,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let mut config: Self = serde_path_to_error::deserialize(
            serde_yaml::Deserializer::from_str(text),
        )
        .map_err(|error| ConfigError::Shape {
            path: path.to_owned(),
            field: error.path().to_string(),
            problem: error.inner().to_string(),
        })?;
        if let Some(member) = environment.get("SYNOD_MEMBER") {
            config.member.clone_from(member);
        }
        if let Some(region) = environment.get("SYNOD_REGION") {
            config.region.clone_from(region);
        }
        if let Some(data) = environment.get("SYNOD_DATA") {
            config.data = PathBuf::from(data);
        }
        if let Some(token) = environment.get("SYNOD_APP_TOKEN") {
            config.app.token = Some(Token::new(token.clone()));
        }
        config.check()?;
        config.name_paths();
        Ok(config)
    }

    /// Everything that can be wrong with the values themselves.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("service", &self.service),
            ("member", &self.member),
            ("namespace", &self.namespace),
        ] {
            check_label(field, value)?;
        }
        check_domain("trustDomain", &self.trust_domain)?;
        check_region("region", &self.region)?;
        let preferred = &self.leader.preferred_regions;
        for region in preferred {
            check_region("leader.preferredRegions", region)?;
        }
        if preferred.len() > MAX_REGIONS {
            return Err(ConfigError::Value {
                field: "leader.preferredRegions",
                value: format!("{} regions", preferred.len()),
                allowed: format!("at most {MAX_REGIONS}"),
            });
        }
        for (field, path) in [
            ("data", &self.data),
            ("genesis", &self.genesis),
            ("peers", &self.peers),
            ("tls.ca", &self.tls.ca),
            ("tls.cert", &self.tls.cert),
            ("tls.key", &self.tls.key),
        ] {
            if path.as_os_str().is_empty() {
                return Err(ConfigError::Value {
                    field,
                    value: String::new(),
                    allowed: "a path".into(),
                });
            }
        }
        if let Some(founding) = &self.founding {
            founding.source()?;
        }
        if self.app.token.as_ref().is_some_and(|it| !it.is_usable()) {
            return Err(ConfigError::Value {
                field: "app.token",
                value: "(hidden)".to_owned(),
                allowed: "1 to 128 of A-Z, a-z, 0-9, -, . and _".to_owned(),
            });
        }
        self.check_ports()?;
        self.state.check()?;
        limits::check_log(&self.log)
    }

    /// The names that certificates of this service carry.
    pub fn names(&self) -> Names {
        Names {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service: self.service.clone(),
        }
    }

    /// Puts the member's name, which is a DNS label, into the paths.
    fn name_paths(&mut self) {
        let volume = self.state.volume.as_mut();
        let volume = volume.map(|it| [&mut it.path, &mut it.work]);
        let own = [
            &mut self.data,
            &mut self.genesis,
            &mut self.peers,
            &mut self.tls.ca,
            &mut self.tls.cert,
            &mut self.tls.key,
        ];
        let own = own.into_iter().chain(self.join.as_mut());
        for path in own.chain(volume.into_iter().flatten()) {
            if let Some(text) = path.to_str().filter(|it| it.contains(MEMBER)) {
                *path = PathBuf::from(text.replace(MEMBER, &self.member));
            }
        }
    }

    /// How the app's state comes and goes; of no app, as of one that keeps nothing.
    pub fn state_type(&self) -> StateType {
        if self.witness {
            StateType::Ephemeral
        } else {
            self.state.state_type()
        }
    }

    fn check_ports(&self) -> Result<(), ConfigError> {
        let own = [
            ("listen.http", self.listen.http),
            ("listen.peer", self.listen.peer),
            ("listen.admin", self.listen.admin),
            ("app.address", self.app.address),
        ];
        for (at, (field, address)) in own.iter().enumerate() {
            // Port 0 asks the system for a free one, which suits tests; an app's must be known.
            let clash = own[..at]
                .iter()
                .find(|(_, other)| address.port() != 0 && other.port() == address.port());
            if let Some((other, _)) = clash {
                return Err(ConfigError::Value {
                    field,
                    value: address.to_string(),
                    allowed: format!("a port that {other} does not use"),
                });
            }
        }
        if self.witness {
            if self.app.is_none() {
                return Ok(());
            }
            return Err(ConfigError::Value {
                field: "app.address",
                value: self.app.address.to_string(),
                allowed: "nothing: a witness runs no app, so leave `app` out".into(),
            });
        }
        if !self.app.address.ip().is_loopback() || self.app.is_none() {
            return Err(ConfigError::Value {
                field: "app.address",
                value: self.app.address.to_string(),
                allowed: "an address on the loopback with the app's port, such as 127.0.0.1:8080"
                    .into(),
            });
        }
        Ok(())
    }
}

/// Usable as the name of a region.
pub(crate) fn is_region(value: &str) -> bool {
    value.len() <= 63 && !value.chars().any(char::is_control)
}

/// A DNS label in lower case.
pub(crate) fn is_label(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&value.len())
        && value.chars().all(|c| inner(c) || c == '-')
        && value.starts_with(inner)
        && value.ends_with(inner)
}

fn check_region(field: &'static str, value: &str) -> Result<(), ConfigError> {
    if is_region(value) {
        return Ok(());
    }
    Err(ConfigError::Value {
        field,
        value: value.to_owned(),
        allowed: "at most 63 printable characters".into(),
    })
}

/// A DNS label, as Kubernetes wants names to be; it becomes a segment of a certificate's name.
fn check_label(field: &'static str, value: &str) -> Result<(), ConfigError> {
    if is_label(value) {
        return Ok(());
    }
    Err(ConfigError::Value {
        field,
        value: value.to_owned(),
        allowed: "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit".into(),
    })
}

/// Dot-separated labels.
fn check_domain(field: &'static str, value: &str) -> Result<(), ConfigError> {
    let fits = value.len() <= 253 && value.split('.').all(|it| check_label(field, it).is_ok());
    if fits {
        return Ok(());
    }
    Err(ConfigError::Value {
        field,
        value: value.to_owned(),
        allowed: "a domain name in lower case, such as synod.local".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
service: notes
member: notes-1
trustDomain: synod.local
namespace: local
data: /tmp/data
genesis: /tmp/genesis.json
peers: /tmp/peers.json
tls: {ca: ca.pem, cert: cert.pem, key: key.pem}
listen: {http: '127.0.0.1:7480', peer: '127.0.0.1:7443', admin: '127.0.0.1:7420'}
app: {address: '127.0.0.1:8080'}
";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("config.yaml"), text, &BTreeMap::new())
    }

    #[test]
    fn a_witness_has_no_app_and_everybody_else_has_one() {
        let without = GOOD.replace("app: {address: '127.0.0.1:8080'}\n", "");
        let witness = parse(&format!("{without}witness: true\n")).expect("a witness");
        assert!(witness.witness && witness.app.is_none());
        assert_eq!(witness.state_type(), StateType::Ephemeral);
        let written = serde_yaml::to_string(&witness).expect("written");
        assert!(!written.contains("app:"), "{written}");
        assert!(parse(&written).expect("read back").witness);
        let error = parse(&without).expect_err("no app").to_string();
        assert!(error.contains("app.address"), "{error}");
        let error = parse(&format!("{GOOD}witness: true\n")).expect_err("an app");
        assert!(
            error.to_string().contains("a witness runs no app"),
            "{error}"
        );
    }

    #[test]
    fn a_complete_file_is_taken_with_defaults_for_the_rest() {
        let config = parse(GOOD).expect("good");
        assert_eq!(config.app.protocol, Protocol::Http1);
        assert_eq!(config.log.segment_bytes, 64 << 20);
        let names = config.names();
        assert_eq!(
            names.member("notes-1"),
            "spiffe://synod.local/ns/local/rsvc/notes/member/notes-1"
        );
    }

    #[test]
    fn a_member_leads_the_more_gladly_the_earlier_its_region_is_preferred() {
        let leader = |regions: &[&str]| Leader {
            preferred_regions: regions.iter().map(ToString::to_string).collect(),
        };
        let among = |regions: &[&str]| {
            ["east", "west", "south", ""].map(|it| leader(regions).preference(it))
        };
        assert_eq!(among(&[]), [100; 4]);
        assert_eq!(among(&["west"]), [1, 100, 1, 1]);
        assert_eq!(among(&["west", "south"]), [1, 100, 50, 1]);
        let config = parse(&GOOD.replace("app: {", "leader: {preferredRegions: [a]}\napp: {"));
        assert_eq!(config.expect("good").leader.preferred_regions, ["a"]);
    }

    #[test]
    fn an_error_names_the_field_and_what_is_allowed() {
        for (from, to, words) in [
            (
                "'127.0.0.1:7480'",
                "nowhere",
                &["listen.http", "socket address"][..],
            ),
            (
                "service: notes",
                "service: Notes_",
                &["service", "Notes_", "a-z"],
            ),
            (
                "member: notes-1",
                "membre: notes-1",
                &["membre", "unknown field"],
            ),
            (
                "'127.0.0.1:7443'",
                "'127.0.0.1:7480'",
                &["listen.peer", "listen.http"],
            ),
            (
                "'127.0.0.1:8080'",
                "'10.0.0.1:8080'",
                &["app.address", "loopback"],
            ),
            (
                "app: {",
                "log: {segmentBytes: 1}\napp: {",
                &["log.segmentBytes", "1"],
            ),
            (
                "synod.local",
                "Synod Local",
                &["trustDomain", "domain name"],
            ),
            ("ca: ca.pem", "ca: ''", &["tls.ca", "a path"]),
        ] {
            let error = parse(&GOOD.replace(from, to)).expect_err(to).to_string();
            for word in words {
                assert!(error.contains(word), "{error:?} should name {word:?}");
            }
        }
    }

    #[test]
    fn the_environment_stands_above_the_file() {
        let environment = [("SYNOD_MEMBER".to_owned(), "notes-2".to_owned())].into();
        let config = Config::parse(Path::new("-"), GOOD, &environment).expect("good");
        assert_eq!(config.member, "notes-2");
        let environment = [("SYNOD_MEMBER".to_owned(), "..".to_owned())].into();
        assert!(Config::parse(Path::new("-"), GOOD, &environment).is_err());
        let environment = [("SYNOD_APP_TOKEN".to_owned(), "s3cret".to_owned())].into();
        let config = Config::parse(Path::new("-"), GOOD, &environment).expect("good");
        assert!(config.app.token.is_some_and(|it| it.is(b"s3cret")));
    }

    #[test]
    fn one_file_serves_all_members() {
        let text = GOOD.replace("cert: cert.pem", "cert: '/tls/{member}.crt'");
        let environment = [("SYNOD_MEMBER".to_owned(), "notes-2".to_owned())].into();
        let config = Config::parse(Path::new("-"), &text, &environment).expect("good");
        assert_eq!(config.tls.cert, Path::new("/tls/notes-2.crt"));
        assert_eq!(config.tls.key, Path::new("key.pem"));
    }

    #[test]
    fn what_the_operator_writes_into_a_config_map_is_understood() {
        let children = include_str!("../../../operator/src/group/build/testdata/children.yaml");
        let first = children.split("---\n").next().expect("a document");
        let map: serde_yaml::Value = serde_yaml::from_str(first).expect("YAML");
        let file = |name: &str| map["data"][name].as_str().expect(name);
        let environment = [
            ("SYNOD_MEMBER", "notes-us-east-1"),
            ("SYNOD_REGION", "us-east-2"),
            ("SYNOD_APP_TOKEN", "0123456789abcdef"),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let environment = environment.into_iter().collect();
        let path = Path::new("config.yaml");
        let config = Config::parse(path, file("config.yaml"), &environment).expect("good");
        assert_eq!(config.region, "us-east-2");
        let key = Path::new("/etc/synod/tls/notes-us-east-1.key");
        assert_eq!(config.tls.key, key);
        let table: peers::PeerTable = serde_json::from_str(file("peers.json")).expect("good");
        let address = table.address_of(&config.member).expect("in the table");
        assert!(address.ends_with(":7443"), "{address}");
    }

    #[test]
    fn a_token_is_not_printed() {
        let text = GOOD.replace("app: {", "app: {token: s3cret, ");
        let shown = format!("{:?}", parse(&text).expect("good"));
        assert!(!shown.contains("s3cret"), "{shown}");
        let error = parse(&GOOD.replace("app: {", "app: {token: 's3cret!', "));
        let error = error.expect_err("not ASCII").to_string();
        assert!(
            error.contains("app.token") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
