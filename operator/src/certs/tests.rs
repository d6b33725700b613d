//! What is issued here must be accepted by members, whose rules are: a chain to a trusted root for
//! the right use, as rustls checks it, and exactly one URI, which is the name.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::UnixTime;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};

use super::inspect::{all, first, names_only, parse};
use super::*;

fn names() -> Names {
    Names {
        trust_domain: "synod.local".to_owned(),
        namespace: "default".to_owned(),
        service: "notes".to_owned(),
    }
}

fn scope(cluster: &str) -> Scope {
    Scope {
        cluster: cluster.to_owned(),
        workload: format!("notes-{cluster}"),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn bundle(root: &Pair) -> Bundle {
    Bundle::parse(&root.cert).expect("a root")
}

/// A root, and the issuer of a cluster below it, as they come about.
fn authority(cluster: &str, now: SystemTime) -> (Pair, Pair, Issuer) {
    let root = root(&names(), now).expect("made");
    let request = request(&names(), &scope(cluster), None).expect("made");
    let chain = sign_request(&root, &names(), &scope(cluster), &request.cert, now).expect("signed");
    let issuer = Issuer::load(
        &chain,
        &request.key,
        &bundle(&root),
        &names(),
        &scope(cluster),
        now,
    )
    .expect("good");
    let kept = Pair {
        cert: chain,
        key: request.key,
    };
    (root, kept, issuer)
}

/// As members verify both sides of a connection.
fn accepted(pem: &str, roots: &Bundle, now: SystemTime) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots.ders() {
        store.add(root.clone()).expect("a root");
    }
    let store = Arc::new(store);
    let chain = all("chain", pem).expect("PEM");
    let since = now.duration_since(SystemTime::UNIX_EPOCH).expect("later");
    let at = UnixTime::since_unix_epoch(since);
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(&chain[0])?,
        &store,
        &chain[1..],
        at,
        provider.signature_verification_algorithms.all,
    )?;
    WebPkiClientVerifier::builder_with_provider(store, provider)
        .build()
        .expect("roots")
        .verify_client_cert(&chain[0], &chain[1..], at)?;
    Ok(())
}

#[test]
fn a_leaf_of_a_cluster_is_accepted_both_ways_by_whoever_trusts_the_root() {
    let (root, _, issuer) = authority("us-east", now());
    for uri in [names().member("notes-us-east-0"), names().operator()] {
        let leaf = leaf(&issuer, &uri, now()).expect("issued");
        accepted(&leaf.cert, &bundle(&root), now()).expect("accepted");
        let der = first("leaf", &leaf.cert).expect("PEM");
        assert!(names_only(&parse("leaf", &der).expect("readable"), &uri));
        assert!(is_good(&leaf, &issuer, &uri, now()));
    }
    let (other, _, _) = authority("us-east", now());
    let leaf = leaf(&issuer, &names().operator(), now()).expect("issued");
    accepted(&leaf.cert, &bundle(&other), now()).expect_err("another root");
}

#[test]
fn names_are_those_that_members_expect() {
    assert_eq!(
        names().member("notes-us-east-0"),
        "spiffe://synod.local/ns/default/rsvc/notes/member/notes-us-east-0"
    );
    assert_eq!(
        names().operator(),
        "spiffe://synod.local/ns/default/rsvc/notes/operator"
    );
}

#[test]
fn a_cluster_cannot_issue_for_addresses_or_make_further_authorities() {
    let (root, kept, issuer) = authority("us-east", now());
    let key = rcgen::KeyPair::generate().expect("key");
    let mut web = params(now(), LEAF_LIFE).expect("params");
    web.subject_alt_names = vec![rcgen::SanType::DnsName("x.example".try_into().expect("ok"))];
    web.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let pem = web.signed_by(&key, &issuer.signer).expect("made").pem();
    let error = accepted(&format!("{pem}{}", kept.cert), &bundle(&root), now());
    error.expect_err("no addresses");

    let below = request(&names(), &scope("us-east"), None).expect("made");
    let chain = sign_request(&kept, &names(), &scope("us-east"), &below.cert, now()).expect("made");
    let below = Issuer {
        signer: rcgen::Issuer::from_ca_cert_pem(
            &chain,
            rcgen::KeyPair::from_pem(&below.key).expect("key"),
        )
        .expect("made"),
        chain: format!("{chain}{}", kept.cert),
    };
    let leaf = leaf(&below, &names().operator(), now()).expect("issued");
    accepted(&leaf.cert, &bundle(&root), now()).expect_err("too long a chain");
}

