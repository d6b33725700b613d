use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;

use super::testing::{Authority, names};
use super::*;

fn member(name: &str) -> Who {
    Who::Member(name.to_owned())
}

fn load(authority: &Authority, folder: &Path, who: &Who) -> Identity {
    let files = authority.issue(folder, &[names().of(who)]);
    Identity::load(&files, &names(), who.clone()).expect("good files")
}

/// Both ends of one attempt: what the listener learnt, and whether a byte came back.
async fn meet(listening: &Identity, dialling: &Identity, expected: &Who) -> (Option<Who>, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let mut accepted = accept(listener, listening.clone());
    let connector = Connector::fixed(dialling.clone(), expected.clone(), address);
    let dial = async {
        let Ok(mut stream) = connector.dial().await else {
            return false;
        };
        stream.read_u8().await.is_ok()
    };
    tokio::pin!(dial);
    let mut met = None;
    loop {
        tokio::select! {
            answered = &mut dial => return (met, answered),
            Some(secured) = accepted.next() => {
                let mut secured = secured.expect("accepted");
                met = Some(tonic::transport::server::Connected::connect_info(&secured).who);
                secured.write_u8(1).await.expect("write");
                secured.flush().await.expect("write");
            }
        }
    }
}

#[tokio::test]
async fn two_members_of_a_group_meet_and_know_each_other_by_name() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = Authority::new();
    let one = load(&authority, &folder.path().join("1"), &member("notes-1"));
    let two = load(&authority, &folder.path().join("2"), &member("notes-2"));
    let met = meet(&one, &two, &member("notes-1")).await;
    assert_eq!(met, (Some(member("notes-2")), true));
    let operator = load(&authority, &folder.path().join("o"), &Who::Operator);
    let met = meet(&one, &operator, &member("notes-1")).await;
    assert_eq!(met, (Some(Who::Operator), true));
}

#[tokio::test]
async fn members_of_two_clusters_meet_by_what_each_clusters_authority_has_issued() {
    let folder = tempfile::tempdir().expect("folder");
    let root = Authority::new();
    let (us, eu) = (root.below("notes-us"), root.below("notes-eu"));
    let one = load(&us, &folder.path().join("1"), &member("notes-us-0"));
    let two = load(&eu, &folder.path().join("2"), &member("notes-eu-12"));
    let met = meet(&one, &two, &member("notes-us-0")).await;
    assert_eq!(met, (Some(member("notes-eu-12")), true));
    let operator = load(&eu, &folder.path().join("o"), &Who::Operator);
    let met = meet(&one, &operator, &member("notes-us-0")).await;
    assert_eq!(met, (Some(Who::Operator), true));
}

#[test]
fn a_clusters_authority_speaks_for_no_member_of_another_cluster() {
    let folder = tempfile::tempdir().expect("folder");
    let us = Authority::new().below("notes-us");
    for name in [
        "notes-eu-0",
        "notes-us-east-0",
        "notes-us",
        "notes-us-",
        "notes-us-0-1",
    ] {
        let files = us.issue(&folder.path().join(name), &[names().member(name)]);
        let error = Identity::load(&files, &names(), member(name)).expect_err("another's");
        assert!(error.to_string().contains("\"notes-us\""), "{error}");
    }
}

#[tokio::test]
async fn another_authority_gets_nothing_in_either_direction() {
    let folder = tempfile::tempdir().expect("folder");
    let one = load(
        &Authority::new(),
        &folder.path().join("1"),
        &member("notes-1"),
    );
    let stranger = load(
        &Authority::new(),
        &folder.path().join("2"),
        &member("notes-2"),
    );
    assert_eq!(
        meet(&one, &stranger, &member("notes-1")).await,
        (None, false)
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let _accepted = accept(listener, one.clone());
    let connector = Connector::fixed(stranger.clone(), member("notes-1"), address);
    let error = connector.dial().await.expect_err("refused").to_string();
    assert!(error.contains("belongs to another group"), "{error}");
    assert_eq!(
        meet(&stranger, &one, &member("notes-2")).await,
        (None, false)
    );
}

#[tokio::test]
async fn a_dialler_refuses_a_member_other_than_the_one_it_meant() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = Authority::new();
    let one = load(&authority, &folder.path().join("1"), &member("notes-1"));
    let two = load(&authority, &folder.path().join("2"), &member("notes-2"));
    let (_, answered) = meet(&one, &two, &member("notes-3")).await;
    assert!(!answered, "notes-1 answered in the place of notes-3");
    let (_, answered) = meet(&one, &two, &Who::Operator).await;
    assert!(!answered, "a member answered in the place of an operator");
}

