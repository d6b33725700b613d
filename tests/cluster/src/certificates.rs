//! The certificate authority of one cluster, and kubeconfigs. Comes in: names and addresses. Goes
//! out: PEM files. Nothing else is called.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// Signs for one cluster.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    pem: String,
}

/// A certificate (or only a public key) and its private key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Kubernetes takes it for the user's name.
    pub(crate) name: &'a str,
    /// Kubernetes takes it for the user's group.
    pub(crate) group: Option<&'a str>,
    pub(crate) addresses: &'a [Ipv4Addr],
    pub(crate) hosts: &'a [&'a str],
}

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

// === impl Subject ===

impl<'a> Subject<'a> {
    /// A client that is known by its name alone.
    pub(crate) fn user(name: &'a str) -> Self {
        Self {
            name,
            group: None,
            addresses: &[],
            hosts: &[],
        }
    }

    /// A client in a group.
    pub(crate) fn in_group(name: &'a str, group: &'a str) -> Self {
        Self {
            group: Some(group),
            ..Self::user(name)
        }
    }
}

// === impl Authority ===

impl Authority {
    /// A new one, with its files in `folder`.
    pub(crate) fn new(name: &str, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        fs::write(folder.join("ca.pem"), &pem)?;
        secret(&folder.join("ca.key"), &key.serialize_pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_owned(),
            pem,
        })
    }

    /// Its own certificate and key; the controller manager signs with them too.
    pub(crate) fn own(&self) -> Pair {
        self.pair("ca")
    }

    fn pair(&self, file: &str) -> Pair {
        Pair {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        }
    }

    /// A key pair without a certificate, to sign tokens of service accounts.
    pub(crate) fn token_keys(&self) -> Result<Pair> {
        let (pair, key) = (self.pair("service-accounts"), KeyPair::generate()?);
        fs::write(&pair.certificate, key.public_key_pem())?;
        secret(&pair.key, &key.serialize_pem())?;
        Ok(pair)
    }

    /// Issues a certificate, for servers and for clients, under that file name.
    pub(crate) fn issue(&self, file: &str, subject: Subject<'_>) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, subject.name);
        if let Some(group) = subject.group {
            name.push(DnType::OrganizationName, group);
        }
        for address in subject.addresses {
            let name = SanType::IpAddress((*address).into());
            params.subject_alt_names.push(name);
        }
        for host in subject.hosts {
            let name = SanType::DnsName((*host).try_into()?);
            params.subject_alt_names.push(name);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair = self.pair(file);
        fs::write(&pair.certificate, certificate.pem())?;
        secret(&pair.key, &key.serialize_pem())?;
        Ok(pair)
    }

    /// A kubeconfig at `file` for a client of the API server at `address`, with all of it inline.
    pub(crate) fn kubeconfig(
        &self,
        file: &Path,
        cluster: &str,
        address: Ipv4Addr,
        subject: Subject<'_>,
    ) -> Result<()> {
        let pair = self.issue(&subject.name.replace(':', "-"), subject)?;
        let inline = |path: &Path| fs::read(path).map(|bytes| STANDARD.encode(bytes));
        let (certificate, key) = (inline(&pair.certificate)?, inline(&pair.key)?);
        // JSON is YAML, and kubectl writes it back as it likes it.
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": {
                "server": format!("https://{address}:6443"),
                "certificate-authority-data": STANDARD.encode(&self.pem),
            }}],
            "users": [{"name": subject.name, "user": {
                "client-certificate-data": certificate,
                "client-key-data": key,
            }}],
            "contexts": [{"name": cluster, "context": {
                "cluster": cluster, "user": subject.name,
            }}],
            "current-context": cluster,
        });
        secret(file, &serde_json::to_string_pretty(&config)?)
    }
}

/// Writes what only we may read.
fn secret(file: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let open = options.create(true).truncate(true).write(true).mode(0o600);
    let mut open = open
        .open(file)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(open.write_all(text.as_bytes())?)
}
