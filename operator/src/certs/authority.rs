//! Roots and intermediates.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet,
    DistinguishedName, DnType, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PublicKeyData as _,
};
use x509_parser::prelude::X509Name;

use super::inspect::{first, parse};
use super::{
    Bundle, CertError, ISSUER_LIFE, Names, Pair, ROOT_LIFE, Scope, make, params, renewal, validity,
};

const ROOT: &str = "the root";
const REQUEST: &str = "the request for an intermediate";
const CHAIN: &str = "the intermediate";

/// What a cluster signs leaves with, checked.
pub struct Issuer {
    pub(super) chain: String,
    pub(super) signer: rcgen::Issuer<'static, KeyPair>,
}

/// A new root for a service.
pub fn root(names: &Names, now: SystemTime) -> Result<Pair, CertError> {
    let mut params = params(now, ROOT_LIFE)?;
    params.distinguished_name = name(&format!("{} root", names.service), &names.namespace, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(make(ROOT))?;
    let cert = params.self_signed(&key).map_err(make(ROOT))?.pem();
    Ok(Pair {
        cert,
        key: key.serialize_pem(),
    })
}

/// Whether a root is in the last third of its life.
pub fn root_due(cert: &str, now: SystemTime) -> Result<bool, CertError> {
    Ok(renewal(validity(cert)?) <= now)
}

/// A key for an intermediate, and the request to certify it: made in the cluster that keeps it.
/// With a key that is there already, the request is for that one.
pub fn request(names: &Names, scope: &Scope, key: Option<&str>) -> Result<Pair, CertError> {
    let key = match key {
        Some(pem) => KeyPair::from_pem(pem),
        None => KeyPair::generate(),
    }
    .map_err(make(REQUEST))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = issuer_name(names, scope);
    let cert = params
        .serialize_request(&key)
        .and_then(|it| it.pem())
        .map_err(make(REQUEST))?;
    Ok(Pair {
        cert,
        key: key.serialize_pem(),
    })
}

/// Whether a request is for this key: one that was kept may be of an earlier one.
pub fn request_fits(request: &str, key: &str) -> bool {
    let (Ok(request), Ok(key)) = (
        CertificateSigningRequestParams::from_pem(request),
        KeyPair::from_pem(key),
    ) else {
        return false;
    };
    request.public_key.subject_public_key_info() == key.subject_public_key_info()
}

/// Whether a chain certifies the key of this request, by this root.
pub fn answers(chain: &str, request: &str, root: &str) -> bool {
    let (Ok(request), Ok(der), Ok(root)) = (
        CertificateSigningRequestParams::from_pem(request),
        first(CHAIN, chain),
        Bundle::parse(root),
    ) else {
        return false;
    };
    parse(CHAIN, &der)
        .is_ok_and(|it| it.public_key().raw == request.public_key.subject_public_key_info())
        && root.signed(&der)
}

/// Certifies the key of a request. Whatever else the request says is not looked at: the hub decides
/// what a cluster may issue.
///
/// The scope is in the certificate's subject, where members look for it: URIs cannot be constrained
/// by extension, as verifiers refuse such chains. Names that are no URI are ruled out by extension.
pub fn sign_request(
    root: &Pair,
    names: &Names,
    scope: &Scope,
    request: &str,
    now: SystemTime,
) -> Result<String, CertError> {
    // The signature, by which the key's holder proves to be one, is checked here.
    let request = CertificateSigningRequestParams::from_pem(request).map_err(make(REQUEST))?;
    let key = KeyPair::from_pem(&root.key).map_err(make(ROOT))?;
    let signer = rcgen::Issuer::from_ca_cert_pem(&root.cert, key).map_err(make(ROOT))?;
    let mut params = params(now, ISSUER_LIFE)?;
    let end = validity(&root.cert)?.until;
    if end < now + ISSUER_LIFE {
        params.not_after = end.into();
    }
    params.distinguished_name = issuer_name(names, scope);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![
            GeneralSubtree::DnsName(String::new()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    let cert = params
        .signed_by(&request.public_key, &signer)
        .map_err(make(CHAIN))?;
    Ok(cert.pem())
}

// === impl Issuer ===

impl Issuer {
    /// From what the hub answered and the key that was kept. Refuses a chain for another key or
    /// cluster, one that no trusted root signed, and one that has ended.
    pub fn load(
        chain: &str,
        key: &str,
        roots: &Bundle,
        names: &Names,
        scope: &Scope,
        now: SystemTime,
    ) -> Result<Self, CertError> {
        let refuse = |problem: &str| CertError::Content {
            what: CHAIN,
            problem: problem.to_owned(),
        };
        let pair = KeyPair::from_pem(key).map_err(make(CHAIN))?;
        let der = first(CHAIN, chain)?;
        let parsed = parse(CHAIN, &der)?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(refuse("it is for another key than the one kept here"));
        }
        if scope_of(parsed.subject()).as_ref() != Some(scope) {
            return Err(refuse("it is for another cluster or workload"));
        }
        if !roots.signed(&der) {
            return Err(refuse("none of the trusted roots signed it"));
        }
        let validity = validity(chain)?;
        if now < validity.from || validity.until <= now {
            return Err(refuse("it is not good at this time"));
        }
        if common_name(names) != text(parsed.subject().iter_common_name().next()) {
            return Err(refuse("it is for another service"));
        }
        let signer = rcgen::Issuer::from_ca_cert_der(&der, pair).map_err(make(CHAIN))?;
        Ok(Self {
            chain: chain.to_owned(),
            signer,
        })
    }

    /// Whether the hub should certify it again: near its end, or by a newer root.
    pub fn is_due(&self, now: SystemTime) -> Result<bool, CertError> {
        Ok(renewal(validity(&self.chain)?) <= now)
    }

    /// When it ends.
    pub fn ends(&self) -> Result<SystemTime, CertError> {
        Ok(validity(&self.chain)?.until)
    }
}

fn common_name(names: &Names) -> String {
    format!("{} issuer", names.service)
}

fn issuer_name(names: &Names, scope: &Scope) -> DistinguishedName {
    name(&common_name(names), &scope.cluster, Some(&scope.workload))
}

/// What members read in the issuer's name of a leaf: the organisational unit is the workload whose
/// members it may name.
fn name(common: &str, organization: &str, unit: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    if let Some(unit) = unit {
        name.push(DnType::OrganizationalUnitName, unit);
    }
    name.push(DnType::CommonName, common);
    name
}

fn scope_of(name: &X509Name<'_>) -> Option<Scope> {
    Some(Scope {
        cluster: text(name.iter_organization().next()),
        workload: text(Some(name.iter_organizational_unit().next()?)),
    })
}

fn text(part: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>) -> String {
    part.and_then(|it| it.as_str().ok())
        .unwrap_or_default()
        .to_owned()
}
