//! Against a real server with a certificate as members have it.

use std::time::SystemTime;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use synod_proto::v1::control_server::{Control, ControlServer};
use synod_proto::v1::{
    AcquireDisruptionRequest, AcquireDisruptionResponse, AcquireStopRequest, AcquireStopResponse,
    ChangeMembersResponse, KeptSnapshotsResponse, PrepareShutdownResponse, RaiseProtocolResponse,
    ReleaseDisruptionResponse, ReviseRequest, ReviseResponse, SkipRequest, SkipResponse,
    TakeSnapshotResponse, TransferLeadershipRequest, TransferLeadershipResponse,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::*;
use crate::certs::{Bundle, Issuer, Scope, leaf, request, root, sign_request};

struct Member;

#[tonic::async_trait]
impl Control for Member {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            member: "notes-local-0".to_owned(),
            ..StatusResponse::default()
        }))
    }

    async fn propose_policy(
        &self,
        _: Request<ProposePolicyRequest>,
    ) -> Result<Response<ProposePolicyResponse>, Status> {
        Err(Status::unavailable("no group yet"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        Err(Status::failed_precondition("this member does not lead"))
    }

    async fn acquire_stop(
        &self,
        _: Request<AcquireStopRequest>,
    ) -> Result<Response<AcquireStopResponse>, Status> {
        Err(Status::permission_denied("members only"))
    }

    async fn prepare_shutdown(
        &self,
        request: Request<PrepareShutdownRequest>,
    ) -> Result<Response<PrepareShutdownResponse>, Status> {
        let successor = request.into_inner().successor;
        Err(Status::deadline_exceeded(format!(
            "{successor} could not take over in time"
        )))
    }

    async fn acquire_disruption(
        &self,
        _: Request<AcquireDisruptionRequest>,
    ) -> Result<Response<AcquireDisruptionResponse>, Status> {
        Err(Status::unavailable("no group yet"))
    }

    async fn release_disruption(
        &self,
        _: Request<ReleaseDisruptionRequest>,
    ) -> Result<Response<ReleaseDisruptionResponse>, Status> {
        Err(Status::unavailable("no group yet"))
    }

    async fn take_snapshot(
        &self,
        _: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotResponse>, Status> {
        Err(Status::failed_precondition("no method for snapshots"))
    }

    async fn kept_snapshots(
        &self,
        _: Request<KeptSnapshotsRequest>,
    ) -> Result<Response<KeptSnapshotsResponse>, Status> {
        let kept = |slot| KeptSnapshot {
            slot,
            ..KeptSnapshot::default()
        };
        Ok(Response::new(KeptSnapshotsResponse {
            snapshots: vec![kept(7), kept(9)],
        }))
    }

    async fn raise_protocol(
        &self,
        _: Request<RaiseProtocolRequest>,
    ) -> Result<Response<RaiseProtocolResponse>, Status> {
        Err(Status::failed_precondition("this member does not lead"))
    }

    async fn members(
        &self,
        _: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        Ok(Response::new(MembersResponse {
            epoch: 7,
            leads: true,
            ..MembersResponse::default()
        }))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        match request.into_inner().epoch {
            7 => Ok(Response::new(ChangeMembersResponse { epoch: 8 })),
            _ => Err(Status::failed_precondition("the epoch is 7")),
        }
    }

    async fn skip(&self, _: Request<SkipRequest>) -> Result<Response<SkipResponse>, Status> {
        unreachable!("a person's word")
    }

    async fn revise(&self, _: Request<ReviseRequest>) -> Result<Response<ReviseResponse>, Status> {
        unreachable!("nothing asks for it")
    }
}

struct Authority {
    root: Pair,
    issuer: Issuer,
}

fn names() -> Names {
    Names {
        trust_domain: "synod.local".to_owned(),
        namespace: "default".to_owned(),
        service: "notes".to_owned(),
    }
}

impl Authority {
    fn new() -> Self {
        let now = SystemTime::now();
        let scope = Scope {
            cluster: "local".to_owned(),
            workload: "notes-local".to_owned(),
        };
        let root = root(&names(), now).expect("made");
        let asked = request(&names(), &scope, None).expect("made");
        let chain = sign_request(&root, &names(), &scope, &asked.cert, now).expect("signed");
        let roots = Bundle::parse(&root.cert).expect("a root");
        let issuer = Issuer::load(&chain, &asked.key, &roots, &names(), &scope, now).expect("good");
        Self { root, issuer }
    }

    fn asker(&self) -> Asker {
        let pair = leaf(&self.issuer, &names().operator(), SystemTime::now()).expect("issued");
        Asker::new(names(), &pair, &self.root.cert).expect("good")
    }

    /// A member of this name that takes connections from whoever this authority knows.
    async fn member(&self, name: &str) -> SocketAddr {
        let pair = leaf(&self.issuer, &names().member(name), SystemTime::now()).expect("issued");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.root.cert.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .expect("roots");
        let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes())
            .collect::<Result<_, _>>()
            .expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .expect("a key that fits");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let service = TowerToHyperService::new(ControlServer::new(Member));
                tokio::spawn(
                    hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .http2_only()
                        .serve_connection(TokioIo::new(stream), service)
                        .into_owned(),
                );
            }
        });
        address
    }
}

