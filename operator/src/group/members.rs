//! What members say about themselves: gRPC over mutual TLS, where each must prove its name. Comes in:
//! the operator's certificate for the group, a member's name and address. Goes out: its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::{
    AcquireDisruptionRequest, AcquireDisruptionResponse, ChangeMembersRequest, KeptSnapshot,
    KeptSnapshotsRequest, MembersRequest, MembersResponse, Policy, PrepareShutdownRequest,
    ProposePolicyRequest, ProposePolicyResponse, RaiseProtocolRequest, ReleaseDisruptionRequest,
    ReviseRequest, ReviseResponse, StatusRequest, StatusResponse, TakeSnapshotRequest,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::certs::{Names, Pair, names_only_der};

/// Limit on connection and question together: they are asked often, and side by side.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit on what needs the agreement of others.
const LONG: Duration = Duration::from_secs(15);

/// Who asks: the operator, with its certificate for one service.
#[derive(Clone)]
pub(crate) struct Asker {
    names: Names,
    config: Arc<dyn Fn(String) -> Arc<ClientConfig> + Send + Sync>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// The operator's own certificate.
    #[error("the operator's certificate for this service cannot be used: {0}")]
    Certificate(String),
    /// No connection, or none to whom it was meant for.
    #[error("cannot reach {member} at {address}: {problem}")]
    Unreachable {
        /// Whom.
        member: String,
        /// Where.
        address: SocketAddr,
        /// What was said.
        problem: String,
    },
    /// It answered that it cannot.
    #[error("{member}: {problem}")]
    Refused {
        /// Who.
        member: String,
        /// What it said.
        problem: String,
    },
}

// === impl Asker ===

