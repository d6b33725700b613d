//! What the webhook serves with, and what the API server is told to trust. Comes in: the authority
//! that all instances share in a Secret, or a folder that somebody else keeps. Goes out: a certificate
//! that is always good, and the `caBundle` of the webhook's configuration. Both change while it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;

use super::metrics::Metrics;
use crate::certs::{Authority, CertError, Pair, validity};
use crate::run::{Context, Latch};

/// Who writes the `caBundle`.
const MANAGER: &str = "synod-webhook";
/// The webhook's name in its configuration.
const WEBHOOK: &str = "inject.synod.dev";
/// Between two looks, once something is served.
const PERIOD: Duration = Duration::from_secs(10);
/// Before that.
const SOON: Duration = Duration::from_secs(1);
/// For one look.
const PATIENCE: Duration = Duration::from_secs(8);

/// The certificate in use.
#[derive(Default)]
pub(super) struct Served(RwLock<Option<Arc<CertifiedKey>>>);

/// Keeps it good.
pub(super) struct Keeper {
    context: Arc<Context>,
    served: Arc<Served>,
    latch: Latch,
    metrics: Metrics,
    pair: Option<Pair>,
    complaint: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("cannot {what}: {error}")]
    Api {
        what: String,
        error: Box<kube::Error>,
    },
    #[error(transparent)]
    Cert(#[from] CertError),
    #[error("Secret {secret} holds no authority ({error}): delete it, another is made")]
    Authority { secret: String, error: CertError },
    #[error("{path}: {error}")]
    File { path: String, error: String },
    #[error("this certificate cannot be served: {0}")]
    Pair(String),
    #[error("no answer in time")]
    Late,
}

