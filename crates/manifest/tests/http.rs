//! The server and the client against each other, over loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use libp2p_identity::Keypair;
use manifest::{
    AnswerAge, ClientError, ManifestClient, ManifestRegistry, PollRequest, PollResponse, Timeouts,
    check, verify,
};
use types::{Retry, SequenceNumber};

#[tokio::test]
async fn what_is_published_is_found_and_verifies() {
    let source = Source::start().await;
    let client = ManifestClient::new(Some(libp2p_identity::PeerId::random())).unwrap();
    let PollResponse::Changed { discovery, etag, .. } =
        client.poll(&source.url(), &PollRequest::default()).await.unwrap()
    else {
        panic!("there is an answer before the first manifest");
    };
    assert_eq!(discovery.manifests, []);
    source.registry.publish(published("docs", 1)).unwrap();
    source.registry.publish(published("music", 7)).unwrap();
    let request = PollRequest { since: etag, wait: Duration::ZERO };
    let PollResponse::Changed { discovery, etag, .. } =
        client.poll(&source.url(), &request).await.unwrap()
    else {
        panic!("it has changed");
    };
    assert_eq!(discovery.peer, source.registry.peer_id());
    assert_eq!(discovery.addresses.len(), 2);
    assert_eq!(discovery.manifests.len(), 2);
    let offer = &discovery.manifests[0];
    assert_eq!(offer.published, published("docs", 1));
    assert!(verify(
        &discovery.peer,
        &offer.published.folder_id,
        offer.published.sequence_number,
        &offer.published.manifest_cid,
        &offer.signature
    ));
    assert!(check(&discovery, &source.registry.peer_id(), &Default::default()).is_ok());
    let request = PollRequest { since: etag, wait: Duration::ZERO };
    assert!(matches!(
        client.poll(&source.url(), &request).await.unwrap(),
        PollResponse::Unchanged { .. }
    ));
    let client = &source.clients.list()[0];
    assert!(client.is_allowed && client.peer.is_some() && client.answered == 3);
}

#[tokio::test]
async fn each_answer_is_proved_to_be_that_to_its_request() {
    let source = Source::start().await;
    source.registry.publish(published("docs", 3)).unwrap();
    source.confirmed.send_replace([("docs".parse().unwrap(), SequenceNumber(2))].into());
    let client = ManifestClient::new(None).unwrap();
    let peer = source.registry.peer_id();
    let PollResponse::Changed { discovery, etag, proof } =
        client.poll(&source.url(), &PollRequest::default()).await.unwrap()
    else {
        panic!("there is an answer");
    };
    assert_eq!(discovery.manifests[0].confirmed, Some(SequenceNumber(2)));
    assert_eq!(proof.unwrap().verify(&peer), AnswerAge::Now);
    // A receipt changes no tag: a backup server is not woken by its own receipt.
    source.confirmed.send_replace(BTreeMap::new());
    let request = PollRequest { since: etag.clone(), wait: Duration::ZERO };
    let PollResponse::Unchanged { proof } = client.poll(&source.url(), &request).await.unwrap()
    else {
        panic!("nothing has changed");
    };
    let proof = proof.unwrap();
    assert_eq!(proof.verify(&peer), AnswerAge::Now);
    assert_eq!(proof.verify(&libp2p_identity::PeerId::random()), AnswerAge::Unknown);

    // An answer that is repeated, and one that was changed on the way.
    let there = std::net::IpAddr::from([127, 0, 0, 1]);
    let document = body_from(source.router(), there, "/manifests?nonce=older").await;
    let changed = document.replace("/home/me/docs", "/home/me/docx");
    assert_ne!(document, changed);
    let bare = document.rsplit_once(",\"signature\":\"").unwrap().0.to_owned() + "}";
    for (document, is_signed) in [(document, true), (changed, false), (bare, false)] {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        let tag = etag.clone().unwrap();
        let url = impostor(format!("{head}\r\nETag: {tag}\r\n\r\n{document}")).await;
        let PollResponse::Changed { proof, .. } =
            client.poll(&url, &PollRequest::default()).await.unwrap()
        else {
            panic!("the request had no tag");
        };
        let age = proof.map_or(AnswerAge::Unknown, |proof| proof.verify(&peer));
        assert_eq!(matches!(age, AnswerAge::At(_)), is_signed, "{age:?}");
        assert_ne!(age, AnswerAge::Now);
    }
}

