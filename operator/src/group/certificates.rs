//! Which certificates a group has and which it gets. Comes in: the Secrets that are there and what
//! the hub sent. Goes out: what they should hold. Pure but for keys, which are random.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::certs::{
    Bundle, CertError, Issuer, Names, Pair, Scope, is_good, leaf, request, request_fits, validity,
};

/// What there is.
#[derive(Default)]
pub(crate) struct Have<'a> {
    /// Key of the intermediate.
    pub(crate) issuer_key: Option<String>,
    /// The request that was last sent up.
    pub(crate) request: &'a str,
    /// Content of the Secret with the members' certificates.
    pub(crate) members: BTreeMap<String, String>,
    /// Content of the Secret with the operator's.
    pub(crate) operator: BTreeMap<String, String>,
    /// Trusted roots, PEM, from the hub.
    pub(crate) roots: &'a str,
    /// The intermediate, PEM, from the hub.
    pub(crate) chain: &'a str,
}

/// What there should be.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// Key of the intermediate.
    pub(crate) issuer_key: String,
    /// The request for the hub.
    pub(crate) request: String,
    /// Content of the Secret with the members' certificates; `None` while they cannot be issued.
    pub(crate) members: Option<BTreeMap<String, String>>,
    /// The operator's own.
    pub(crate) operator: Option<Pair>,
    /// Why they cannot be issued.
    pub(crate) problem: Option<Problem>,
    /// What members have now ends soon or has ended.
    ending: Option<Problem>,
}

/// Why certificates cannot be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The hub has not answered yet.
    Waiting,
    /// What it answered cannot be used.
    Unusable(String),
    /// What members have ends soon or has ended, and cannot be renewed.
    Ending(String),
}

// === impl Certificates ===

impl Certificates {
    /// What is wrong with the certificates of members: what was renewed counts once it is `stored`.
    pub(crate) fn problem_of(&self, stored: bool) -> Option<Problem> {
        let missing = || (!stored).then(|| self.ending.clone()).flatten();
        self.problem.clone().or_else(missing)
    }
}

/// Keeps what is good, makes what is not.
pub(crate) fn certificates(
    names: &Names,
    scope: &Scope,
    members: &[String],
    have: &Have<'_>,
    now: SystemTime,
) -> Result<Certificates, CertError> {
    let (issuer_key, sent) = match &have.issuer_key {
        Some(key) if request_fits(have.request, key) => (key.clone(), have.request.to_owned()),
        key => {
            let made = request(names, scope, key.as_deref())?;
            (made.key, made.cert)
        }
    };
    let mut result = Certificates {
        issuer_key,
        request: sent,
        members: (!have.members.is_empty()).then(|| have.members.clone()),
        operator: operator_pair(&have.operator),
        problem: None,
        ending: ending(&have.members, now),
    };
    let issuer = if have.chain.is_empty() || have.issuer_key.is_none() {
        Err(Problem::Waiting)
    } else {
        Bundle::parse(have.roots)
            .and_then(|roots| {
                Issuer::load(have.chain, &result.issuer_key, &roots, names, scope, now)
            })
            .map_err(|error| Problem::Unusable(error.to_string()))
    };
    match issuer {
        Ok(issuer) => {
            result.members = Some(issue_members(names, members, have, &issuer, now)?);
            let uri = names.operator();
            let good = |pair: &Pair| is_good(pair, &issuer, &uri, now);
            if !result.operator.as_ref().is_some_and(good) {
                result.operator = Some(leaf(&issuer, &uri, now)?);
            }
        }
        // Members go on with what they have; that it ends is worse news than why.
        Err(problem) => {
            result.problem = Some(result.ending.clone().unwrap_or(problem));
        }
    }
    Ok(result)
}

fn issue_members(
    names: &Names,
    members: &[String],
    have: &Have<'_>,
    issuer: &Issuer,
    now: SystemTime,
) -> Result<BTreeMap<String, String>, CertError> {
    let mut content = BTreeMap::from([("ca.crt".to_owned(), have.roots.to_owned())]);
    for member in members {
        let uri = names.member(member);
        let (cert, key) = (format!("{member}.crt"), format!("{member}.key"));
        let kept = have.members.get(&cert).zip(have.members.get(&key));
        let kept = kept.map(|(cert, key)| Pair {
            cert: cert.clone(),
            key: key.clone(),
        });
        let pair = match kept {
            Some(pair) if is_good(&pair, issuer, &uri, now) => pair,
            _ => leaf(issuer, &uri, now)?,
        };
        content.insert(cert, pair.cert);
        content.insert(key, pair.key);
    }
    Ok(content)
}

