//! The service's certificate authority as the hub keeps it. Comes in: the Secret, the requests that
//! clusters have sent up, what they use now, and the time. Goes out: the Secret as it should be, and
//! a chain for each request. Pure but for the random numbers of keys.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::certs::{self, Bundle, CertError, Names, Pair, RootStep, Scope};

/// Keys in the Secret: the trusted roots, the oldest first; and the key of the one that signs.
const ROOTS: &str = "ca.crt";
const KEY: &str = "ca.key";
/// Keys in the Secret while the next root is on its way: it is trusted, but does not sign yet.
const NEXT_CERT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// The root that signs meanwhile; otherwise it is the only one that is trusted.
const SIGNER_CERT: &str = "signer.crt";

/// How long after its first moment a root signs for the first time. Certificates are dated back by
/// an hour.
const SETTLED: Duration = Duration::from_secs(2 * 3600);

/// Name of the Secret.
pub(crate) fn secret_name(service: &str) -> String {
    format!("{service}-ca")
}

/// What one cluster asks for and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asks {
    /// The cluster.
    pub(crate) cluster: String,
    /// Name of the workload there.
    pub(crate) workload: String,
    /// Its request, PEM; empty: none yet.
    pub(crate) request: String,
    /// The chain that it was given, PEM; empty: none yet.
    pub(crate) chain: String,
    /// The roots that its operator has seen, PEM.
    pub(crate) roots: String,
}

/// What to hand out.
#[derive(Debug, Default)]
pub(crate) struct Issued {
    /// The Secret's content, when it is to be written.
    pub(crate) secret: Option<BTreeMap<String, String>>,
    /// The trusted roots, PEM.
    pub(crate) roots: String,
    /// The chain of each cluster that has one.
    pub(crate) chains: BTreeMap<String, String>,
    /// Requests that cannot be answered, and why.
    pub(crate) refused: BTreeMap<String, String>,
}

/// The roots as the Secret has them.
struct Roots {
    bundle: Bundle,
    /// Signs; `None` when its key was lost.
    signer: Option<Pair>,
    /// Will sign.
    next: Option<Pair>,
}

/// Makes the root the first time, renews it long before its end, and answers every request.
pub(crate) fn issue(
    names: &Names,
    secret: Option<&BTreeMap<String, String>>,
    asks: &[Asks],
    now: SystemTime,
) -> Result<Issued, CertError> {
    let mut roots = Roots::read(secret, asks)?;
    let mut changed = false;
    let trusted = asks
        .iter()
        .map(|it| Bundle::parse(&it.roots))
        .collect::<Result<Vec<_>, _>>()?;
    let chains: Vec<String> = asks
        .iter()
        .filter(|it| !it.chain.is_empty())
        .map(|it| it.chain.clone())
        .collect();
    let due = match (&roots.signer, &roots.next) {
        (None, None) => true,
        (Some(signer), None) => certs::root_due(&signer.cert, now)?,
        (_, Some(_)) => false,
    };
    let lost = roots.signer.is_none() && roots.next.is_none() && !roots.bundle.is_empty();
    let step = if lost {
        RootStep::Add
    } else {
        certs::root_step(&roots.bundle, due, &trusted, &chains)
    };
    match step {
        RootStep::Keep | RootStep::Reissue => {}
        RootStep::Add => {
            let root = certs::root(names, now)?;
            let first = roots.bundle.is_empty();
            roots.bundle.add(&root.cert)?;
            if first {
                roots.signer = Some(root);
            } else {
                roots.next = Some(root);
            }
            changed = true;
        }
        RootStep::Remove => {
            roots.bundle.keep_newest();
            roots.signer = roots.next.take().or(roots.signer);
            changed = true;
        }
    }
    // The next root signs once everybody trusts it: operators say so at once, files in pods follow
    // within minutes.
    let reissue = step == RootStep::Reissue
        && match &roots.next {
            Some(next) => certs::validity(&next.cert)?.from + SETTLED <= now,
            None => false,
        };
    let signer = match (&roots.signer, &roots.next) {
        (_, Some(next)) if reissue => Some(next),
        (signer, _) => signer.as_ref(),
    };
    let mut issued = Issued {
        roots: roots.bundle.pem(),
        secret: changed.then(|| roots.write()),
        ..Issued::default()
    };
    for it in asks {
        let Some(signer) = signer else {
            keep(&mut issued, it);
            continue;
        };
        if it.request.is_empty() || is_good(it, &signer.cert, now) {
            keep(&mut issued, it);
            continue;
        }
        let scope = Scope {
            cluster: it.cluster.clone(),
            workload: it.workload.clone(),
        };
        match certs::sign_request(signer, names, &scope, &it.request, now) {
            Ok(chain) => {
                issued.chains.insert(it.cluster.clone(), chain);
            }
            Err(error) => {
                issued.refused.insert(it.cluster.clone(), error.to_string());
                keep(&mut issued, it);
            }
        }
    }
    Ok(issued)
}

