//! Reading certificates.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::CertError;

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

/// The validity of the first certificate of a PEM text.
pub fn validity(pem: &str) -> Result<Validity, CertError> {
    let first = first(CERTIFICATE, pem)?;
    let parsed = parse(CERTIFICATE, &first)?;
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    let validity = parsed.validity();
    Ok(Validity {
        from: time(validity.not_before.timestamp()),
        until: time(validity.not_after.timestamp()),
    })
}

pub(super) const CERTIFICATE: &str = "the certificate";

/// All certificates of a PEM text; at least one.
pub(super) fn all(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let content = |problem: String| CertError::Content { what, problem };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| content(format!("it is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(content("it holds no certificate in PEM".to_owned()));
    }
    Ok(found)
}

pub(super) fn first(what: &'static str, pem: &str) -> Result<CertificateDer<'static>, CertError> {
    Ok(all(what, pem)?.swap_remove(0))
}

pub(super) fn parse<'a>(
    what: &'static str,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, CertError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| CertError::Content {
        what,
        problem: format!("it cannot be read: {error}"),
    })?;
    Ok(parsed)
}

/// Whether the alternative names are this one URI and nothing else.
pub(super) fn names_only(certificate: &X509Certificate<'_>, uri: &str) -> bool {
    certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .is_some_and(|it| it.value.general_names == [GeneralName::URI(uri)])
}

/// Whether a certificate names this URI and nothing else; says nothing about who issued it.
pub fn names_only_der(certificate: &CertificateDer<'_>, uri: &str) -> bool {
    parse(CERTIFICATE, certificate).is_ok_and(|it| names_only(&it, uri))
}
