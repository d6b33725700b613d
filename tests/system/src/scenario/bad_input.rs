//! What no client, operator or neighbour should send: it is refused by name, and nothing breaks.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Settings;
use crate::client::{Client, request};
use crate::group::{self, Group, MEMBERS, Options, Part};
use crate::raw;
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);

/// Bytes, what they are, and the status codes of which the first answer must have one. After it the
/// connection must end, so that what follows is never read as another request.
struct Vector {
    what: &'static str,
    bytes: Vec<u8>,
    allowed: &'static [u16],
}

fn vectors() -> Vec<Vector> {
    let smuggled = "PUT /r/smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n7";
    let mut all = Vec::new();
    let mut add = |what, head: &str, allowed| {
        all.push(Vector {
            what,
            bytes: format!("{head}{smuggled}").into_bytes(),
            allowed,
        });
    };
    let bad: &[u16] = &[400];
    add("no HTTP at all", "\x16\x03\x01\x02\x00 hello\r\n\r\n", bad);
    add(
        "a method with a space before it",
        " GET /r/1 HTTP/1.1\r\nHost: a\r\n\r\n",
        bad,
    );
    add(
        "an unknown version",
        "GET /r/1 HTTP/3.7\r\nHost: a\r\n\r\n",
        &[400, 505],
    );
    add(
        "no host",
        "PUT /r/1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        bad,
    );
    add(
        "two hosts",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
        bad,
    );
    add(
        "both lengths",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        bad,
    );
    add(
        "two different lengths",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n11",
        bad,
    );
    add(
        "a list of lengths",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n11",
        bad,
    );
    add(
        "a signed length",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n1",
        bad,
    );
    add(
        "a negative length",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n1",
        bad,
    );
    add(
        "a length beyond all numbers",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n1",
        &[400, 413],
    );
    add(
        "a chunk size that is no number",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n1\r\n0\r\n\r\n",
        bad,
    );
    add(
        "a chunk longer than it says",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n123\r\n0\r\n\r\n",
        bad,
    );
    add(
        "a chunk size beyond all numbers",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n1\r\n0\r\n\r\n",
        &[400, 413],
    );
    add(
        "an unknown transfer coding",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    );
    add(
        "chunked that is not last",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        &[400, 501],
    );
    add(
        "chunked twice",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    );
    add(
        "a space before the colon",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n1",
        bad,
    );
    add(
        "a folded header",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n Content-Length: 1\r\n\r\n1",
        bad,
    );
    add(
        "a bare line feed in a header",
        "PUT /r/1 HTTP/1.1\nHost: a\nContent-Length: 1\n\n1",
        bad,
    );
    add(
        "a zero byte in a header",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nX-A: a\0b\r\nContent-Length: 1\r\n\r\n1",
        bad,
    );
    add(
        "a header without a colon",
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nNonsense\r\n\r\n",
        bad,
    );
    let mut headers = String::new();
    for number in 0..5_000 {
        let _ = write!(headers, "X-{number}: {number}\r\n");
    }
    let many = format!("PUT /r/1 HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: 1\r\n\r\n1");
    add("thousands of headers", &many, &[400, 431]);
    let long = format!(
        "PUT /r/1 HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n",
        "a".repeat(300 << 10)
    );
    add("a huge header", &long, &[400, 431]);
    let target = format!(
        "GET /r/{} HTTP/1.1\r\nHost: a\r\n\r\n",
        "a".repeat(300 << 10)
    );
    add("a huge target", &target, &[400, 414, 431]);
    // Whole requests that are merely not allowed: what would follow them is a request of its own.
    for (what, bytes, allowed) in [
        (
            "CONNECT",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            &[400, 501][..],
        ),
        ("TRACE", "TRACE /r/1 HTTP/1.1\r\nHost: a\r\n\r\n", &[405]),
    ] {
        let bytes = bytes.as_bytes().to_vec();
        all.push(Vector {
            what,
            bytes,
            allowed,
        });
    }
    all
}

/// Malformed requests, through every member.
pub(super) async fn requests(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let mut sent = 0;
    for vector in vectors() {
        for index in 1..=MEMBERS {
            let reply = raw::exchange(group.address(index), &vector.bytes, 3 * SECOND).await?;
            let statuses = reply.statuses();
            sent += 1;
            let what = vector.what;
            let first = statuses.first();
            report.expect(
                first.is_some_and(|status| vector.allowed.contains(status)),
                format!("{what}: answered {statuses:?}, not {:?}", vector.allowed),
            );
            // What is whole and merely not allowed may leave the connection usable.
            if first != Some(&405) && first != Some(&501) {
                report.expect(reply.closed, format!("{what}: the connection was kept"));
                let more = statuses.len() > 1;
                report.expect(
                    !more,
                    format!("{what}: answered {statuses:?}, once too often"),
                );
            }
        }
    }
    report.say(format!(
        "{sent} malformed requests through {MEMBERS} members"
    ));
    oversized(&group, report).await?;
    still_works(&mut group, report).await?;
    group.stop().await?;
    Ok(())
}