#[test]
fn an_intermediate_carries_its_cluster_whatever_the_request_asked_for() {
    let root = root(&names(), now()).expect("made");
    let asked = request(&names(), &scope("eu-west"), None).expect("made");
    let chain =
        sign_request(&root, &names(), &scope("us-east"), &asked.cert, now()).expect("signed");
    let load = |cluster| {
        Issuer::load(
            &chain,
            &asked.key,
            &bundle(&root),
            &names(),
            &scope(cluster),
            now(),
        )
    };
    load("us-east").expect("signed for it");
    assert!(load("eu-west").is_err(), "asked for is not granted");
}

#[test]
fn a_chain_for_another_key_root_service_or_time_is_refused() {
    let (root, kept, _) = authority("us-east", now());
    let (other_root, other_kept, _) = authority("us-east", now());
    let mut other_names = names();
    other_names.service = "ledger".to_owned();
    let cases = [
        ("key", &other_kept.key, &root, names(), now()),
        ("root", &kept.key, &other_root, names(), now()),
        ("service", &kept.key, &root, other_names, now()),
        ("late", &kept.key, &root, names(), now() + ISSUER_LIFE),
        ("early", &kept.key, &root, names(), now() - DAY),
    ];
    for (what, key, root, names, at) in cases {
        let scope = scope("us-east");
        let loaded = Issuer::load(&kept.cert, key, &bundle(root), &names, &scope, at);
        assert!(loaded.is_err(), "{what}");
    }
    for broken in ["", "x", &kept.key] {
        let roots = bundle(&root);
        let loaded = Issuer::load(broken, &kept.key, &roots, &names(), &scope("x"), now());
        assert!(loaded.is_err(), "{broken:?}");
    }
}

#[test]
fn renewal_is_due_after_two_thirds_of_each_life() {
    let (root, _, issuer) = authority("us-east", now());
    let uri = names().operator();
    let leaf = leaf(&issuer, &uri, now()).expect("issued");
    for (days, good) in [(0, true), (19, true), (21, false), (31, false)] {
        assert_eq!(is_good(&leaf, &issuer, &uri, now() + DAY * days), good);
    }
    for (days, due) in [(242, false), (244, true)] {
        assert_eq!(issuer.is_due(now() + DAY * days).expect("readable"), due);
    }
    for (days, due) in [(2_400, false), (2_434, true)] {
        assert_eq!(
            root_due(&root.cert, now() + DAY * days).expect("readable"),
            due
        );
    }
}

#[test]
fn members_live_on_for_nine_days_without_any_operator() {
    let (root, _, issuer) = authority("us-east", now());
    let uri = names().operator();
    let leaf = leaf(&issuer, &uri, now()).expect("issued");
    // The last moment at which the leaf is kept as it is, and then everybody is gone.
    let last = now() + DAY * 19;
    assert!(is_good(&leaf, &issuer, &uri, last));
    accepted(&leaf.cert, &bundle(&root), last + DAY * 9).expect("still good");
    accepted(&leaf.cert, &bundle(&root), now() + DAY * 31).expect_err("ended");
}

#[test]
fn nothing_outlives_what_signed_it() {
    let late = now() + DAY * 3_600;
    let root = root(&names(), now()).expect("made");
    let asked = request(&names(), &scope("a"), None).expect("made");
    let chain = sign_request(&root, &names(), &scope("a"), &asked.cert, late).expect("signed");
    let end = validity(&root.cert).expect("readable").until;
    assert_eq!(validity(&chain).expect("readable").until, end);
    let later = now() + DAY * 3_640;
    let issuer = Issuer::load(
        &chain,
        &asked.key,
        &bundle(&root),
        &names(),
        &scope("a"),
        later,
    )
    .expect("good");
    let leaf = leaf(&issuer, &names().operator(), later).expect("issued");
    assert_eq!(validity(&leaf.cert).expect("readable").until, end);
}

