//! The authority of the operator's own server: the API server trusts its roots, and every instance
//! of the operator makes itself a short certificate below the current one. A root takes over from
//! another in three steps, each some time after the one before: it is trusted, it signs, the old one
//! is forgotten.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};

use super::inspect::{first, parse};
use super::{BACKDATE, Bundle, CertError, DAY, Pair, ROOT_LIFE, make, params, renewal, validity};

/// How long a server's certificate lasts. It is made anew after half of that.
const LIFE: Duration = Duration::from_secs(7 * 86_400);
/// How long a new root is trusted before it signs.
const SETTLE: Duration = DAY;

const ROOT: &str = "the webhook's root";
const LEAF: &str = "the webhook's certificate";

const CURRENT: [&str; 2] = ["ca.crt", "ca.key"];
const NEXT: [&str; 2] = ["next.crt", "next.key"];
const OLD: &str = "old.crt";

/// Roots with their keys, as all instances share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    current: Pair,
    next: Option<Pair>,
    old: Option<String>,
}

// === impl Authority ===

impl Authority {
    /// One with a new root.
    pub fn make(now: SystemTime) -> Result<Self, CertError> {
        Ok(Self {
            current: root(now)?,
            next: None,
            old: None,
        })
    }

    /// From what [`Self::content`] gave.
    pub fn parse(content: &BTreeMap<String, String>) -> Result<Self, CertError> {
        let pair = |[cert, key]: [&str; 2]| {
            let (Some(cert), Some(key)) = (content.get(cert), content.get(key)) else {
                return Ok(None);
            };
            let pair = Pair {
                cert: cert.clone(),
                key: key.clone(),
            };
            check(&pair).map(|()| Some(pair))
        };
        let current = pair(CURRENT)?.ok_or_else(|| CertError::Content {
            what: ROOT,
            problem: "ca.crt or ca.key is missing".to_owned(),
        })?;
        let old = content.get(OLD).cloned();
        if let Some(old) = &old {
            Bundle::parse(old)?;
        }
        Ok(Self {
            current,
            next: pair(NEXT)?,
            old,
        })
    }

    /// To be kept.
    pub fn content(&self) -> BTreeMap<String, String> {
        let mut content = BTreeMap::new();
        let mut put = |keys: [&str; 2], pair: &Pair| {
            content.insert(keys[0].to_owned(), pair.cert.clone());
            content.insert(keys[1].to_owned(), pair.key.clone());
        };
        put(CURRENT, &self.current);
        if let Some(next) = &self.next {
            put(NEXT, next);
        }
        if let Some(old) = &self.old {
            content.insert(OLD.to_owned(), old.clone());
        }
        content
    }

    /// What clients are to trust, in PEM: whatever any instance may serve with now or soon.
    pub fn bundle(&self) -> Result<String, CertError> {
        let mut bundle = Bundle::default();
        let next = self.next.as_ref().map(|it| &it.cert);
        for root in self
            .old
            .iter()
            .chain(std::iter::once(&self.current.cert))
            .chain(next)
        {
            bundle.add(root)?;
        }
        Ok(bundle.pem())
    }

    /// What it should be by now; `None`: as it is.
    pub fn turned(&self, now: SystemTime) -> Result<Option<Self>, CertError> {
        let age = |cert: &str| -> Result<Duration, CertError> {
            let made = validity(cert)?.from + BACKDATE;
            Ok(now.duration_since(made).unwrap_or_default())
        };
        if let Some(next) = &self.next {
            // Below a root that has ended nothing can be served, so there is nothing to wait for.
            let ended = validity(&self.current.cert)?.until <= now;
            if age(&next.cert)? < SETTLE && !ended {
                return Ok(None);
            }
            return Ok(Some(Self {
                current: next.clone(),
                next: None,
                old: Some(self.current.cert.clone()),
            }));
        }
        // The last certificate below the old root was made before the new one began to sign.
        if self.old.is_some() && age(&self.current.cert)? >= SETTLE + LIFE {
            return Ok(Some(Self {
                old: None,
                ..self.clone()
            }));
        }
        if renewal(validity(&self.current.cert)?) <= now {
            return Ok(Some(Self {
                next: Some(root(now)?),
                ..self.clone()
            }));
        }
        Ok(None)
    }

