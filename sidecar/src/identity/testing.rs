//! Certificates for tests: an authority and what it issues.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::CertificateDer;

use super::Names;
use crate::config::Tls;
use crate::node::clock;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The root.
    pem: String,
    /// What stands between it and a leaf.
    chain: String,
}

pub(crate) fn names() -> Names {
    Names {
        trust_domain: "synod.local".into(),
        namespace: "local".into(),
        service: "notes".into(),
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            chain: String::new(),
        }
    }

    /// That of a cluster, below this one, for members of this workload.
    pub(crate) fn below(&self, workload: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, workload);
        let chain = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem: self.pem.clone(),
            chain,
        }
    }

    /// One that is valid for so long from now on.
    pub(crate) fn certificate(&self, lasts: Duration) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        let now = Duration::from_nanos(clock::now().wall_ns);
        params.not_after = (SystemTime::UNIX_EPOCH + now + lasts).into();
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        certificate.into()
    }

    /// Writes the files of whoever has these URIs into `folder`.
    pub(crate) fn issue(&self, folder: &Path, uris: &[String]) -> Tls {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        for uri in uris {
            let uri = uri.as_str().try_into().expect("ascii");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::create_dir_all(folder).expect("folder");
        let files = Tls {
            ca: folder.join("ca.pem"),
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        std::fs::write(&files.ca, &self.pem).expect("write");
        std::fs::write(&files.cert, certificate.pem() + &self.chain).expect("write");
        std::fs::write(&files.key, key.serialize_pem()).expect("write");
        files
    }
}