#[tokio::test]
async fn the_documents_are_those_of_the_contract() {
    let source = Source::start().await;
    source.registry.publish(published("docs", 42)).unwrap();
    let answer =
        raw(source.address, "GET /manifests HTTP/1.1\r\nHost: a\r\nConnection: close").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body_of(&answer)).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&body), ["addresses", "manifests", "peerId", "signature", "timestamp"]);
    assert_eq!(
        keys(&body["manifests"][0]),
        [
            "confirmedSequence",
            "fileCount",
            "folderId",
            "folderName",
            "folderPath",
            "manifestCid",
            "sequenceNumber",
            "signature",
            "totalSizeBytes",
            "updatedAt"
        ]
    );
    assert_eq!(body["manifests"][0]["updatedAt"], "2026-11-22T10:30:00Z");
    assert_eq!(body["manifests"][0]["sequenceNumber"], 42);
    for (request, status, part) in [
        ("GET /health", "200", r#"{"status":"ok"}"#),
        ("GET /", "404", r#""error":"Not Found""#),
        ("GET /manifests/", "404", "message"),
        ("GET /../../etc/passwd", "404", "message"),
        ("POST /manifests", "405", "message"),
        ("GET /manifests?wait=soon", "400", "message"),
        ("GET /manifests?wait=-1", "400", "message"),
    ] {
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close");
        let answer = raw(source.address, &head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains("application/json"), "{request}: {answer}");
        assert!(body_of(&answer).contains(part), "{request}: {answer}");
    }
    let page = "GET /manifests HTTP/1.1\r\nHost: a\r\nOrigin: http://evil\r\nConnection: close";
    assert!(raw(source.address, page).await.starts_with("HTTP/1.1 403"));
    // A request for an image has no Origin. A person may open the address.
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("none", 200)] {
        let head = format!("GET /manifests HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: {site}");
        let answer = raw(source.address, &format!("{head}\r\nConnection: close")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{site}: {answer}");
    }
}

#[tokio::test]
async fn etags_are_of_the_content_alone() {
    let keypair = Keypair::generate_secp256k1();
    let source = Source::with(keypair.clone()).await;
    let restarted = Source::with(keypair).await;
    let etag = |answer: String| {
        let line = answer.lines().find(|line| line.starts_with("etag")).unwrap().to_owned();
        line.split_once(": ").unwrap().1.to_owned()
    };
    let get = "GET /manifests HTTP/1.1\r\nHost: a\r\nConnection: close";
    let before = etag(raw(source.address, get).await);
    assert_eq!(before, etag(raw(restarted.address, get).await));
    source.registry.publish(published("docs", 1)).unwrap();
    let after = etag(raw(source.address, get).await);
    assert_ne!(before, after);
    for (header, status) in [
        (after.clone(), "304"),
        (format!("W/{after}"), "304"),
        (format!("\"x\", {after}"), "304"),
        ("*".to_owned(), "304"),
        (before, "200"),
        (after.trim_matches('"')[1..].to_owned(), "200"),
    ] {
        let answer = raw(source.address, &format!("{get}\r\nIf-None-Match: {header}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{header}: {answer}");
    }
    let since = after.trim_matches('"');
    let head = format!("GET /manifests?since={since} HTTP/1.1\r\nHost: a\r\nConnection: close");
    assert!(raw(source.address, &head).await.starts_with("HTTP/1.1 304"));
}

#[tokio::test]
async fn a_long_poll_ends_with_the_change_and_with_the_source() {
    let source = Arc::new(Source::start().await);
    let client = ManifestClient::new(None).unwrap();
    let PollResponse::Changed { etag, .. } =
        client.poll(&source.url(), &PollRequest::default()).await.unwrap()
    else {
        panic!("a first answer");
    };
    let request = PollRequest { since: etag, wait: Duration::from_secs(50) };
    let (started, url) = (Instant::now(), source.url());
    let (waiting, ()) = tokio::join!(client.poll(&url, &request), async {
        until(|| source.clients.list()[0].answered == 2).await;
        source.registry.publish(published("docs", 1)).unwrap();
    });
    let PollResponse::Changed { discovery, etag, .. } = waiting.unwrap() else {
        panic!("it has changed")
    };
    assert_eq!(discovery.manifests.len(), 1);
    let request = PollRequest { since: etag.clone(), wait: Duration::from_secs(1) };
    assert!(matches!(
        client.poll(&source.url(), &request).await.unwrap(),
        PollResponse::Unchanged { .. }
    ));
    let request = PollRequest { since: etag, wait: Duration::from_secs(50) };
    let (waiting, ()) = tokio::join!(client.poll(&url, &request), async {
        until(|| source.clients.list()[0].answered == 4).await;
        source.stop.cancel();
    });
    assert!(matches!(waiting.unwrap(), PollResponse::Unchanged { .. }));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn only_so_many_wait_and_the_next_is_answered_at_once() {
    let source = Arc::new(Source::start().await);
    let client = ManifestClient::new(None).unwrap();
    let PollResponse::Changed { etag, .. } =
        client.poll(&source.url(), &PollRequest::default()).await.unwrap()
    else {
        panic!("a first answer");
    };
    let request = PollRequest { since: etag, wait: Duration::from_secs(50) };
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (client, source, request) = (client.clone(), source.clone(), request.clone());
            tokio::spawn(async move { client.poll(&source.url(), &request).await })
        })
        .collect();
    until(|| source.clients.list()[0].answered == 5).await;
    let answer =
        tokio::time::timeout(PATIENCE, client.poll(&source.url(), &request)).await.unwrap();
    assert!(matches!(answer.unwrap(), PollResponse::Unchanged { .. }));
    source.registry.publish(published("docs", 1)).unwrap();
    for task in waiting {
        assert!(matches!(task.await.unwrap().unwrap(), PollResponse::Changed { .. }));
    }
}

#[tokio::test]
async fn the_whitelist_is_of_addresses_and_networks_and_can_change() {
    let source = Source::start().await;
    let answer = |from: &str| {
        let from: IpAddr = from.parse().unwrap();
        let router = source.router();
        async move { status_from(router, from, "/manifests").await }
    };
    for loopback in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(answer(loopback).await, 200, "{loopback}");
    }
    for other in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "::"] {
        assert_eq!(answer(other).await, 403, "{other}");
    }
    let list = ["192.0.2.0/29", "2001:db8::/64", "198.51.100.4"];
    source.whitelist.send_replace(list.iter().map(|net| net.parse().unwrap()).collect());
    for (address, status) in [
        ("192.0.2.0", 200),
        ("192.0.2.7", 200),
        ("192.0.2.8", 403),
        ("::ffff:192.0.2.7", 200),
        ("2001:db8::ffff", 200),
        ("2001:db8:0:1::", 403),
        ("198.51.100.4", 200),
        ("198.51.100.5", 403),
    ] {
        assert_eq!(answer(address).await, status, "{address}");
    }
    assert_eq!(status_from(source.router(), "203.0.113.1".parse().unwrap(), "/health").await, 200);
    let refused: Vec<_> =
        source.clients.list().into_iter().filter(|client| client.refused > 0).collect();
    assert!(refused.iter().any(|client| client.address == IpAddr::from([192, 0, 2, 8])));
}