fn keep(issued: &mut Issued, it: &Asks) {
    if !it.chain.is_empty() {
        issued.chains.insert(it.cluster.clone(), it.chain.clone());
    }
}

/// Whether a chain answers its request, is of this root, and has time left.
fn is_good(it: &Asks, root: &str, now: SystemTime) -> bool {
    !it.chain.is_empty()
        && certs::answers(&it.chain, &it.request, root)
        && certs::validity(&it.chain).is_ok_and(|it| now < certs::renewal(it))
}

// === impl Roots ===

impl Roots {
    fn read(secret: Option<&BTreeMap<String, String>>, asks: &[Asks]) -> Result<Self, CertError> {
        let text = |key: &str| secret.and_then(|it| it.get(key)).map_or("", String::as_str);
        let mut bundle = Bundle::parse(text(ROOTS))?;
        if bundle.is_empty() {
            // The Secret was lost: what the members trust goes on being trusted.
            for it in asks {
                bundle.merge(&Bundle::parse(&it.roots)?);
            }
        }
        let pair = |cert: &str, key: &str| {
            (!text(cert).is_empty() && !text(key).is_empty()).then(|| Pair {
                cert: text(cert).to_owned(),
                key: text(key).to_owned(),
            })
        };
        let signer = if text(SIGNER_CERT).is_empty() {
            ROOTS
        } else {
            SIGNER_CERT
        };
        Ok(Self {
            bundle,
            signer: pair(signer, KEY),
            next: pair(NEXT_CERT, NEXT_KEY),
        })
    }

    fn write(&self) -> BTreeMap<String, String> {
        let mut data = BTreeMap::from([(ROOTS.to_owned(), self.bundle.pem())]);
        for (pair, cert, key) in [
            (&self.signer, SIGNER_CERT, KEY),
            (&self.next, NEXT_CERT, NEXT_KEY),
        ] {
            if cert == SIGNER_CERT && self.next.is_none() {
                if let Some(pair) = pair {
                    data.insert(key.to_owned(), pair.key.clone());
                }
            } else if let Some(pair) = pair {
                data.insert(cert.to_owned(), pair.cert.clone());
                data.insert(key.to_owned(), pair.key.clone());
            }
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            trust_domain: "synod.local".to_owned(),
            namespace: "default".to_owned(),
            service: "notes".to_owned(),
        }
    }

    fn scope(cluster: &str) -> Scope {
        Scope {
            cluster: cluster.to_owned(),
            workload: format!("notes-{cluster}"),
        }
    }

    fn asks(cluster: &str) -> Asks {
        let request = certs::request(&names(), &scope(cluster), None).expect("a request");
        Asks {
            cluster: cluster.to_owned(),
            workload: format!("notes-{cluster}"),
            request: request.cert,
            chain: String::new(),
            roots: String::new(),
        }
    }

    /// What the clusters have after what was issued has reached them.
    fn reach(issued: &Issued, asks: &mut [Asks]) {
        for it in asks {
            it.roots.clone_from(&issued.roots);
            if let Some(chain) = issued.chains.get(&it.cluster) {
                it.chain.clone_from(chain);
            }
        }
    }