async fn oversized(group: &Group, report: &mut Report) -> anyhow::Result<()> {
    let limit = 16 << 20;
    let big = |length: usize| request("PUT", "/r/big", vec![b'1'; length]);
    let client = Client::new(group.address(1));
    // The connection may end while we still send: the answer may be lost, the refusal must not be.
    if let Ok(answer) = client.send(big(limit + 1), 20 * SECOND).await {
        report.expect(
            answer.status == 413,
            format!("a body too large: {}", answer.status),
        );
    }
    let head = format!(
        "PUT /r/big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        limit + 1
    );
    let reply = raw::exchange(group.address(2), head.as_bytes(), 5 * SECOND).await?;
    let statuses = reply.statuses();
    report.expect(
        statuses == [413],
        format!("a length too large: {statuses:?}, not 413"),
    );
    let head = format!(
        "PUT /r/big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        limit + 1
    );
    let reply = raw::exchange(group.address(3), head.as_bytes(), 5 * SECOND).await?;
    let invited = String::from_utf8_lossy(&reply.bytes).contains("100 Continue");
    let refused = reply.statuses() == [413] && !invited;
    report.expect(
        refused,
        format!("a length too large, announced: {:?}", reply.statuses()),
    );

    let mut chunks =
        b"PUT /r/big HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..17 {
        chunks.extend_from_slice(b"100000\r\n");
        chunks.extend(std::iter::repeat_n(b'1', 1 << 20));
        chunks.extend_from_slice(b"\r\n");
    }
    let reply = raw::exchange(group.address(1), &chunks, 5 * SECOND).await?;
    let statuses = reply.statuses();
    report.expect(
        statuses == [413] || (statuses.is_empty() && reply.closed),
        format!("chunks that grow too large: {statuses:?}, not 413"),
    );
    Ok(())
}

/// Nothing of what was refused has reached a copy, and every member still takes requests.
async fn still_works(group: &mut Group, report: &mut Report) -> anyhow::Result<()> {
    for index in 1..=MEMBERS {
        let client = Client::new(group.address(index));
        let write = request("PUT", &format!("/r/after-{index}"), index.to_string());
        let answer = client.send(write, 15 * SECOND).await?;
        report.expect(
            answer.status == 200,
            format!("afterwards, member {index} answered {}", answer.status),
        );
    }
    group.wait_until_level(30 * SECOND).await?;
    let copies = group.ask_copies("/dump").await?;
    let expected = r#"{"r/after-1":{"version":1,"value":1},"r/after-2":{"version":1,"value":2},"r/after-3":{"version":1,"value":3}}"#;
    for (index, copy) in copies.iter().enumerate() {
        report.expect(
            copy == expected,
            format!(
                "copy {} holds more than the requests that were right: {copy}",
                index + 1
            ),
        );
    }
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    Ok(())
}