#[tokio::test]
async fn a_refusal_says_what_to_add() {
    let source = Source::start().await;
    let body = body_from(source.router(), "192.0.2.9".parse().unwrap(), "/manifests").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error"], "Forbidden");
    assert!(body["message"].as_str().unwrap().contains("192.0.2.9"), "{body}");
}

#[tokio::test]
async fn a_long_poll_ends_where_the_address_is_taken_off_the_list() {
    let source = Source::start().await;
    let from: IpAddr = "192.0.2.7".parse().unwrap();
    source.whitelist.send_replace(vec![from.into()]);
    let router = source.router();
    let waiting = tokio::spawn(status_from(router, from, "/manifests?wait=50&since=*"));
    until(|| source.clients.list().iter().any(|client| client.address == from)).await;
    source.whitelist.send_replace(Vec::new());
    assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap(), 403);
}

#[tokio::test]
async fn what_is_no_manifest_server_is_named_for_what_it_is() {
    type Check = fn(&ClientError) -> bool;
    let html = "<html>Please log in</html>";
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        1_u64 << 40
    );
    let endless =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}", "[".repeat(5 << 20));
    let answer = |kind: &str, body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let cases: Vec<(String, Check, Retry)> = vec![
        (
            answer("text/html; charset=utf-8", html),
            |e| matches!(e, ClientError::ContentType { found, .. } if found.contains("html")),
            Retry::Permanent,
        ),
        (
            answer("application/json", html),
            |e| matches!(e, ClientError::NotJson { begins, .. } if begins.contains("log in")),
            Retry::Permanent,
        ),
        (
            answer("application/json", "{\"hello\":1}"),
            |e| matches!(e, ClientError::Schema { .. }),
            Retry::Permanent,
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n".into(),
            |e| matches!(e, ClientError::Redirect { target, .. } if target.contains("login.example")),
            Retry::Permanent,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x08\x08".into(),
            |e| matches!(e, ClientError::Encoded { encoding, .. } if encoding == "gzip"),
            Retry::Permanent,
        ),
        (long, |e| matches!(e, ClientError::TooLong { .. }), Retry::Permanent),
        (endless, |e| matches!(e, ClientError::TooLong { .. }), Retry::Permanent),
        (
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into(),
            |e| matches!(e, ClientError::Status { status: 503, .. }),
            Retry::Temporary,
        ),
        (
            "HTTP/1.1 304 Not Modified\r\n\r\n".into(),
            |e| matches!(e, ClientError::Redirect { .. } | ClientError::Status { .. }),
            Retry::Permanent,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{".into(),
            |e| matches!(e, ClientError::Broken { .. }), Retry::Temporary),
        ("SSH-2.0-OpenSSH_9.9\r\n".into(), |e| matches!(e, ClientError::Broken { .. }), Retry::Temporary),
        (String::new(), |e| matches!(e, ClientError::Broken { .. }), Retry::Temporary),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 31\r\n\r\n{\"message\":\"not\\u001b you\"}     ".into(),
            |e| matches!(e, ClientError::Forbidden { message, .. } if message == "not you"),
            Retry::Permanent,
        ),
    ];
    let client = ManifestClient::new(None).unwrap();
    for (answer, is_right, retry) in cases {
        let url = impostor(answer.clone()).await;
        let request = PollRequest::default();
        let asking = tokio::time::timeout(PATIENCE, client.poll(&url, &request));
        let error = asking.await.unwrap().unwrap_err();
        assert!(is_right(&error), "{error:?} for {answer:.80}");
        assert_eq!(error.retry(), retry, "{error}");
        assert!(error.to_string().contains(&url.to_string()), "{error}");
    }
    let nobody = nobody().await;
    let error = client.poll(&nobody, &PollRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::Temporary);
}

#[tokio::test]
async fn a_server_that_trickles_is_given_up() {
    let url = trickling().await;
    let total = Duration::from_millis(700);
    let timeouts = Timeouts { total, ..Timeouts::default() };
    let client = ManifestClient::with_timeouts(None, timeouts).unwrap();
    let error = client.poll(&url, &PollRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { after, .. } if after == total), "{error:?}");
    assert_eq!(error.retry(), Retry::Temporary);
}

#[tokio::test]
async fn registries_share_what_they_hold() {
    let registry = ManifestRegistry::new(Keypair::generate_ed25519());
    let clone = registry.clone();
    clone.publish(published("docs", 3)).unwrap();
    assert_eq!(registry.offers().folders.len(), 1);
}