#[tokio::test]
async fn a_certificate_of_the_same_authority_for_another_service_gets_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = Authority::new();
    let one = load(&authority, &folder.path().join("1"), &member("notes-1"));
    let mut others = names();
    others.service = "wiki".into();
    let who = member("notes-2");
    let files = authority.issue(&folder.path().join("w"), &[others.of(&who)]);
    let wiki = Identity::load(&files, &others, who).expect("good for wiki");
    assert_eq!(meet(&one, &wiki, &member("notes-1")).await, (None, false));
}

#[tokio::test]
async fn without_a_certificate_not_a_byte_is_answered() {
    let folder = tempfile::tempdir().expect("folder");
    let one = load(
        &Authority::new(),
        &folder.path().join("1"),
        &member("notes-1"),
    );
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(folder.path().join("1/ca.pem")).expect("ca");
    for it in
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(
            &pem,
        )
    {
        roots.add(it.expect("pem")).expect("root");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let mut accepted = accept(listener, one.clone());
    // Everything right but the client's certificate.
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verify::ExactServer {
        roots: std::sync::Arc::new(roots),
        provider: provider.clone(),
        names: names(),
        expected: member("notes-1"),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let connected = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
        .connect(name, stream)
        .await;
    // In TLS 1.3 the refusal comes with the first read.
    if let Ok(mut stream) = connected {
        let error = stream.read_u8().await.expect_err("refused");
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
    }
    drop(one);
    assert!(futures::FutureExt::now_or_never(accepted.next()).is_none());
}

#[tokio::test]
async fn new_files_are_used_for_new_connections_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().expect("folder");
    let (old, new) = (Authority::new(), Authority::new());
    let one_files = folder.path().join("1");
    let one = load(&old, &one_files, &member("notes-1"));
    let two = load(&new, &folder.path().join("2"), &member("notes-2"));
    assert_eq!(meet(&one, &two, &member("notes-1")).await, (None, false));

    std::fs::write(one_files.join("key.pem"), "half a file").expect("write");
    assert!(one.refresh().is_err());
    new.issue(&one_files, &[names().member("notes-1")]);
    assert!(one.refresh().expect("good files"));
    assert!(!one.refresh().expect("nothing new"));
    let met = meet(&one, &two, &member("notes-1")).await;
    assert_eq!(met, (Some(member("notes-2")), true));
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = Authority::new();
    let who = member("notes-1");
    let uri = names().of(&who);
    let fresh = |name: &str, uris: &[String]| authority.issue(&folder.path().join(name), uris);
    let error = |files: &crate::config::Tls| {
        Identity::load(files, &names(), who.clone())
            .expect_err("bad files")
            .to_string()
    };
    let missing = fresh("missing", std::slice::from_ref(&uri));
    std::fs::remove_file(&missing.key).expect("remove");
    assert!(error(&missing).contains("missing/key.pem"));

    let empty = fresh("empty", std::slice::from_ref(&uri));
    std::fs::write(&empty.ca, "").expect("write");
    assert!(error(&empty).contains("holds no certificate"));

    let swapped = fresh("swapped", std::slice::from_ref(&uri));
    let other = fresh("other", &[names().member("notes-2")]);
    std::fs::copy(&other.key, &swapped.key).expect("copy");
    assert!(
        error(&swapped).contains("does not fit"),
        "{}",
        error(&swapped)
    );

    assert!(error(&other).contains("notes-2"));
    assert!(error(&fresh("none", &[])).contains("exactly one URI"));
    let both = fresh("both", &[uri.clone(), names().operator()]);
    assert!(error(&both).contains("exactly one URI"));
}

#[test]
fn only_names_of_this_service_are_understood() {
    let names = names();
    for who in [Who::Member("notes-1".into()), Who::Operator] {
        assert_eq!(names.parse(&names.of(&who)), Some(who));
    }
    for other in [
        "spiffe://synod.local/ns/local/rsvc/notes2/member/notes-1",
        "spiffe://synod.local/ns/other/rsvc/notes/member/notes-1",
        "spiffe://synod.other/ns/local/rsvc/notes/operator",
        "spiffe://synod.local/ns/local/rsvc/notes/member/",
        "spiffe://synod.local/ns/local/rsvc/notes/member/a/b",
        "spiffe://synod.local/ns/local/rsvc/notes/operator/x",
        "notes-1",
    ] {
        assert_eq!(names.parse(other), None, "{other}");
    }
}