/// A client that announces a body and then falls silent.
pub(super) async fn slow_body(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let begun = Instant::now();
    let silent = b"PUT /r/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n1";
    let reply = raw::exchange(group.address(1), silent, 60 * SECOND).await?;
    let statuses = reply.statuses();
    report.say(format!(
        "a silent body: {statuses:?} after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    report.expect(
        statuses == [408],
        format!("a silent body was answered {statuses:?}, not 408"),
    );
    report.expect(reply.closed, "the connection of a silent body was kept");

    let begun = Instant::now();
    let reply = raw::exchange(group.address(2), b"PUT /r/slow HTTP/1.1\r\nHo", 60 * SECOND).await?;
    let statuses = reply.statuses();
    report.say(format!(
        "a silent header: {statuses:?} after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    report.expect(
        reply.closed && matches!(statuses[..], [] | [408]),
        format!("half a header was answered {statuses:?}"),
    );
    still_works(&mut group, report).await?;
    group.stop().await?;
    Ok(())
}

/// What the app sees is ours to say where our names are concerned, and the same on every copy.
pub(super) async fn reserved_headers(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let group = Group::start(&Options::sample_app()?).await?;
    let client = Client::new(group.address(2));
    let mut forged = request("POST", "/echo", "x");
    for (name, value) in [
        ("synod-slot", "999999"),
        ("synod-time", "1999-01-01T00:00:00Z"),
        ("synod-seed", "0"),
        ("synod-anything", "1"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-kept", "1"),
    ] {
        forged.headers_mut().append(name, value.parse()?);
    }
    let answer = client.send(forged, 15 * SECOND).await?;
    let echo: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let headers = echo["headers"]
        .as_array()
        .context("no headers in the echo")?;
    let values = |name: &str| -> Vec<String> {
        let named = headers.iter().filter(|header| header[0] == name);
        named
            .filter_map(|header| header[1].as_str().map(str::to_owned))
            .collect()
    };
    let slot = answer
        .slot()
        .context("no slot on an ordered response")?
        .to_string();
    report.expect(
        values("synod-slot") == [slot],
        format!("slot: {:?}", values("synod-slot")),
    );
    for (name, forged) in [("synod-time", "1999-01-01T00:00:00Z"), ("synod-seed", "0")] {
        let said = values(name);
        report.expect(
            said.len() == 1 && said[0] != forged,
            format!("{name}: {said:?}"),
        );
    }
    for gone in ["synod-anything", "x-hop", "connection"] {
        report.expect(values(gone).is_empty(), format!("{gone} reached the app"));
    }
    report.expect(
        values("x-kept") == ["1"],
        "a header of the client's was lost",
    );
    for expected in ["host", "forwarded", "x-forwarded-for"] {
        report.expect(
            values(expected).len() == 1,
            format!("{expected}: {:?}", values(expected)),
        );
    }
    report.say(format!("the app saw {headers:?}"));
    group.stop().await?;
    Ok(())
}

/// A manifest that contradicts itself, or says what nobody understands.
pub(super) async fn manifests(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let head = "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: notes}\n";
    for (spec, path) in [
        (
            "spec: {ordering: {maxBodySise: 16Mi}}",
            "spec.ordering.maxBodySise",
        ),
        ("spec: {replcas: 3}", "spec.replcas"),
        (
            "spec: {ordering: {maxBodySize: many}}",
            "spec.ordering.maxBodySize",
        ),
        (
            "spec: {ordering: {queueTimeout: -1s}}",
            "spec.ordering.queueTimeout",
        ),
        (
            "spec: {app: {applyTimeout: 60s}, ordering: {responseTimeout: 5s}}",
            "spec.ordering.responseTimeout",
        ),
        (
            "spec: {routes: [{name: a, consistency: Sometimes}]}",
            "spec.routes[0].consistency",
        ),
        ("spec: {routes: [{consistency: Ordered}]}", "spec.routes[0]"),
        ("spec: {replicas: many}", "spec.replicas"),
    ] {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("manifest.yaml");
        std::fs::write(&file, format!("{head}{spec}\n"))?;
        let data = folder.path().join("data");
        let mut command = Command::new(group::synod()?);
        command
            .arg("local")
            .arg("--data")
            .arg(&data)
            .arg("-f")
            .arg(&file);
        command.args(["--listen", &format!("127.0.0.1:{}", group::free_ports(3)?)]);
        command.args(["--", "true"]).kill_on_drop(true);
        let output = timeout(20 * SECOND, command.output()).await;
        let output = output.with_context(|| format!("{spec}: nothing said within 20 s"))??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        report.expect(
            output.status.code() == Some(64),
            format!(
                "{spec}: exit {:?}, not 64; it said {said}",
                output.status.code()
            ),
        );
        report.expect(
            said.contains(path),
            format!("{spec}: {path} is not named in {said}"),
        );
        report.expect(!data.exists(), format!("{spec}: a data folder was made"));
        report.say(said.lines().next().unwrap_or(""));
    }
    Ok(())
}

/// Who cannot show a certificate of the group gets not a byte from a member's peer port.
pub(super) async fn strangers(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let mut tls_ports = 0;
    for index in 1..=MEMBERS {
        let sidecar = group.process(index, Part::Sidecar).context("no sidecar")?;
        let ports = sidecar.listening_ports();
        for port in ports
            .into_iter()
            .filter(|&port| port != group.address(index).port())
        {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if answers_plain_http(address).await {
                continue;
            }
            tls_ports += 1;
            for (who, identity) in [
                ("nobody", None),
                ("another group's member", Some(forged()?)),
            ] {
                let got = data_for(address, identity).await?;
                report.expect(
                    got.is_empty(),
                    format!(
                        "{who} got {} bytes from port {port} of member {index}",
                        got.len()
                    ),
                );
            }
        }
    }
    report.expect(
        tls_ports >= MEMBERS,
        format!("only {tls_ports} ports between members found"),
    );
    report.say(format!(
        "{tls_ports} ports between members gave nothing to strangers"
    ));
    still_works(&mut group, report).await?;
    group.stop().await?;
    Ok(())
}

async fn answers_plain_http(address: SocketAddr) -> bool {
    let asked = b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let reply = raw::exchange(address, asked, 2 * SECOND).await;
    reply.is_ok_and(|reply| reply.bytes.starts_with(b"HTTP/1.1"))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate that says the right things, signed by an authority of its own.
fn forged() -> anyhow::Result<Identity> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    let name = "spiffe://synod.local/ns/local/rsvc/synod-test-app/member/synod-test-app-1";
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(name.try_into()?));
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    Ok((vec![certificate.der().clone()], key))
}

/// Application data that a stranger gets who speaks TLS and then HTTP/2.
async fn data_for(address: SocketAddr, identity: Option<Identity>) -> anyhow::Result<Vec<u8>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost")?;
    let Ok(Ok(mut stream)) = timeout(5 * SECOND, connector.connect(name, stream)).await else {
        return Ok(Vec::new());
    };
    // With TLS 1.3 the client believes in success before the server has looked at its certificate.
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let _ = stream.write_all(settings).await;
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(Ok(count)) = timeout(3 * SECOND, stream.read(&mut buffer)).await {
        if count == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..count]);
    }
    Ok(got)
}

#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