/// TLS with whatever certificate is in use at the moment of a handshake.
pub(super) fn tls(served: Arc<Served>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what they need")
        .with_no_client_auth()
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

// === impl Served ===

impl Served {
    /// From now on this one; refused when it cannot be used.
    pub(super) fn set(&self, pair: &Pair) -> Result<(), KeepError> {
        let bad = |error: &dyn fmt::Display| KeepError::Pair(error.to_string());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| bad(&error))?;
        let key =
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| bad(&error))?;
        let provider = rustls::crypto::ring::default_provider();
        // Checks that the key is the certificate's.
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| bad(&error))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        context: Arc<Context>,
        served: Arc<Served>,
        latch: Latch,
        metrics: Metrics,
    ) -> Self {
        Self {
            context,
            served,
            latch,
            metrics,
            pair: None,
            complaint: String::new(),
        }
    }

    /// Until told to stop.
    pub(super) async fn run(mut self) {
        let stop = self.context.stop.clone();
        let mut leadership = self.context.leadership.clone();
        loop {
            let look = tokio::time::timeout(PATIENCE, self.look());
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = look => looked.unwrap_or(Err(KeepError::Late)),
            };
            // What is served goes on being served; each complaint is made once.
            let complaint = looked.err().map_or_else(String::new, |it| it.to_string());
            if complaint != self.complaint && !complaint.is_empty() {
                tracing::warn!(error = complaint, "the webhook's certificate is not kept");
            }
            self.complaint = complaint;
            let pause = if self.pair.is_some() { PERIOD } else { SOON };
            tokio::select! {
                () = stop.cancelled() => return,
                // Only the one that writes tells the API server whom to trust.
                () = leadership.gained() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), KeepError> {
        if let Some(folder) = self.context.flags.webhook.certificate.clone() {
            let pair = read(&folder).await?;
            if self.pair.as_ref() != Some(&pair) {
                self.serve(pair)?;
            }
            return Ok(());
        }
        let now = SystemTime::now();
        let authority = self.authority(now).await?;
        if !self
            .pair
            .as_ref()
            .is_some_and(|it| authority.serves(it, now))
        {
            let flags = &self.context.flags;
            let name = format!("{}.{}.svc", flags.webhook.service, flags.namespace);
            self.serve(authority.leaf(&name, now)?)?;
        }
        if self.context.leadership.leads() {
            self.publish(&authority.bundle()?).await?;
        }
        Ok(())
    }

    fn serve(&mut self, pair: Pair) -> Result<(), KeepError> {
        self.served.set(&pair)?;
        let ends = validity(&pair.cert)?.until;
        let ends = ends
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.metrics
            .ends(i64::try_from(ends.as_secs()).unwrap_or(i64::MAX));
        self.pair = Some(pair);
        self.latch.set();
        tracing::info!("the webhook has a new certificate");
        Ok(())
    }

    /// The authority that all instances share; whoever is first makes it, and only the one that
    /// writes has it turned.
    async fn authority(&self, now: SystemTime) -> Result<Authority, KeepError> {
        let flags = &self.context.flags;
        let name = format!("{}-ca", flags.webhook.service);
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &flags.namespace);
        let failed = |verb: &str| {
            let what = format!("{verb} Secret {name}");
            move |error: kube::Error| KeepError::Api {
                what,
                error: Box::new(error),
            }
        };
        let Some(secret) = api.get_opt(&name).await.map_err(failed("read"))? else {
            let authority = Authority::make(now)?;
            let secret = secret(&name, &authority, None);
            let made = api.create(&PostParams::default(), &secret).await;
            // When another was first, the next look finds its.
            return made.map(|_| authority).map_err(failed("create"));
        };
        let content = secret.data.iter().flatten();
        let content: BTreeMap<_, _> = content
            .filter_map(|(key, value)| {
                Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))
            })
            .collect();
        let authority = Authority::parse(&content).map_err(|error| KeepError::Authority {
            secret: name.clone(),
            error,
        })?;
        let turned = authority
            .turned(now)?
            .filter(|_| self.context.leadership.leads());
        let Some(turned) = turned else {
            return Ok(authority);
        };
        let version = secret.metadata.resource_version;
        let secret = self::secret(&name, &turned, version);
        api.replace(&name, &PostParams::default(), &secret)
            .await
            .map_err(failed("update"))?;
        tracing::info!(name, "the webhook's authority has moved on");
        Ok(turned)
    }

    /// Has the API server trust it. The rest of the configuration is the chart's.
    async fn publish(&self, bundle: &str) -> Result<(), KeepError> {
        let name = &self.context.flags.webhook.configuration;
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.context.client.clone());
        let failed = |verb: &str| {
            let what = format!("{verb} MutatingWebhookConfiguration {name}");
            move |error: kube::Error| KeepError::Api {
                what,
                error: Box::new(error),
            }
        };
        let there = api.get(name).await.map_err(failed("read"))?;
        let webhooks = there.webhooks.into_iter().flatten();
        let trusted = webhooks
            .filter(|it| it.name == WEBHOOK)
            .find_map(|it| it.client_config.ca_bundle);
        if trusted.is_some_and(|it| it.0 == bundle.as_bytes()) {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": WEBHOOK,
                "clientConfig": {"caBundle": ByteString(bundle.as_bytes().to_vec())},
            }],
        });
        let params = PatchParams::apply(MANAGER).force();
        api.patch(name, &params, &Patch::Apply(&patch))
            .await
            .map_err(failed("update"))?;
        tracing::info!(name, "the API server trusts the webhook's authority");
        Ok(())
    }
}

fn secret(name: &str, authority: &Authority, version: Option<String>) -> Secret {
    let data = authority.content().into_iter();
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: version,
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "synod-operator".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(
            data.map(|(key, value)| (key, ByteString(value.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// What somebody else keeps. Mounted Secrets change by a symbolic link, so it is content that tells.
async fn read(folder: &Path) -> Result<Pair, KeepError> {
    let file = async |name: &str| {
        let path = folder.join(name);
        tokio::fs::read_to_string(&path)
            .await
            .map_err(|error| KeepError::File {
                path: path.display().to_string(),
                error: error.to_string(),
            })
    };
    Ok(Pair {
        cert: file("tls.crt").await?,
        key: file("tls.key").await?,
    })
}
