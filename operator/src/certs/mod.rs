//! The certificate authority of one service: a root in the hub, an intermediate in each cluster, a
//! leaf for each member and for the operator. Comes in: keys and certificates in PEM, and the time.
//! Goes out: others, in PEM. Pure but for the random numbers of keys and serials; no I/O.
//!
//! An identity is a name, never an address: the one URI in a leaf's alternative names. No private
//! key leaves the cluster that it was made in: only requests go up and chains come down.

mod authority;
mod bundle;
mod inspect;
mod leaf;
mod serving;

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, SerialNumber};

pub use authority::{Issuer, answers, request, request_fits, root, root_due, sign_request};
pub use bundle::{Bundle, RootStep, root_step};
pub use inspect::{Validity, names_only_der, validity};
pub use leaf::{is_good, leaf};
pub use serving::Authority;

/// One day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// How long a root lasts.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// How long an intermediate lasts.
pub const ISSUER_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// How long a leaf lasts.
pub const LEAF_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Clocks of different machines are never quite alike.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Whom the certificates of one service may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// Trust domain of the authority.
    pub trust_domain: String,
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
}

/// What one cluster may issue for: members called `<workload>-<number>`, and the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the workload there: its pods, and so its members, are called after it.
    pub workload: String,
}

/// A certificate (or a chain, the end first, or a request) with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificates.
    pub cert: String,
    /// The key of the first of them.
    pub key: String,
}

/// Why nothing was issued, or what was issued cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// What was given is not what it should be.
    #[error("{what} cannot be used: {problem}")]
    Content {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The library could not make it.
    #[error("cannot make {what}: {error}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// What the library said.
        error: rcgen::Error,
    },
}

// === impl Names ===

impl Names {
    /// The name of a member, as certificates carry it.
    pub fn member(&self, member: &str) -> String {
        format!("{}member/{member}", self.prefix())
    }

    /// The name of the service's operator, as certificates carry it.
    pub fn operator(&self) -> String {
        format!("{}operator", self.prefix())
    }

    fn prefix(&self) -> String {
        let Self {
            trust_domain,
            namespace,
            service,
        } = self;
        format!("spiffe://{trust_domain}/ns/{namespace}/rsvc/{service}/")
    }
}

// === impl Pair ===

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key must not come into a log by way of a debug print.
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// When something that lasts from `from` to `until` is to be renewed: after two thirds of its life,
/// so that operators may be gone for the last third of it.
pub fn renewal(validity: Validity) -> SystemTime {
    let life = validity
        .until
        .duration_since(validity.from)
        .unwrap_or_default();
    validity.from + life * 2 / 3
}

/// `count` random bytes.
pub fn random<const COUNT: usize>() -> Result<[u8; COUNT], CertError> {
    let mut bytes = [0; COUNT];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| CertError::Content {
            what: "the system's source of random numbers",
            problem: "it gave nothing".to_owned(),
        })?;
    Ok(bytes)
}

/// What all certificates have in common. Each has a serial number of its own, also when a key is
/// certified again.
fn params(now: SystemTime, life: Duration) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    let mut serial = random::<16>()?;
    // Positive and of full length, as RFC 5280 (4.1.2.2) wants it.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> CertError {
    move |error| CertError::Make { what, error }
}

#[cfg(test)]
mod tests;