fn operator_pair(content: &BTreeMap<String, String>) -> Option<Pair> {
    Some(Pair {
        cert: content.get("tls.crt")?.clone(),
        key: content.get("tls.key")?.clone(),
    })
}

/// Members whose certificates are in the last third of their life.
fn ending(members: &BTreeMap<String, String>, now: SystemTime) -> Option<Problem> {
    let mut ending = members
        .iter()
        .filter_map(|(key, cert)| Some((key.strip_suffix(".crt")?, validity(cert).ok()?)))
        .filter(|(member, _)| *member != "ca")
        .filter(|(_, validity)| crate::certs::renewal(*validity) <= now)
        .map(|(member, validity)| (validity.until, member));
    let (until, member) = ending.by_ref().min()?;
    let days = until.duration_since(now).unwrap_or_default().as_secs() / 86_400;
    Some(Problem::Ending(if until <= now {
        format!("the certificate of {member} has ended")
    } else {
        format!("the certificate of {member} ends in {days} days")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::{DAY, root, sign_request};

    fn names() -> Names {
        Names {
            trust_domain: "synod.local".to_owned(),
            namespace: "default".to_owned(),
            service: "notes".to_owned(),
        }
    }

    fn scope() -> Scope {
        Scope {
            cluster: "local".to_owned(),
            workload: "notes-local".to_owned(),
        }
    }

    fn members() -> Vec<String> {
        (0..3).map(|it| format!("notes-local-{it}")).collect()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    fn step(have: &Have<'_>, now: SystemTime) -> Certificates {
        certificates(&names(), &scope(), &members(), have, now).expect("possible")
    }

    #[test]
    fn a_group_gets_its_certificates_once_the_hub_has_answered_and_keeps_them() {
        let first = step(&Have::default(), now());
        assert_eq!(first.problem, Some(Problem::Waiting));
        assert!(first.members.is_none() && first.operator.is_none());

        let root = root(&names(), now()).expect("made");
        let chain = sign_request(&root, &names(), &scope(), &first.request, now()).expect("signed");
        let have = |members: &BTreeMap<String, String>| Have {
            issuer_key: Some(first.issuer_key.clone()),
            request: &first.request,
            members: members.clone(),
            roots: &root.cert,
            chain: &chain,
            ..Have::default()
        };
        let second = step(&have(&BTreeMap::new()), now());
        assert_eq!(second.problem, None);
        assert_eq!(second.request, first.request, "it is sent once");
        let made = second.members.expect("issued");
        let keys: Vec<_> = made.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "ca.crt",
                "notes-local-0.crt",
                "notes-local-0.key",
                "notes-local-1.crt",
                "notes-local-1.key",
                "notes-local-2.crt",
                "notes-local-2.key"
            ]
        );
        let kept = step(&have(&made), now() + DAY * 19).members.expect("kept");
        assert_eq!(kept, made);
        let renewed = step(&have(&made), now() + DAY * 21).members.expect("kept");
        assert!(
            made.iter()
                .all(|(key, value)| key == "ca.crt" || renewed[key] != *value)
        );
        let later = step(&have(&made), now() + DAY * 25);
        assert_eq!(later.problem_of(true), None);
        assert_eq!(
            later.problem_of(false),
            Some(Problem::Ending(
                "the certificate of notes-local-0 ends in 5 days".to_owned()
            )),
            "what was renewed is not where members find it"
        );
        assert_eq!(
            step(&have(&renewed), now() + DAY * 25).problem_of(false),
            None
        );
    }

    #[test]
    fn members_keep_what_they_have_while_the_hub_sends_nothing_that_can_be_used() {
        let first = step(&Have::default(), now());
        let root = root(&names(), now()).expect("made");
        let chain = sign_request(&root, &names(), &scope(), &first.request, now()).expect("signed");
        let mut have = Have {
            issuer_key: Some(first.issuer_key.clone()),
            request: &first.request,
            roots: &root.cert,
            chain: &chain,
            ..Have::default()
        };
        let made = step(&have, now()).members.expect("issued");
        have.members = made.clone();
        have.chain = "damaged";
        let then = step(&have, now() + DAY);
        assert_eq!(then.members.as_ref(), Some(&made));
        assert!(matches!(then.problem, Some(Problem::Unusable(_))));
        let later = step(&have, now() + DAY * 25);
        assert_eq!(
            later.problem,
            Some(Problem::Ending(
                "the certificate of notes-local-0 ends in 5 days".to_owned()
            ))
        );
        assert_eq!(later.members, Some(made));
    }
}
