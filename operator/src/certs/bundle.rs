//! The roots that are trusted, and how one takes over from another: first it is trusted everywhere,
//! then everything is issued by it, then the old one is forgotten. In between both are good.

use rustls_pki_types::CertificateDer;

use super::CertError;
use super::inspect::{all, first, parse};

/// Trusted roots in PEM, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    roots: Vec<Root>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    pem: String,
    der: CertificateDer<'static>,
}

/// The next thing to do about roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootStep {
    /// Nothing.
    Keep,
    /// Make another root and add it to the bundle; go on signing with the old one.
    Add,
    /// Sign the clusters' requests anew, with the newest root.
    Reissue,
    /// Forget all but the newest root.
    Remove,
}

/// Pure plan of a rotation. `bundle` holds the roots as the hub has them, `due`: the newest should
/// be replaced. `trusted`: the bundles that the clusters last said their members use. `chains`: the
/// intermediates that the clusters use. A cluster that cannot be asked counts with what it last said.
pub fn root_step(bundle: &Bundle, due: bool, trusted: &[Bundle], chains: &[String]) -> RootStep {
    let Some(newest) = bundle.roots.last() else {
        return RootStep::Add;
    };
    let signed_by_newest = |chain: &String| {
        first("the intermediate", chain).is_ok_and(|der| newest.clone().alone().signed(&der))
    };
    if bundle.roots.len() == 1 {
        return if due { RootStep::Add } else { RootStep::Keep };
    }
    if !trusted.iter().all(|it| it.roots.contains(newest)) {
        return RootStep::Keep;
    }
    if chains.iter().all(signed_by_newest) {
        RootStep::Remove
    } else {
        RootStep::Reissue
    }
}

// === impl Root ===

impl Root {
    fn alone(self) -> Bundle {
        Bundle { roots: vec![self] }
    }
}

// === impl Bundle ===

impl Bundle {
    /// From a PEM text with any number of certificates, none included.
    pub fn parse(pem: &str) -> Result<Self, CertError> {
        let mut bundle = Self::default();
        if pem.trim().is_empty() {
            return Ok(bundle);
        }
        for der in all("the bundle of trusted roots", pem)? {
            parse("the bundle of trusted roots", &der)?;
            bundle.push(der);
        }
        Ok(bundle)
    }

    /// Adds a root, unless it is there.
    pub fn add(&mut self, pem: &str) -> Result<(), CertError> {
        let der = first("the root", pem)?;
        parse("the root", &der)?;
        self.push(der);
        Ok(())
    }

    /// Adds those of another bundle that are not there.
    pub fn merge(&mut self, other: &Self) {
        for root in other.ders() {
            self.push(root.clone());
        }
    }

    /// Removes all but the newest root.
    pub fn keep_newest(&mut self) {
        let old = self.roots.len().saturating_sub(1);
        self.roots.drain(..old);
    }

    /// The text for files and Secrets.
    pub fn pem(&self) -> String {
        self.roots.iter().map(|it| it.pem.as_str()).collect()
    }

    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(super) fn ders(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|it| &it.der)
    }

    /// Whether one of the roots signed this certificate.
    pub(super) fn signed(&self, der: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = parse("the certificate", der) else {
            return false;
        };
        self.ders().any(|root| {
            parse("the root", root).is_ok_and(|root| {
                root.subject() == certificate.issuer()
                    && certificate
                        .verify_signature(Some(root.public_key()))
                        .is_ok()
            })
        })
    }

    fn push(&mut self, der: CertificateDer<'static>) {
        if self.ders().all(|it| *it != der) {
            self.roots.push(Root {
                pem: to_pem(&der),
                der,
            });
        }
    }
}

/// RFC 7468: 64 characters a line.
fn to_pem(der: &[u8]) -> String {
    use std::fmt::Write as _;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::with_capacity(der.len() * 4 / 3 + 4);
    for chunk in der.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            if at > chunk.len() {
                body.push('=');
            } else {
                body.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]));
            }
        }
    }
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        let line = std::str::from_utf8(line).expect("base64 is ASCII");
        writeln!(text, "{line}").expect("a string takes everything");
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