impl Asker {
    /// `roots` is a PEM text with the trusted roots.
    pub(crate) fn new(names: Names, pair: &Pair, roots: &str) -> Result<Self, AskError> {
        let bad = |error: &dyn std::fmt::Display| AskError::Certificate(error.to_string());
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store
                .add(root.map_err(|error| bad(&error))?)
                .map_err(|error| bad(&error))?;
        }
        let store = Arc::new(store);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| bad(&error))?;
        let key =
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| bad(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let build = move |expected: String| -> Result<ClientConfig, Error> {
            let verifier = ExactMember {
                roots: store.clone(),
                provider: provider.clone(),
                expected,
            };
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_auth_cert(chain.clone(), key.clone_key())?;
            config.resumption = rustls::client::Resumption::disabled();
            config.alpn_protocols = vec![b"h2".to_vec()];
            Ok(config)
        };
        // Once here, so that a key that does not fit is found now.
        build(String::new()).map_err(|error| bad(&error))?;
        let config = move |expected| Arc::new(build(expected).expect("built once already"));
        Ok(Self {
            names,
            config: Arc::new(config),
        })
    }

    /// What a member knows about itself and its group.
    pub(crate) async fn status(
        &self,
        member: &str,
        address: SocketAddr,
    ) -> Result<StatusResponse, AskError> {
        let ask = async {
            let mut client = self.client(member, address).await?;
            let answer = client.status(StatusRequest {}).await;
            Ok(answer
                .map_err(|status| refused(member, &status))?
                .into_inner())
        };
        within(PATIENCE, member, address, ask).await
    }

    /// The member is about to be ended: if it leads, another leads when this returns, `successor` if
    /// it can; that may be empty.
    pub(crate) async fn prepare_shutdown(
        &self,
        member: &str,
        address: SocketAddr,
        successor: &str,
    ) -> Result<(), AskError> {
        let ask = async {
            let mut client = self.client(member, address).await?;
            let request = PrepareShutdownRequest {
                successor: successor.to_owned(),
            };
            let answer = client.prepare_shutdown(request).await;
            answer.map_err(|status| refused(member, &status))?;
            Ok(())
        };
        within(LONG, member, address, ask).await
    }

    /// Proposes a policy by compare-and-set.
    pub(crate) async fn propose_policy(
        &self,
        leader: &str,
        address: SocketAddr,
        policy: Policy,
        expected_version: u64,
        epoch: u64,
    ) -> Result<ProposePolicyResponse, AskError> {
        let ask = async {
            let mut client = self.client(leader, address).await?;
            let request = ProposePolicyRequest {
                policy: Some(policy),
                expected_version,
                epoch,
            };
            let answer = client.propose_policy(request).await;
            Ok(answer
                .map_err(|status| refused(leader, &status))?
                .into_inner())
        };
        within(LONG, leader, address, ask).await
    }

    /// Asks the leader for the group's disruption token, or renews it.
    pub(crate) async fn acquire_disruption(
        &self,
        leader: &str,
        address: SocketAddr,
        epoch: u64,
        lease: Duration,
        holder: &str,
    ) -> Result<AcquireDisruptionResponse, AskError> {
        let ask = async {
            let mut client = self.client(leader, address).await?;
            let request = AcquireDisruptionRequest {
                epoch,
                ttl_ms: lease.as_millis() as u64,
                holder: holder.to_owned(),
            };
            let answer = client.acquire_disruption(request).await;
            Ok(answer
                .map_err(|status| refused(leader, &status))?
                .into_inner())
        };
        within(LONG, leader, address, ask).await
    }

    /// The snapshots that a member has.
    pub(crate) async fn kept_snapshots(
        &self,
        member: &str,
        address: SocketAddr,
    ) -> Result<Vec<KeptSnapshot>, AskError> {
        let ask = async {
            let mut client = self.client(member, address).await?;
            let answer = client.kept_snapshots(KeptSnapshotsRequest {}).await;
            let answer = answer.map_err(|status| refused(member, &status))?;
            Ok(answer.into_inner().snapshots)
        };
        within(PATIENCE, member, address, ask).await
    }

    /// The member makes a snapshot; `None`: it is still at it.
    pub(crate) async fn take_snapshot(
        &self,
        member: &str,
        address: SocketAddr,
    ) -> Result<Option<KeptSnapshot>, AskError> {
        let mut client = within(PATIENCE, member, address, self.client(member, address)).await?;
        let asked = client.take_snapshot(TakeSnapshotRequest {});
        match timeout(LONG, asked).await {
            Ok(answer) => {
                let answer = answer.map_err(|status| refused(member, &status))?;
                Ok(answer.into_inner().snapshot)
            }
            Err(_) => Ok(None),
        }
    }

    /// The leader raises the protocol of its group; goes out: the version in force.
    pub(crate) async fn raise_protocol(
        &self,
        leader: &str,
        address: SocketAddr,
        version: u32,
    ) -> Result<u32, AskError> {
        let ask = async {
            let mut client = self.client(leader, address).await?;
            let answer = client
                .raise_protocol(RaiseProtocolRequest { version })
                .await;
            let answer = answer.map_err(|status| refused(leader, &status))?;
            Ok(answer.into_inner().version)
        };
        within(LONG, leader, address, ask).await
    }

    /// Who is in the group, as this member knows it.
    pub(crate) async fn members(
        &self,
        member: &str,
        address: SocketAddr,
    ) -> Result<MembersResponse, AskError> {
        let ask = async {
            let mut client = self.client(member, address).await?;
            let answer = client.members(MembersRequest {}).await;
            Ok(answer
                .map_err(|status| refused(member, &status))?
                .into_inner())
        };
        within(PATIENCE, member, address, ask).await
    }

    /// The leader changes the members of its group; goes out: their epoch.
    pub(crate) async fn change_members(
        &self,
        leader: &str,
        address: SocketAddr,
        change: ChangeMembersRequest,
    ) -> Result<u64, AskError> {
        let ask = async {
            let mut client = self.client(leader, address).await?;
            let answer = client.change_members(change).await;
            let answer = answer.map_err(|status| refused(leader, &status))?;
            Ok(answer.into_inner().epoch)
        };
        within(LONG, leader, address, ask).await
    }

    /// The leader has another revision of the app agreed on, or the newest taken back.
    pub(crate) async fn revise(
        &self,
        leader: &str,
        address: SocketAddr,
        request: ReviseRequest,
    ) -> Result<ReviseResponse, AskError> {
        let ask = async {
            let mut client = self.client(leader, address).await?;
            let answer = client.revise(request).await;
            let answer = answer.map_err(|status| refused(leader, &status))?;
            Ok(answer.into_inner())
        };
        within(LONG, leader, address, ask).await
    }

    /// Gives the token back.
    pub(crate) async fn release_disruption(
        &self,
        leader: &str,
        address: SocketAddr,
        holder: &str,
    ) -> Result<(), AskError> {
        let ask = async {
            let mut client = self.client(leader, address).await?;
            let request = ReleaseDisruptionRequest {
                holder: holder.to_owned(),
            };
            let answer = client.release_disruption(request).await;
            answer.map_err(|status| refused(leader, &status))?;
            Ok(())
        };
        within(LONG, leader, address, ask).await
    }

    async fn client(
        &self,
        member: &str,
        address: SocketAddr,
    ) -> Result<ControlClient<Channel>, AskError> {
        let unreachable = |problem: String| AskError::Unreachable {
            member: member.to_owned(),
            address,
            problem,
        };
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(error.to_string()))?;
        let config = (self.config)(self.names.member(member));
        let stream = TlsConnector::from(config)
            .connect(ServerName::IpAddress(address.ip().into()), stream)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let mut once = Some(stream);
        let connector = tower::service_fn(move |_: Uri| {
            let stream = once.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("the connection ended")) }
        });
        let channel = Endpoint::from_static("http://member.synod.invalid")
            .connect_with_connector(connector)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(ControlClient::new(channel))
    }
}

async fn within<T>(
    limit: Duration,
    member: &str,
    address: SocketAddr,
    ask: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    let late = |_| AskError::Unreachable {
        member: member.to_owned(),
        address,
        problem: format!("no answer within {} s", limit.as_secs()),
    };
    timeout(limit, ask).await.map_err(late)?
}

fn refused(member: &str, status: &tonic::Status) -> AskError {
    AskError::Refused {
        member: member.to_owned(),
        problem: status.message().to_owned(),
    }
}

/// Where a pod listens for its peers.
pub(crate) fn address(ip: &str, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

/// The one member that was meant, wherever it was found.
#[derive(Debug)]
struct ExactMember {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    expected: String,
}

impl ServerCertVerifier for ExactMember {
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
        if names_only_der(end_entity, &self.expected) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
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

#[cfg(test)]
mod tests;
