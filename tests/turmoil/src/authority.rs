//! Certificates: an authority, and what it issues for a time.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use synod_sidecar::config::Tls;
use synod_sidecar::identity::Names;

/// An authority of a group.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Those of the group.
pub(crate) fn names() -> Names {
    Names {
        trust_domain: "synod.local".into(),
        namespace: "local".into(),
        service: "notes".into(),
    }
}

/// Where the files of whoever owns this folder are.
pub(crate) fn files(folder: &Path) -> Tls {
    Tls {
        ca: folder.join("ca.pem"),
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Writes the files of a member, who is to trust these authorities. The certificate is valid for so
    /// long from now on; the simulation begins now.
    pub(crate) fn issue(&self, folder: &Path, member: &str, lasts: Duration, trusted: &[&Self]) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let uri = names().member(member);
        let uri = uri.as_str().try_into().expect("ascii");
        params.subject_alt_names.push(SanType::URI(uri));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now =
            turmoil::since_epoch().map_or_else(SystemTime::now, |it| SystemTime::UNIX_EPOCH + it);
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + lasts).into();
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::create_dir_all(folder).expect("a folder");
        let files = files(folder);
        let trusted: String = trusted.iter().map(|it| it.pem.as_str()).collect();
        std::fs::write(files.ca, trusted).expect("written");
        std::fs::write(files.cert, certificate.pem()).expect("written");
        std::fs::write(files.key, key.serialize_pem()).expect("written");
    }
}
