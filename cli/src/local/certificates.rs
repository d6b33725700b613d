//! The group's certificate authority and what it issues. Comes in: the `ca` folder and the names.
//! Goes out: PEM files, made when they are missing, renewed when their end is near. The name, not
//! the address, is the identity, so nothing here knows about ports.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use synod_sidecar::config::Tls;
use synod_sidecar::identity::{Names, Who};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_DAYS: u32 = 3650;
const LEAF_DAYS: u32 = 30;
/// A leaf is renewed when less than this is left of it.
const RENEW_DAYS: u32 = 10;
/// Clocks of a machine are set back now and then.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The folder with all certificates of one group.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    folder: PathBuf,
    names: Names,
}

impl Certificates {
    pub(super) fn new(folder: PathBuf, names: Names) -> Self {
        Self { folder, names }
    }

    /// Where the files of `who` are.
    pub(super) fn files(&self, who: &Who) -> Tls {
        let name = match who {
            Who::Member(name) => name.as_str(),
            Who::Operator => "operator",
        };
        Tls {
            ca: self.folder.join("ca.pem"),
            cert: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        }
    }

    /// Makes what is missing and renews what ends soon, as of `now`. Returns how many were issued.
    pub(super) fn ensure(&self, everybody: &[Who], now: SystemTime) -> anyhow::Result<u32> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let issuer = self.authority(now)?;
        let mut issued = 0;
        for who in everybody {
            if !self.is_good(who, now) {
                self.issue(&issuer, who, now).with_context(|| {
                    format!("cannot issue a certificate for {}", self.names.of(who))
                })?;
                issued += 1;
            }
        }
        Ok(issued)
    }

    fn authority(&self, now: SystemTime) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let (cert, key) = (self.folder.join("ca.pem"), self.folder.join("ca.key"));
        if cert.exists() {
            let read = |path: &Path| {
                fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
            };
            let key_pair = KeyPair::from_pem(&read(&key)?)
                .with_context(|| format!("{} holds no usable key", key.display()))?;
            return Issuer::from_ca_cert_pem(&read(&cert)?, key_pair)
                .with_context(|| format!("{} holds no usable authority", cert.display()));
        }
        let mut params = params(
            &format!("synod {}", self.names.service),
            now,
            AUTHORITY_DAYS,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key_pair = KeyPair::generate()?;
        let certificate = params.self_signed(&key_pair)?;
        // The key first: an authority whose key is lost would have to be replaced everywhere.
        write_private(&key, &key_pair.serialize_pem())?;
        write_public(&cert, &certificate.pem())?;
        Ok(Issuer::new(params, key_pair))
    }

    fn issue(
        &self,
        issuer: &Issuer<'static, KeyPair>,
        who: &Who,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        let uri = self.names.of(who);
        let mut params = params(uri.rsplit('/').next().unwrap_or(&uri), now, LEAF_DAYS)?;
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key_pair = KeyPair::generate()?;
        let certificate = params.signed_by(&key_pair, issuer)?;
        let files = self.files(who);
        write_private(&files.key, &key_pair.serialize_pem())?;
        write_public(&files.cert, &certificate.pem())
    }

    /// There, for this name, in time for a while yet, and with its key.
    fn is_good(&self, who: &Who, now: SystemTime) -> bool {
        let files = self.files(who);
        let check = || -> anyhow::Result<bool> {
            let key = KeyPair::from_pem(&fs::read_to_string(&files.key)?)?;
            let (_, pem) = x509_parser::pem::parse_x509_pem(&fs::read(&files.cert)?)?;
            let (_, certificate) = X509Certificate::from_der(&pem.contents)?;
            let (_, authority) = x509_parser::pem::parse_x509_pem(&fs::read(&files.ca)?)?;
            let (_, authority) = X509Certificate::from_der(&authority.contents)?;
            let named = certificate.subject_alternative_name()?.is_some_and(|it| {
                it.value.general_names == [GeneralName::URI(&self.names.of(who))]
            });
            let end = certificate.validity().not_after.timestamp();
            let least = now + DAY * RENEW_DAYS;
            let least = least.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
            Ok(named
                && u64::try_from(end).is_ok_and(|it| it > least)
                && certificate.public_key().raw == key.subject_public_key_info()
                && certificate.issuer() == authority.subject()
                && certificate
                    .verify_signature(Some(authority.public_key()))
                    .is_ok())
        };
        check().unwrap_or(false)
    }
}

fn params(name: &str, now: SystemTime, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + DAY * days).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn write_public(path: &Path, text: &str) -> anyhow::Result<()> {
    write(path, text, 0o644)
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    write(path, text, 0o600)
}

/// Beside the target, then over it: nobody reads half a file, and a key is never readable by others.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let _ = fs::remove_file(&beside);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use synod_sidecar::identity::Identity;

    fn names() -> Names {
        Names {
            trust_domain: "synod.local".to_owned(),
            namespace: "local".to_owned(),
            service: "notes".to_owned(),
        }
    }

    fn everybody() -> [Who; 3] {
        [
            Who::Member("notes-1".to_owned()),
            Who::Member("notes-2".to_owned()),
            Who::Operator,
        ]
    }

    #[test]
    fn what_is_issued_is_accepted_by_the_sidecar_for_its_own_name_only() {
        let folder = tempfile::tempdir().expect("folder");
        let certificates = Certificates::new(folder.path().join("ca"), names());
        let now = SystemTime::now();
        assert_eq!(certificates.ensure(&everybody(), now).expect("made"), 3);
        for who in everybody() {
            let files = certificates.files(&who);
            Identity::load(&files, &names(), who).expect("good");
            let mode = fs::metadata(&files.key)
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let files = certificates.files(&Who::Operator);
        Identity::load(&files, &names(), Who::Member("notes-1".to_owned())).expect_err("another");
        let mode = fs::metadata(folder.path().join("ca/ca.key"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn certificates_are_kept_until_their_end_is_near() {
        let folder = tempfile::tempdir().expect("folder");
        let certificates = Certificates::new(folder.path().join("ca"), names());
        let now = SystemTime::now();
        certificates.ensure(&everybody(), now).expect("made");
        let authority = fs::read(folder.path().join("ca/ca.pem")).expect("there");
        assert_eq!(certificates.ensure(&everybody(), now).expect("kept"), 0);
        assert_eq!(
            certificates
                .ensure(&everybody(), now + DAY * 19)
                .expect("kept"),
            0
        );
        assert_eq!(
            certificates
                .ensure(&everybody(), now + DAY * 21)
                .expect("renewed"),
            3
        );
        assert_eq!(
            fs::read(folder.path().join("ca/ca.pem")).expect("there"),
            authority
        );
        for who in everybody() {
            Identity::load(&certificates.files(&who), &names(), who).expect("good");
        }
    }

    #[test]
    fn a_file_that_is_missing_damaged_or_anothers_is_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let certificates = Certificates::new(folder.path().join("ca"), names());
        let now = SystemTime::now();
        certificates.ensure(&everybody(), now).expect("made");
        let [one, two, operator] = everybody().map(|it| certificates.files(&it));
        fs::remove_file(&one.key).expect("removed");
        fs::write(&two.cert, "x").expect("damaged");
        fs::copy(&one.cert, &operator.cert).expect("mixed up");
        assert_eq!(certificates.ensure(&everybody(), now).expect("replaced"), 3);
        fs::remove_file(folder.path().join("ca/ca.key")).expect("removed");
        let error = certificates.ensure(&everybody(), now).expect_err("no key");
        assert!(format!("{error:#}").contains("ca.key"), "{error:#}");
    }
}