    #[test]
    fn each_request_is_answered_once_and_then_left_alone() {
        let now = SystemTime::now();
        let mut all = [asks("us"), asks("eu")];
        let first = issue(&names(), None, &all, now).expect("issued");
        let secret = first.secret.as_ref().expect("a new root");
        assert_eq!(first.chains.len(), 2);
        reach(&first, &mut all);
        let second = issue(&names(), Some(secret), &all, now).expect("issued");
        assert!(second.secret.is_none());
        assert_eq!(second.chains, first.chains);
        assert_eq!(second.roots, first.roots);
    }

    #[test]
    fn another_key_or_two_thirds_of_its_life_bring_a_new_chain() {
        let now = SystemTime::now();
        let mut all = [asks("us"), asks("eu")];
        let first = issue(&names(), None, &all, now).expect("issued");
        let secret = first.secret.clone().expect("a new root");
        reach(&first, &mut all);
        all[0].request = asks("us").request;
        let second = issue(&names(), Some(&secret), &all, now).expect("issued");
        assert_ne!(second.chains["us"], first.chains["us"]);
        assert_eq!(second.chains["eu"], first.chains["eu"]);
        let later = now + certs::ISSUER_LIFE * 7 / 10;
        let third = issue(&names(), Some(&secret), &all, later).expect("issued");
        assert_ne!(third.chains["eu"], first.chains["eu"]);
    }

    #[test]
    fn a_request_that_is_none_is_refused_and_hurts_no_other() {
        let mut all = [asks("us"), asks("eu")];
        all[0].request = "garbage".to_owned();
        let issued = issue(&names(), None, &all, SystemTime::now()).expect("issued");
        assert!(issued.refused.contains_key("us"));
        assert!(issued.chains.contains_key("eu"));
    }

    /// Goes on until nothing changes any more; the numbers of trusted roots on the way.
    fn rotate(
        mut secret: Option<BTreeMap<String, String>>,
        all: &mut [Asks],
        mut now: SystemTime,
    ) -> (Option<BTreeMap<String, String>>, Vec<usize>) {
        let mut counts = Vec::new();
        for _ in 0..12 {
            let issued = issue(&names(), secret.as_ref(), all, now).expect("issued");
            counts.push(issued.roots.matches("BEGIN").count());
            for it in all.iter() {
                let bundle = Bundle::parse(&it.roots).expect("a bundle");
                let known = bundle.is_empty()
                    || issued
                        .chains
                        .get(&it.cluster)
                        .is_none_or(|chain| certs::answers(chain, &it.request, &it.roots));
                assert!(
                    known,
                    "a chain is of a root that its cluster trusts already"
                );
            }
            secret = issued.secret.clone().or(secret);
            reach(&issued, all);
            now += Duration::from_secs(1800);
        }
        (secret, counts)
    }

    #[test]
    fn a_root_near_its_end_is_replaced_without_a_moment_of_distrust() {
        let now = SystemTime::now();
        let mut all = [asks("us"), asks("eu")];
        let (secret, counts) = rotate(None, &mut all, now);
        assert_eq!(counts.last(), Some(&1));
        let old = all[0].roots.clone();
        let later = now + certs::ROOT_LIFE * 7 / 10;
        let (_, counts) = rotate(secret, &mut all, later);
        assert!(
            counts.contains(&2) && counts.last() == Some(&1),
            "{counts:?}"
        );
        assert_ne!(all[0].roots, old);
    }

    #[test]
    fn a_lost_secret_is_replaced_without_a_moment_of_distrust() {
        let now = SystemTime::now();
        let mut all = [asks("us"), asks("eu")];
        rotate(None, &mut all, now);
        let old = all[0].roots.clone();
        let (_, counts) = rotate(None, &mut all, now);
        assert!(
            counts.contains(&2) && counts.last() == Some(&1),
            "{counts:?}"
        );
        assert_ne!(all[0].roots, old);
    }
}
