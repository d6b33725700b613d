//! Who the members of a service are and from what they were formed: all that must be known to look
//! after those that run, whatever the manifest says by now. Pure.

use synod_api::{GroupMember, MemberRole, Membership, ReplicaGroup};

use super::genesis::GenesisFile;
use super::members::{self, Member};
use super::plan;
use super::view::{self, View};

/// Whether the service has been formed, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Formed {
    /// Not yet.
    No,
    /// From this genesis, word for word.
    Genesis(String),
    /// There is a record without a genesis. The text is what it says about the members.
    Earlier(String),
}

/// The members of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roster {
    /// Name of the service.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// All that run, or are to run. Those that are not in the group have the number 0 and no vote.
    pub(crate) members: Vec<Member>,
    /// The epoch that numbers and roles are of; 0: as the group was formed.
    pub(crate) epoch: u64,
    /// Whether they were formed.
    pub(crate) formed: Formed,
}

// === impl Roster ===

impl Roster {
    /// Of a service that was formed, as it was then; `None` when it was not, or its record cannot be
    /// read.
    pub(crate) fn recorded(name: &str, uid: &str, formed: &Formed) -> Option<Self> {
        let (Formed::Genesis(text) | Formed::Earlier(text)) = formed else {
            return None;
        };
        let file = GenesisFile::parse(text).ok()?;
        Some(Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            members: members::recorded(name, &file)?,
            epoch: 0,
            formed: formed.clone(),
        })
    }

    /// The same as it is now: as its leader says, else as the clusters were told last, else as it was
    /// formed. Whoever runs without being in the group is there too.
    pub(crate) fn standing(name: &str, uid: &str, formed: &Formed, views: &[View]) -> Option<Self> {
        let mut roster = Self::recorded(name, uid, formed)?;
        let told = told(uid, views);
        let told_epoch = told.iter().map(|(_, it)| it.spec.epoch).max().unwrap_or(0);
        if let Some(report) = report(views, uid) {
            roster.epoch = report.epoch;
            roster.members = reported(name, report);
        } else if told_epoch > 0 {
            roster.epoch = told_epoch;
            roster.members = last_told(name, told_epoch, &told);
        }
        for (cluster, group) in told {
            let absent = group.spec.members.iter().filter(|it| !roster.has(&it.name));
            let absent: Vec<_> = absent
                .map(|it| outside(cluster, &group.spec.region, &it.name))
                .collect();
            roster.members.extend(absent);
        }
        Some(roster)
    }

    /// Whether one of this name is known.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|it| it.member.name == name)
    }
}

/// What the leader that members follow says of them, as its cluster's operator reports it.
pub(crate) fn report<'a>(views: &'a [View], uid: &str) -> Option<&'a Membership> {
    let current = view::current(views, uid);
    let followed: Vec<_> = current.values().map(|it| it.leader.as_str()).collect();
    let leader = plan::leader(&followed)?;
    let open = views.iter().filter(|it| it.is_open());
    open.filter_map(|it| it.own(uid)?.status.as_ref()?.membership.as_ref())
        .filter(|it| it.leader == leader)
        .max_by_key(|it| it.epoch)
}

/// One that runs and is not in the group.
pub(crate) fn outside(cluster: &str, region: &str, name: &str) -> Member {
    Member {
        cluster: cluster.to_owned(),
        region: region.to_owned(),
        member: GroupMember {
            name: name.to_owned(),
            id: 0,
            role: MemberRole::Observer,
            incarnation: String::new(),
            discard: String::new(),
        },
    }
}

fn told<'a>(uid: &str, views: &'a [View]) -> Vec<(&'a str, &'a ReplicaGroup)> {
    let own = views
        .iter()
        .filter_map(|it| Some((it.cluster.as_str(), it.own(uid)?)));
    own.collect()
}

fn reported(service: &str, report: &Membership) -> Vec<Member> {
    let members = report.members.iter().filter_map(|it| {
        Some(Member {
            cluster: members::cluster_of(service, &it.name)?.to_owned(),
            region: it.region.clone(),
            member: GroupMember {
                name: it.name.clone(),
                id: it.id,
                role: it.role,
                incarnation: it.incarnation.clone(),
                discard: String::new(),
            },
        })
    });
    members.collect()
}

/// Of clusters that are not seen now, members are known by the peer table.
fn last_told(service: &str, epoch: u64, told: &[(&str, &ReplicaGroup)]) -> Vec<Member> {
    let newest = || told.iter().filter(|(_, it)| it.spec.epoch == epoch);
    let mut members: Vec<_> = newest()
        .flat_map(|(cluster, group)| {
            let all = group.spec.members.iter().map(|it| Member {
                cluster: (*cluster).to_owned(),
                region: group.spec.region.clone(),
                member: GroupMember {
                    discard: String::new(),
                    ..it.clone()
                },
            });
            all.collect::<Vec<_>>()
        })
        .collect();
    for peer in newest().flat_map(|(_, it)| &it.spec.peers) {
        let known = members.iter().any(|it| it.member.name == peer.name);
        let Some(cluster) = members::cluster_of(service, &peer.name).filter(|_| !known) else {
            continue;
        };
        let mut member = outside(cluster, "", &peer.name);
        member.member.role = peer.role;
        members.push(member);
    }
    members
}
