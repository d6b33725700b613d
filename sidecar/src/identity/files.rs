//! A member's certificate, key and trusted authorities: read, checked, kept fresh.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::verify::{ClientOfService, ExactServer, name_of};
use super::{Names, Who};
use crate::config::Tls;
use crate::node::clock;

/// How often the files' content is looked at. Secret volumes swap symbolic links, which file
/// events do not tell about.
const POLL: Duration = Duration::from_secs(3);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or must not be read.
    #[error("cannot read {what} {path}: {error}")]
    Read {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{what} {path}: {problem}")]
    Content {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The files do not belong together.
    #[error("certificate {cert} does not fit {other}: {problem}")]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The file that it should fit.
        other: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It is somebody else's certificate.
    #[error("certificate {cert} is for another: {problem}")]
    OtherName {
        /// The certificate.
        cert: PathBuf,
        /// Whose it is and whose it should be.
        problem: String,
    },
}

/// This member's (or operator's) identity. Cheap to clone; new connections use the newest files.
#[derive(Clone, Debug)]
pub struct Identity {
    current: Arc<RwLock<Arc<Loaded>>>,
    files: Tls,
    names: Names,
    who: Who,
}

/// The files at one moment, checked.
#[derive(Debug)]
struct Loaded {
    content: Content,
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

/// The bytes of the files, by which a change is noticed.
#[derive(PartialEq, Eq)]
struct Content {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

// === impl Identity ===

impl Identity {
    /// Reads the files and checks that they belong together and to `who`.
    pub fn load(files: &Tls, names: &Names, who: Who) -> Result<Self, IdentityError> {
        let loaded = Loaded::new(files, names, &who, Content::read(files)?)?;
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(loaded))),
            files: files.clone(),
            names: names.clone(),
            who,
        })
    }

    /// Who this is.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// The names of the service.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// For connections accepted from now on: a certificate of this service is a must.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.loaded().server.clone()
    }

    /// For connections to `expected` made from now on.
    pub fn client(&self, expected: &Who) -> Arc<ClientConfig> {
        let loaded = self.loaded();
        let provider = provider();
        let verifier = ExactServer {
            roots: loaded.roots.clone(),
            provider: provider.clone(),
            names: self.names.clone(),
            expected: expected.clone(),
        };
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(WallClock))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(loaded.key.clone())));
        // Each connection proves its name anew.
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// Whom a verified certificate names.
    pub(crate) fn name(&self, certificate: &CertificateDer<'_>) -> Option<Who> {
        name_of(certificate, &self.names).ok()
    }

    /// Looks at the files until it is dropped; what they hold then is used if it is good, and
    /// reported once if it is not.
    pub async fn keep_fresh(self) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(POLL).await;
            match self.refresh() {
                Ok(changed) => {
                    complaint = None;
                    if changed {
                        tracing::info!(cert = %self.files.cert.display(), "new certificates in use");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = %text, "new certificates cannot be used; the last ones stay");
                        complaint = Some(text);
                    }
                }
            }
        }
    }

    /// Looks at the files once; true when something new is in use.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let content = Content::read(&self.files)?;
        if content == self.loaded().content {
            return Ok(false);
        }
        let loaded = Loaded::new(&self.files, &self.names, &self.who, content)?;
        *self.current.write().expect("no holder panics") = Arc::new(loaded);
        Ok(true)
    }

    fn loaded(&self) -> Arc<Loaded> {
        self.current.read().expect("no holder panics").clone()
    }
}

// === impl Content ===

impl Content {
    fn read(files: &Tls) -> Result<Self, IdentityError> {
        let read = |what, path: &Path| {
            std::fs::read(path).map_err(|error| IdentityError::Read {
                what,
                path: path.to_owned(),
                error,
            })
        };
        Ok(Self {
            ca: read(CA, &files.ca)?,
            cert: read(CERT, &files.cert)?,
            key: read(KEY, &files.key)?,
        })
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A key must not come into a log by way of a debug print.
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

const CA: &str = "trusted authorities";
const CERT: &str = "certificate";
const KEY: &str = "key";

// === impl Loaded ===

impl Loaded {
    fn new(files: &Tls, names: &Names, who: &Who, content: Content) -> Result<Self, IdentityError> {
        let provider = provider();
        let roots = Arc::new(read_roots(&files.ca, &content.ca)?);
        let chain = read_certificates(CERT, &files.cert, &content.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&content.key).map_err(|error| {
            IdentityError::Content {
                what: KEY,
                path: files.key.clone(),
                problem: format!("no usable PEM key: {error}"),
            }
        })?;
        let mismatch = |other: &Path, problem: String| IdentityError::Mismatch {
            cert: files.cert.clone(),
            other: other.to_owned(),
            problem,
        };
        let found = name_of(&chain[0], names).map_err(|error| IdentityError::OtherName {
            cert: files.cert.clone(),
            problem: error.to_string(),
        })?;
        if found != *who {
            return Err(IdentityError::OtherName {
                cert: files.cert.clone(),
                problem: format!("it names {}, expected {}", names.of(&found), names.of(who)),
            });
        }
        let key = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| mismatch(&files.key, error.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| IdentityError::Content {
                what: CA,
                path: files.ca.clone(),
                problem: error.to_string(),
            })?;
        let key = Arc::new(key);
        let verifier = ClientOfService {
            chain: verifier,
            names: names.clone(),
        };
        let mut server = ServerConfig::builder_with_details(provider, Arc::new(WallClock))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
        server.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection proves its name anew.
        server.send_tls13_tickets = 0;
        Ok(Self {
            content,
            roots,
            key,
            server: Arc::new(server),
        })
    }
}

/// Certificates are valid by the clock that the rest of the member goes by.
#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_nanos(clock::now().wall_ns);
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// The one provider that this program uses.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_certificates(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let content = |problem: String| IdentityError::Content {
        what,
        path: path.to_owned(),
        problem,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| content(format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(content("holds no certificate in PEM".to_owned()));
    }
    Ok(found)
}

fn read_roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(CA, path, pem)? {
        roots
            .add(certificate)
            .map_err(|error| IdentityError::Content {
                what: CA,
                path: path.to_owned(),
                problem: error.to_string(),
            })?;
    }
    Ok(roots)
}