    /// A certificate for a server of this name.
    pub fn leaf(&self, dns: &str, now: SystemTime) -> Result<Pair, CertError> {
        let key = KeyPair::from_pem(&self.current.key).map_err(make(ROOT))?;
        let signer =
            rcgen::Issuer::from_ca_cert_pem(&self.current.cert, key).map_err(make(ROOT))?;
        let mut params = params(now, LIFE)?;
        let end = validity(&self.current.cert)?.until;
        if end < now + LIFE {
            params.not_after = end.into();
        }
        // A common name has 64 characters at most, a DNS name more: only the latter counts.
        params
            .distinguished_name
            .push(DnType::CommonName, "synod-operator webhook");
        params.subject_alt_names = vec![SanType::DnsName(dns.try_into().map_err(make(LEAF))?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(make(LEAF))?;
        let cert = params.signed_by(&key, &signer).map_err(make(LEAF))?;
        Ok(Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Whether a server may go on with a certificate: the current root signed it, and it is in the
    /// first half of its life.
    pub fn serves(&self, leaf: &Pair, now: SystemTime) -> bool {
        let check = || -> Result<bool, CertError> {
            let found = validity(&leaf.cert)?;
            let life = found.until.duration_since(found.from).unwrap_or_default();
            let signed = Bundle::parse(&self.current.cert)?.signed(&first(LEAF, &leaf.cert)?);
            Ok(signed && found.from <= now && now < found.from + life / 2)
        };
        check().unwrap_or(false)
    }
}

fn root(now: SystemTime) -> Result<Pair, CertError> {
    let mut params = params(now, ROOT_LIFE)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "synod-operator webhook root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(make(ROOT))?;
    let cert = params.self_signed(&key).map_err(make(ROOT))?.pem();
    Ok(Pair {
        cert,
        key: key.serialize_pem(),
    })
}

/// The key is the certificate's.
fn check(pair: &Pair) -> Result<(), CertError> {
    let key = KeyPair::from_pem(&pair.key).map_err(make(ROOT))?;
    let der = first(ROOT, &pair.cert)?;
    if parse(ROOT, &der)?.public_key().raw == key.subject_public_key_info() {
        return Ok(());
    }
    Err(CertError::Content {
        what: ROOT,
        problem: "its key is another's".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * (20_000 + days)
    }

    fn turned(authority: &Authority, days: u32) -> Option<Authority> {
        authority.turned(at(days)).expect("readable")
    }

    #[test]
    fn what_was_kept_is_read_again_and_what_does_not_fit_together_is_refused() {
        let authority = Authority::make(at(0)).expect("made");
        let mut content = authority.content();
        assert_eq!(Authority::parse(&content).expect("read"), authority);
        let other = Authority::make(at(0)).expect("made").content();
        content.insert("ca.key".to_owned(), other["ca.key"].clone());
        let error = Authority::parse(&content).expect_err("two halves");
        assert!(error.to_string().contains("another's"), "{error}");
        content.remove("ca.key");
        assert!(Authority::parse(&content).is_err());
    }

    #[test]
    fn a_certificate_is_made_anew_after_half_of_its_week() {
        let authority = Authority::make(at(0)).expect("made");
        let leaf = authority.leaf("a.b.svc", at(0)).expect("made");
        assert!(authority.serves(&leaf, at(3)));
        assert!(!authority.serves(&leaf, at(4)));
        let other = Authority::make(at(0)).expect("made");
        assert!(!other.serves(&leaf, at(1)), "of another root");
    }

    #[test]
    fn a_root_is_trusted_before_it_signs_and_forgotten_after_all_it_signed_has_ended() {
        let first = Authority::make(at(0)).expect("made");
        assert_eq!(turned(&first, 2400), None);
        let both = turned(&first, 2434).expect("two thirds are over");
        assert_eq!(both.current, first.current);
        assert_eq!(both.bundle().expect("readable").matches("BEGIN").count(), 2);
        let leaf = both.leaf("a.b.svc", at(2434)).expect("made");
        assert_eq!(turned(&both, 2434), None, "not trusted everywhere yet");
        let second = turned(&both, 2435).expect("trusted for a day");
        assert_ne!(second.current, first.current);
        assert!(!second.serves(&leaf, at(2435)), "made anew by the new root");
        assert_eq!(
            second.bundle().expect("readable").matches("BEGIN").count(),
            2
        );
        assert_eq!(turned(&second, 2441), None);
        let alone = turned(&second, 2442).expect("a week later");
        assert_eq!(alone.bundle().expect("readable"), {
            let mut bundle = Bundle::default();
            bundle.add(&second.current.cert).expect("a root");
            bundle.pem()
        });
        assert_eq!(turned(&alone, 2442), None);
    }

    #[test]
    fn a_root_that_has_ended_is_replaced_at_once() {
        let first = Authority::make(at(0)).expect("made");
        let both = turned(&first, 4000).expect("its life is over");
        let second = turned(&both, 4000).expect("nobody trusts the first any more");
        assert_ne!(second.current, first.current);
        let leaf = second.leaf("a.b.svc", at(4000)).expect("made");
        assert!(second.serves(&leaf, at(4000)));
    }
}
