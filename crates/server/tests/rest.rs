//! The node API over HTTP.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Instance, noise};
use futures::StreamExt as _;
use serde_json::json;
use store::{BlockRead as _, BlockWrite as _, StoreAdmin as _};
use types::{Cid, Dataset, FileNode};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_comes_back_with_its_name_and_type() {
    let node = Instance::start().await;
    for (len, name) in
        [(0, "empty"), (1, "a b.txt"), (70_000, "Grüße \"x\".md"), (5_000_000, "日本")]
    {
        let content = noise(len as u64, len);
        let answer = node
            .http
            .post(node.url("/data"))
            .header("content-type", "text/plain; charset=utf-8")
            .header(
                "content-disposition",
                format!("attachment; filename=\"{}\"", name.replace('"', "\\\"")).as_bytes(),
            )
            .body(content.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let cid = answer.text().await.unwrap();
        assert!(cid.starts_with("bafyr4i"), "{cid}");
        let answer = node.get(&format!("/data/{cid}")).await;
        assert_eq!(answer.status(), 200);
        let headers = answer.headers().clone();
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(headers["content-length"], len.to_string());
        assert_eq!(headers["etag"], format!("\"{cid}\""));
        assert_eq!(headers["accept-ranges"], "bytes");
        assert!(headers["content-disposition"].to_str().unwrap().starts_with("attachment; "));
        assert!(answer.bytes().await.unwrap() == content);
        let list = node.json("/data").await;
        let item = list["content"].as_array().unwrap().iter().find(|i| i["cid"] == cid).unwrap();
        assert_eq!(item["manifest"]["datasetSize"], len);
        assert_eq!(item["manifest"]["filename"], name);
        assert_eq!(item["manifest"]["mimetype"], "text/plain; charset=utf-8");
        assert_eq!(item["manifest"]["protected"], false);
        assert!(item["manifest"]["treeCid"].is_string() && item["manifest"]["blockSize"].is_u64());
        // The tree has no name of its own.
        let tree = item["manifest"]["treeCid"].as_str().unwrap();
        let answer = node.get(&format!("/data/{tree}")).await;
        assert_eq!(answer.headers()["content-type"], "application/octet-stream");
        assert_eq!(answer.headers()["content-disposition"], "attachment");
        assert!(answer.bytes().await.unwrap() == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_uploads_are_one_and_deleting_leaves_what_others_need() {
    let node = Instance::start().await;
    let content = noise(1, 1_000_000);
    let first = node.upload(content.clone()).await;
    assert_eq!(node.upload(content.clone()).await, first);
    let named = node
        .http
        .post(node.url("/data"))
        .header("content-disposition", "attachment; filename=x")
        .body(content.clone())
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_ne!(named, first);
    let used = node.json("/space").await["quotaUsedBytes"].as_u64().unwrap();
    assert!(used < 1_100_000, "the bytes are stored once: {used}");
    for _ in 0..2 {
        let answer = node.http.delete(node.url(&format!("/data/{first}"))).send().await.unwrap();
        assert_eq!(answer.status(), 204);
        // Not when the next collection has ended.
        assert_eq!(node.get(&format!("/data/{first}")).await.status(), 404);
    }
    assert_eq!(node.json("/data").await["content"].as_array().unwrap().len(), 1);
    let answer = node.get(&format!("/data/{named}")).await;
    assert!(answer.bytes().await.unwrap() == content);
    node.http.delete(node.url(&format!("/data/{named}"))).send().await.unwrap();
    assert_eq!(node.get(&format!("/data/{named}")).await.status(), 404);
    // The collection runs in the background.
    eventually("the space is free", async || {
        node.json("/space").await["quotaUsedBytes"].as_u64().unwrap() < 10_000
    })
    .await;
    assert_eq!(node.get(&format!("/data/{named}")).await.status(), 404);
}

/// Waits until a condition is true, for a limited number of checks.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("timeout while waiting until {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_tags_and_heads() {
    let node = Instance::start().await;
    let content = noise(2, 3_000_000);
    let cid = node.upload(content.clone()).await;
    let url = node.url(&format!("/data/{cid}"));
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1234567-2345678", 1_234_567, 2_345_679),
        ("bytes=-10", 2_999_990, 3_000_000),
        ("bytes=2999999-", 2_999_999, 3_000_000),
    ] {
        let answer = node.http.get(&url).header("range", range).send().await.unwrap();
        assert_eq!(answer.status(), 206);
        let expected = format!("bytes {start}-{}/3000000", end - 1);
        assert_eq!(answer.headers()["content-range"], expected);
        assert!(answer.bytes().await.unwrap() == content[start..end]);
    }
    let answer = node.http.get(&url).header("range", "bytes=3000000-").send().await.unwrap();
    assert_eq!(answer.status(), 416);
    let etag = format!("\"{cid}\"");
    let answer = node.http.get(&url).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!((answer.status(), answer.content_length()), (304.try_into().unwrap(), Some(0)));
    let answer = node
        .http
        .get(&url)
        .header("range", "bytes=0-1")
        .header("if-range", "\"another\"")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let answer = node.http.head(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "3000000");
    assert!(answer.bytes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_a_reason() {
    let node = Instance::start().await;
    let post = |name: &'static str, value: &'static str| {
        node.http.post(node.url("/data")).header(name, value).body("x").send()
    };
    for (name, value, reason) in [
        ("content-disposition", "attachment; filename=\"../x\"", "the filename is not valid"),
        ("content-disposition", "attachment; filename=\"\"", "the filename is not valid"),
        (
            "content-disposition",
            "attachment; filename=\"open",
            "Content-Disposition header is malformed",
        ),
        ("content-type", "nonsense", "valid"),
        ("content-type", "*/*", "valid"),
    ] {
        let answer = post(name, value).await.unwrap();
        assert_eq!(answer.status(), 422, "{value}");
        let told = answer.text().await.unwrap();
        assert!(told.contains(reason), "{value}: {told}");
    }
    assert!(node.json("/data").await["content"].as_array().unwrap().is_empty());
    for path in ["/data/nonsense", "/data/QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"] {
        assert_eq!(node.get(path).await.status(), 400, "{path}");
        assert_eq!(node.get(&format!("{path}/network/stream")).await.status(), 400);
    }
    let absent = "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq";
    assert_eq!(node.get(&format!("/data/{absent}")).await.status(), 404);
    assert_eq!(node.get("/nowhere").await.status(), 404);
    let delete = node.http.delete(node.url(&format!("/data/{absent}"))).send().await.unwrap();
    assert_eq!(delete.status(), 204);
    for path in [
        "/connect/nonsense?addrs=/ip4/127.0.0.1/tcp/1",
        "/connect/16Uiu2HAmPRvJ9HCzRPiNZa9tXjPqV2Vp6fmkxL4pQnVPhMEvAqnW?addrs=nonsense",
    ] {
        assert_eq!(node.get(path).await.status(), 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_get_nothing() {
    let node = Instance::start().await;
    let url = node.url("/data");
    for (name, value) in [
        ("host", "evil.example"),
        ("host", "evil.example:8080"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let answer = node.http.get(&url).header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{name}: {value}");
        let answer = node.http.post(&url).header(name, value).body("x").send().await.unwrap();
        assert_eq!(answer.status(), 403, "{name}: {value}");
    }
    // A request of an <img> or a <script> of another site has no Origin.
    let absent = "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq";
    for path in [
        "/api/archivist/v1/data".to_owned(),
        format!("/api/archivist/v1/data/{absent}/network/stream"),
        format!("/api/archivist/v1/connect/{}", node.services().net.peer_id()),
        "/api/v1/status".into(),
        "/metrics".into(),
        "/ui/".into(),
    ] {
        let url = format!("http://{}{path}", node.server.api_addr());
        for site in ["cross-site", "same-site"] {
            let asked = node.http.get(&url).header("sec-fetch-site", site);
            let asked = asked.header("sec-fetch-mode", "no-cors").header("sec-fetch-dest", "image");
            assert_eq!(asked.send().await.unwrap().status(), 403, "{site}: {path}");
        }
    }
    let own = format!("http://{}", node.server.api_addr());
    let answer = node.http.get(&url).header("origin", own).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    assert_eq!(answer.headers()["cross-origin-resource-policy"], "same-origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_token_required_only_its_bearer_is_served() {
    let node = Instance::start_with(|config| config.node.api_require_token = true).await;
    assert_eq!(node.get("/data").await.status(), 401);
    let token = std::fs::read_to_string(node.dir.path().join("data/api-token")).unwrap();
    let answer = node.http.get(node.url("/data")).bearer_auth(token.trim()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_quota_would_be_passed_nothing_stays() {
    let node = Instance::start_with(|config| {
        config.node.max_storage = config::ByteSize::from_bytes(3_000_000);
    })
    .await;
    let kept = noise(1, 1_000_000);
    let cid = node.upload(kept.clone()).await;
    let used = node.json("/space").await["quotaUsedBytes"].clone();
    // A body with a length is refused before it is read.
    let answer = node.http.post(node.url("/data")).body(noise(2, 4_000_000)).send().await.unwrap();
    assert_eq!(answer.status(), 507);
    assert!(answer.text().await.unwrap().contains("max_storage"));
    // A body without a length is refused while it is read.
    let pieces = futures::stream::iter((0..40).map(|n| Ok::<_, std::io::Error>(noise(n, 100_000))));
    let body = reqwest::Body::wrap_stream(pieces);
    let answer = node.http.post(node.url("/data")).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 507);
    let space = node.json("/space").await;
    assert_eq!(space["quotaMaxBytes"], 3_000_000);
    let after = space["quotaUsedBytes"].as_u64().unwrap();
    assert!(after <= used.as_u64().unwrap() + 10_000, "{after} after {used}");
    assert_eq!(node.json("/data").await["content"].as_array().unwrap().len(), 1);
    assert!(node.get(&format!("/data/{cid}")).await.bytes().await.unwrap() == kept);
    // Another upload that fits is accepted.
    node.upload(noise(5, 1_000_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let node = Instance::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let upload = tokio::spawn(
        node.http.post(node.url("/data")).body(reqwest::Body::wrap_stream(body)).send(),
    );
    for seed in 0..30 {
        sender.send(Ok(noise(seed, 200_000))).await.unwrap();
    }
    eventually("some of it is stored", async || {
        node.json("/space").await["quotaUsedBytes"].as_u64().unwrap() > 1_000_000
    })
    .await;
    sender.send(Err(std::io::Error::other("the client dies"))).await.unwrap();
    assert!(upload.await.unwrap().is_err());
    eventually("nothing of it is left", async || {
        node.json("/space").await["quotaUsedBytes"].as_u64().unwrap() < 10_000
    })
    .await;
    assert!(node.json("/data").await["content"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_tells_about_itself() {
    let node = Instance::start().await;
    let id = node.services().net.peer_id().to_string();
    assert!(id.starts_with("16Uiu2HA"), "{id}");
    assert_eq!(node.json("/peerid").await, json!({ "id": id }));
    assert_eq!(node.json("/node/peerid").await, json!({ "id": id }));
    let text =
        |path: &'static str| node.http.get(node.url(path)).header("accept", "text/plain").send();
    assert_eq!(text("/peerid").await.unwrap().text().await.unwrap(), id);
    let spr = node.json("/spr").await["spr"].as_str().unwrap().to_owned();
    assert!(spr.starts_with("spr:"), "{spr}");
    assert!(text("/spr").await.unwrap().text().await.unwrap().starts_with("spr:"));
    let info = node.json("/debug/info").await;
    assert_eq!(info["id"], id);
    assert_eq!(info["archivist"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["addrs"][0].as_str().unwrap().starts_with("/ip4/127.0.0.1/"));
    for key in ["repo", "spr", "announceAddresses", "table"] {
        assert!(!info[key].is_null(), "{key}");
    }
    let level = |query: &str| {
        node.http.post(node.url(&format!("/debug/chronicles/loglevel{query}"))).send()
    };
    for (query, status) in
        [("?level=DEBUG", 200), ("?level=notice", 200), ("?level=loud", 400), ("", 400)]
    {
        assert_eq!(level(query).await.unwrap().status(), status, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_range_that_cannot_be_had_nothing_is_begun() {
    let (from, to) = (Instance::start().await, Instance::start().await);
    let content = noise(12, 9_000_000);
    let cid = from.upload(content.clone()).await;
    // All nodes and the first chunk are stored, and no peer has the rest.
    let mut chunks = 0;
    let mut wanted: Vec<Cid> = vec![cid.parse().unwrap()];
    while let Some(cid) = wanted.pop() {
        let block = from.services().store.get_encoded(&cid).unwrap().unwrap();
        let bytes = block.decode().unwrap();
        if let Ok(dataset) = Dataset::decode(&bytes) {
            wanted.push(dataset.tree);
        } else if let Ok(node) = FileNode::decode(&bytes) {
            wanted.extend(node.children().iter().rev().map(|child| child.cid));
        } else {
            chunks += 1;
            if chunks > 1 {
                continue;
            }
        }
        to.services().store.put(&[block]).unwrap();
    }
    assert!(chunks > 1);
    let get = |range: &'static str| {
        let asked = to.http.get(to.url(&format!("/data/{cid}/network/stream?timeout=20")));
        asked.header("range", range).send()
    };
    let answer = get("bytes=0-9").await.unwrap();
    assert_eq!(answer.status(), 206);
    assert!(answer.bytes().await.unwrap() == content[..10]);
    assert_eq!(get("bytes=-10").await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_file_that_is_to_be_kept_is_taken_into_the_store() {
    let node = Instance::start().await;
    let folder = tempfile::tempdir().unwrap();
    let content = noise(11, 9_000_000);
    std::fs::write(folder.path().join("f"), &content).unwrap();
    let token = std::fs::read_to_string(node.dir.path().join("data/api-token")).unwrap();
    let own = |path: &str| format!("http://{}/api/v1{path}", node.server.api_addr());
    let add = node.http.post(own("/folders")).bearer_auth(token.trim());
    let added = add.json(&json!({ "path": folder.path() })).send().await.unwrap();
    assert_eq!(added.status(), 200);
    let look = async |path: String| -> serde_json::Value {
        let asked = node.http.get(own(&path)).bearer_auth(token.trim());
        asked.send().await.unwrap().json().await.unwrap()
    };
    eventually("it is published", async || {
        look("/folders".into()).await[0]["manifest_cid"].is_string()
    })
    .await;
    let folders = look("/folders".into()).await;
    let manifest = folders[0]["manifest_cid"].as_str().unwrap().to_owned();
    let manifest = look(format!("/manifests/{manifest}")).await;
    let files = manifest["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == "f").unwrap();
    let cid = file["cid"].as_str().unwrap().to_owned();

    let path = format!("/data/{cid}/network");
    assert_eq!(node.http.post(node.url(&path)).send().await.unwrap().status(), 200);
    eventually("it is complete", async || {
        let progress = node.json(&format!("{path}/progress")).await;
        assert_ne!(progress["state"], "failed", "{progress}");
        progress["state"] == "complete"
    })
    .await;
    // The stored content stays complete after the file has changed.
    std::fs::write(folder.path().join("f"), "short").unwrap();
    let answer = node.get(&format!("/data/{cid}")).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.unwrap() == content);
    node.services().store.gc(store::GcOptions::default()).unwrap();
    let answer = node.get(&format!("/data/{cid}")).await;
    assert!(answer.bytes().await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_level_stays_until_it_is_changed_itself() {
    use tracing_subscriber::reload;
    let (_layer, filter) = reload::Layer::new(node::filter("info").unwrap());
    let level = node::LogLevel::of(filter.clone());
    let node = Instance::start_logging(|_| {}, level).await;
    let shown = || filter.with_current(ToString::to_string).unwrap();
    let token = std::fs::read_to_string(node.dir.path().join("data/api-token")).unwrap();
    let set = async |key: &str, value: &str| {
        let url = format!("http://{}/api/v1/config", node.server.api_addr());
        let change = json!({ "key": key, "value": value });
        let answer = node.http.post(url).bearer_auth(token.trim()).json(&change).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    };
    let url = node.url("/debug/chronicles/loglevel?level=TRACE");
    assert_eq!(node.http.post(url).send().await.unwrap().status(), 200);
    assert!(shown().contains("node=trace"), "{}", shown());
    set("node.max_storage", "1GB").await;
    eventually("the limit is applied", async || {
        node.json("/space").await["quotaMaxBytes"] == 1_000_000_000
    })
    .await;
    // When the second change is applied, the first has been applied completely.
    set("node.max_storage", "2GB").await;
    eventually("the limit is applied", async || {
        node.json("/space").await["quotaMaxBytes"] == 2_000_000_000
    })
    .await;
    assert!(shown().contains("node=trace"), "{}", shown());
    set("node.log_level", "debug").await;
    eventually("the level is applied", async || shown().contains("node=debug")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_travels_between_nodes_that_allow_it() {
    let b = Instance::start().await;
    let a =
        Instance::start_with(|config| config.node.allowed_peers = vec![b.services().net.peer_id()])
            .await;
    b.connect(&a).await;
    for len in [0, 1, 100_000, 20_000_000] {
        let content = noise(100 + len as u64, len);
        let cid = a.upload(content.clone()).await;
        assert_eq!(b.get(&format!("/data/{cid}")).await.status(), 404);
        let path = format!("/data/{cid}/network");
        let item: serde_json::Value = {
            let answer = b.http.post(b.url(&path)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.json().await.unwrap()
        };
        assert_eq!((&item["cid"], &item["manifest"]["datasetSize"]), (&json!(cid), &json!(len)));
        eventually("it is fetched", async || {
            let progress = b.json(&format!("{path}/progress")).await;
            assert_ne!(progress["state"], "failed", "{progress}");
            progress["state"] == "complete"
        })
        .await;
        let answer = b.get(&format!("/data/{cid}")).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.unwrap() == content, "{len} bytes");
    }
    assert_eq!(b.json("/data").await["content"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_the_network_comes_as_it_is_fetched() {
    let b = Instance::start().await;
    let a =
        Instance::start_with(|config| config.node.allowed_peers = vec![b.services().net.peer_id()])
            .await;
    b.connect(&a).await;
    let content = noise(7, 30_000_000);
    let cid = a.upload(content.clone()).await;
    let item = b.json(&format!("/data/{cid}/network/manifest")).await;
    assert_eq!(item["manifest"]["datasetSize"], 30_000_000);
    for path in ["network/stream", "network"] {
        let answer = b.get(&format!("/data/{cid}/{path}")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-length"], "30000000");
        let mut read = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read == content);
    }
    let part = b
        .http
        .get(b.url(&format!("/data/{cid}/network/stream")))
        .header("range", "bytes=29999990-")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert!(part.bytes().await.unwrap() == content[29_999_990..]);
    assert_eq!(b.get(&format!("/data/{cid}")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_a_404_in_time() {
    let a = Instance::start().await;
    let b = Instance::start().await;
    let stranger = a.upload(noise(1, 100_000)).await;
    let absent = "bafyr4igpajhgqx345vspsympvju5oy7ulw62pbrhphv3zt4tkt4o4tb2l4";
    let started = Instant::now();
    // No peer is connected.
    assert_eq!(b.get(&format!("/data/{absent}/network/stream")).await.status(), 404);
    b.connect(&a).await;
    // The answers for a forbidden and for a missing CID are the same.
    for cid in [stranger.as_str(), absent] {
        for path in ["network/stream", "network", "network/manifest"] {
            let answer = b.get(&format!("/data/{cid}/{path}?timeout=20")).await;
            assert_eq!(answer.status(), 404, "{path}");
        }
        let post = b.http.post(b.url(&format!("/data/{cid}/network"))).send().await.unwrap();
        assert_eq!(post.status(), 404);
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert!(b.json("/data").await["content"].as_array().unwrap().is_empty());
    let bad = b.get(&format!("/data/{absent}/network/stream?timeout=0")).await;
    assert_eq!(bad.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_ends_in_time_whatever_goes_on() {
    let node = Instance::start().await;
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![7_u8; 1000])).then(
        |piece| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            piece
        },
    );
    let upload = tokio::spawn(
        node.http.post(node.url("/data")).body(reqwest::Body::wrap_stream(endless)).send(),
    );
    node.upload(noise(1, 10)).await;
    let started = Instant::now();
    let address = node.server.api_addr();
    node.server.shutdown().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    upload.abort();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
