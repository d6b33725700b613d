//! One member as planned: its name, its addresses, its files, and how its two processes are started.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use synod_api::{AppProtocol, StateType};
use synod_sidecar::config::{App, Config, Leader, Listen, Log, Protocol, Revision};
use synod_sidecar::identity::{Names, Who};

use super::certificates::Certificates;
use super::folder::{self, Folder, MemberFolder};
use super::ports;
use super::process::Program;
use super::settings::{MAX_MEMBERS, Settings};
use super::state;
use crate::exit::Failure;

/// Trust domain and namespace of local groups.
pub(super) const TRUST_DOMAIN: &str = "synod.local";
pub(super) const NAMESPACE: &str = "local";

/// A member of the group.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// From 1.
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) listen: Listen,
    pub(super) app: SocketAddr,
    /// It runs no app: nobody listens at its address.
    pub(super) witness: bool,
    /// Whether the state of its app is in its folder, and stays there.
    pub(super) state: StateType,
    pub(super) folder: MemberFolder,
}

/// Plans a member: every port is known, is none of those that are `taken`, and free at this moment.
pub(super) async fn plan(
    settings: &Settings,
    folder: &Folder,
    number: u32,
    taken: &BTreeSet<u16>,
) -> Result<Member, Failure> {
    let name = folder::name(&settings.service, number);
    let mut http = settings.listen;
    let port = u32::from(http.port()) + number - 1;
    let port = u16::try_from(port).map_err(|_| {
        Failure::usage(format!(
            "{name} would serve on port {port}, which does not exist"
        ))
    })?;
    http.set_port(port);
    ports::check_free(http, &name).await?;
    let free = ports::free(3, &with_entrances(taken, settings.listen.port()))
        .map_err(|error| Failure::failed(format!("no ports for {name}: {error}")))?;
    let local = |it: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, free[it]));
    Ok(Member {
        number,
        witness: folder.group().witnesses.contains(&name),
        name,
        listen: Listen {
            http,
            peer: local(0),
            admin: local(1),
        },
        app: local(2),
        state: settings.state.kind,
        folder: folder.member(number)?,
    })
}

/// Where any member may serve clients, also one that comes later, no app may listen meanwhile: whoever
/// asks for that member would change this copy alone.
fn with_entrances(taken: &BTreeSet<u16>, first: u16) -> BTreeSet<u16> {
    let entrances = (first..=u16::MAX).take(MAX_MEMBERS as usize);
    entrances.chain(taken.iter().copied()).collect()
}

/// The names in the certificates of a service.
pub(super) fn names(service: &str) -> Names {
    Names {
        trust_domain: TRUST_DOMAIN.to_owned(),
        namespace: NAMESPACE.to_owned(),
        service: service.to_owned(),
    }
}

// === impl Member ===

impl Member {
    /// All that it listens on.
    pub(super) fn ports(&self) -> [u16; 4] {
        let Listen { http, peer, admin } = &self.listen;
        [http, peer, admin, &self.app].map(SocketAddr::port)
    }

    /// Where clients on this machine find it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", ports::reachable(self.listen.http))
    }

    /// Writes the sidecar's configuration.
    pub(super) fn write_config(
        &self,
        settings: &Settings,
        folder: &Folder,
        certificates: &Certificates,
    ) -> anyhow::Result<()> {
        let config = Config {
            founding: None,
            service: settings.service.clone(),
            member: self.name.clone(),
            region: String::new(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            namespace: NAMESPACE.to_owned(),
            data: self.folder.sidecar_data(),
            genesis: folder.genesis(),
            join: Some(self.folder.join()),
            peers: self.folder.peers(),
            tls: certificates.files(&Who::Member(self.name.clone())),
            listen: self.listen.clone(),
            witness: self.witness,
            app: if self.witness {
                App::default()
            } else {
                App {
                    address: self.app,
                    protocol: match settings.protocol {
                        AppProtocol::Http1 => Protocol::Http1,
                        AppProtocol::H2c => Protocol::H2c,
                    },
                    token: None,
                    revision: Revision::InFile(self.folder.revision()),
                }
            },
            log: Log {
                max_bytes: settings.log_max_bytes,
                ..Log::default()
            },
            // Everybody is in one place.
            leader: Leader::default(),
            state: state::of_member(&settings.state, &self.folder),
        };
        let path = self.folder.config();
        let text = serde_yaml::to_string(&config)?;
        folder::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// How its sidecar is started.
    pub(super) fn sidecar(&self, own: &Path) -> Program {
        Program {
            command: vec![
                own.display().to_string(),
                "sidecar".to_owned(),
                "--config".to_owned(),
                self.folder.config().display().to_string(),
            ],
            environment: Vec::new(),
            log: self.folder.log("sidecar"),
            pid_file: self.folder.pid("sidecar"),
        }
    }

    /// How its app is started: `{port}` and `{data}` in the command stand for what `PORT` and
    /// `DATA_DIR` say.
    pub(super) fn app(&self, own: &Path, command: Option<&[String]>) -> Program {
        let port = self.app.port().to_string();
        let data = self.folder.app_data();
        let data_text = data.display().to_string();
        let command = match command {
            None => vec![own.display().to_string(), "example-app".to_owned()],
            Some(words) => words
                .iter()
                .map(|it| it.replace("{port}", &port).replace("{data}", &data_text))
                .collect(),
        };
        Program {
            command,
            environment: vec![
                ("PORT".to_owned(), port.into()),
                ("DATA_DIR".to_owned(), data.into()),
            ],
            log: self.folder.log("app"),
            pid_file: self.folder.pid("app"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entrances_of_later_members_are_nobody_elses() {
        let taken = with_entrances(&BTreeSet::from([4]), 8_080);
        assert_eq!(taken.len(), 1 + MAX_MEMBERS as usize);
        assert!(taken.contains(&4) && taken.contains(&8_080) && taken.contains(&8_088));
        let at_the_end = with_entrances(&BTreeSet::new(), u16::MAX - 1);
        assert_eq!(at_the_end.len(), 2);
    }
}