#[test]
fn a_leaf_is_replaced_when_its_name_key_or_issuer_is_another() {
    let (root, kept, issuer) = authority("us-east", now());
    let uri = names().member("notes-us-east-0");
    let good = leaf(&issuer, &uri, now()).expect("issued");
    let other = leaf(&issuer, &names().operator(), now()).expect("issued");
    assert!(!is_good(&other, &issuer, &uri, now()));
    let mixed = Pair {
        key: other.key,
        ..good.clone()
    };
    assert!(!is_good(&mixed, &issuer, &uri, now()));
    let again = request(&names(), &scope("us-east"), Some(&kept.key)).expect("made");
    assert_eq!(again.key, kept.key);
    assert!(request_fits(&again.cert, &kept.key));
    let chain = sign_request(&root, &names(), &scope("us-east"), &again.cert, now()).expect("ok");
    assert_ne!(chain, kept.cert, "each certificate has a serial of its own");
    let roots = bundle(&root);
    let issuer = Issuer::load(
        &chain,
        &kept.key,
        &roots,
        &names(),
        &scope("us-east"),
        now(),
    )
    .expect("good");
    assert!(!is_good(&good, &issuer, &uri, now()));
}

#[test]
fn a_root_takes_over_from_another_without_a_moment_in_which_members_disagree() {
    let (old, kept, issuer) = authority("us-east", now());
    let mut hub = bundle(&old);
    let mut cluster = hub.clone();
    let mut chain = kept.cert.clone();
    let uri = names().member("notes-us-east-0");
    let mut used = leaf(&issuer, &uri, now()).expect("issued");
    let mut newest = old.clone();
    let mut seen = Vec::new();
    loop {
        let due = newest == old;
        let step = root_step(&hub, due, &[cluster.clone()], &[chain.clone()]);
        seen.push(step);
        match step {
            RootStep::Add => {
                newest = root(&names(), now()).expect("made");
                hub.add(&newest.cert).expect("a root");
                assert_eq!(
                    root_step(&hub, false, &[cluster.clone()], &[chain.clone()]),
                    RootStep::Keep,
                    "nothing is issued before all trust the new root"
                );
            }
            RootStep::Reissue => {
                let asked = request(&names(), &scope("us-east"), Some(&kept.key)).expect("made");
                chain = sign_request(&newest, &names(), &scope("us-east"), &asked.cert, now())
                    .expect("signed");
                let issuer =
                    Issuer::load(&chain, &kept.key, &hub, &names(), &scope("us-east"), now())
                        .expect("good");
                // Members that still have the old leaf and those with the new one talk.
                accepted(&used.cert, &cluster, now()).expect("old");
                used = leaf(&issuer, &uri, now()).expect("issued");
                accepted(&used.cert, &cluster, now()).expect("new");
            }
            RootStep::Remove => hub.keep_newest(),
            RootStep::Keep => break,
        }
        cluster = Bundle::parse(&hub.pem()).expect("what the hub sent");
        assert_eq!(cluster, hub);
    }
    let expected = [
        RootStep::Add,
        RootStep::Reissue,
        RootStep::Remove,
        RootStep::Keep,
    ];
    assert_eq!(seen, expected);
    accepted(&used.cert, &bundle(&newest), now()).expect("the new root alone");
    accepted(&used.cert, &bundle(&old), now()).expect_err("not by the old one");
}

#[test]
fn a_bundle_says_the_same_in_pem_as_it_was_given() {
    let (one, two) = (
        root(&names(), now()).expect("made"),
        root(&names(), now()).expect("made"),
    );
    let mut both = bundle(&one);
    both.add(&two.cert).expect("a root");
    both.add(&two.cert).expect("there already");
    let lines = |text: &str| text.replace('\r', "");
    assert_eq!(both.pem(), lines(&format!("{}{}", one.cert, two.cert)));
    assert!(Bundle::parse("").expect("none").is_empty());
    assert!(Bundle::parse("x").is_err());
}
