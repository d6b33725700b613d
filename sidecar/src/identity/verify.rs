//! The two verifiers: a chain to the group's authority, then the name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::{Names, Who};

/// Why a certificate of the right authority is refused all the same.
#[derive(Debug, thiserror::Error)]
pub(super) enum NameError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate must carry exactly one URI among its alternative names")]
    NotOneUri,
    #[error("the certificate is {found:?}, which is not of service {service:?}")]
    OtherService { found: String, service: String },
    #[error("the certificate is {found:?}, expected {expected:?}")]
    OtherName { found: String, expected: String },
    #[error("the certificate is {found:?}, whose issuer may only name members of {workload:?}")]
    OtherWorkload { found: String, workload: String },
}

/// The name that a certificate carries; says nothing about who issued it.
pub(super) fn name_of(certificate: &CertificateDer<'_>, names: &Names) -> Result<Who, NameError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NameError::Unreadable)?;
    let mut found = None;
    for extension in parsed.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension.parsed_extension()
        else {
            continue;
        };
        for name in &alternatives.general_names {
            if let GeneralName::URI(uri) = name {
                if found.is_some() {
                    return Err(NameError::NotOneUri);
                }
                found = Some((*uri).to_owned());
            }
        }
    }
    let found = found.ok_or(NameError::NotOneUri)?;
    let Some(who) = names.parse(&found) else {
        return Err(NameError::OtherService {
            found,
            service: names.service.clone(),
        });
    };
    match (&who, workload_of(&parsed)) {
        (Who::Member(name), Some(workload)) if !is_of(name, workload) => {
            Err(NameError::OtherWorkload {
                found,
                workload: workload.to_owned(),
            })
        }
        _ => Ok(who),
    }
}

/// Whose members the issuer may name: a cluster's intermediate authority carries the name of the
/// cluster's workload as the unit in its own name, which the root gave it. So nobody who holds one
/// cluster's key speaks for a member of another. A root has no unit, and may name everybody.
fn workload_of<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let unit = certificate.issuer().iter_organizational_unit().next()?;
    // One that cannot be read is nobody's.
    Some(unit.as_str().unwrap_or_default())
}

/// Members are called after their workload, with a number.
fn is_of(member: &str, workload: &str) -> bool {
    let number = member
        .strip_prefix(workload)
        .and_then(|rest| rest.strip_prefix('-'));
    !workload.is_empty()
        && number.is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()))
}

fn refuse(error: NameError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// On the listening side: anyone of this service, by a chain that the library checks.
#[derive(Debug)]
pub(super) struct ClientOfService {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) names: Names,
}

impl ClientCertVerifier for ClientOfService {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        name_of(end_entity, &self.names).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// On the dialling side: the one member that was meant, wherever it was found.
#[derive(Debug)]
pub(super) struct ExactServer {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) names: Names,
    pub(super) expected: Who,
}

impl ServerCertVerifier for ExactServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let found = name_of(end_entity, &self.names).map_err(refuse)?;
        if found == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        Err(refuse(NameError::OtherName {
            found: self.names.of(&found),
            expected: self.names.of(&self.expected),
        }))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