#[tokio::test]
async fn a_member_is_heard_where_it_proves_its_name() {
    let authority = Authority::new();
    let address = authority.member("notes-local-0").await;
    let said = authority.asker().status("notes-local-0", address).await;
    assert_eq!(said.expect("heard").member, "notes-local-0");
}

#[tokio::test]
async fn another_member_at_its_address_or_of_another_authority_is_not_heard() {
    let authority = Authority::new();
    let address = authority.member("notes-local-1").await;
    let error = authority.asker().status("notes-local-0", address).await;
    assert!(
        matches!(error, Err(AskError::Unreachable { .. })),
        "{error:?}"
    );
    let address = Authority::new().member("notes-local-0").await;
    let error = authority.asker().status("notes-local-0", address).await;
    assert!(
        matches!(error, Err(AskError::Unreachable { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_member_tells_its_snapshots_and_why_it_makes_none() {
    let authority = Authority::new();
    let address = authority.member("notes-local-0").await;
    let asker = authority.asker();
    let kept = asker.kept_snapshots("notes-local-0", address).await;
    let slots: Vec<_> = kept.expect("told").iter().map(|it| it.slot).collect();
    assert_eq!(slots, [7, 9]);
    let refused = asker.take_snapshot("notes-local-0", address).await;
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "notes-local-0: no method for snapshots"
    );
    let refused = asker.raise_protocol("notes-local-0", address, 2).await;
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "notes-local-0: this member does not lead"
    );
}

#[tokio::test]
async fn a_leader_tells_the_members_and_changes_them_in_their_epoch() {
    let authority = Authority::new();
    let address = authority.member("notes-local-0").await;
    let asker = authority.asker();
    let said = asker.members("notes-local-0", address).await.expect("told");
    assert_eq!((said.epoch, said.leads), (7, true));
    let change = |epoch| ChangeMembersRequest {
        epoch,
        changes: Vec::new(),
    };
    let done = asker.change_members("notes-local-0", address, change(7));
    assert_eq!(done.await, Ok(8));
    let late = asker.change_members("notes-local-0", address, change(6));
    assert_eq!(
        late.await.expect_err("refused").to_string(),
        "notes-local-0: the epoch is 7"
    );
}

#[tokio::test]
async fn what_a_member_refuses_is_told_in_its_words() {
    let authority = Authority::new();
    let address = authority.member("notes-local-0").await;
    let asker = authority.asker();
    let refused = asker
        .prepare_shutdown("notes-local-0", address, "notes-local-1")
        .await;
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "notes-local-0: notes-local-1 could not take over in time"
    );
    let refused = asker.propose_policy("notes-local-0", address, Policy::default(), 1, 1);
    assert_eq!(
        refused.await.expect_err("refused").to_string(),
        "notes-local-0: no group yet"
    );
}
