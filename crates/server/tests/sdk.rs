//! The published SDK of the Archivist node (npm), unchanged, against the node API.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::Instance;

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_sdk_works() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
    assert!(
        dir.join("node_modules").is_dir(),
        "the SDK is not installed: run `cargo xtask test`, or `npm ci` in {}",
        dir.display()
    );
    let a = Instance::start().await;
    let b =
        Instance::start_with(|config| config.node.allowed_peers = vec![a.services().net.peer_id()])
            .await;
    let output = tokio::process::Command::new("node")
        .arg("sdk.mjs")
        .arg(format!("http://{}", a.server.api_addr()))
        .arg(format!("http://{}", b.server.api_addr()))
        .arg(b.services().net.peer_id().to_string())
        .args(b.services().net.listen_addrs().iter().map(ToString::to_string))
        .current_dir(&dir)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("`node` (Node.js 20 or later) is needed to run the SDK");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for story in ["sync", "async"] {
        let told = &told[story];
        assert_eq!(told["local"], told["sha256"], "{told}");
        assert_eq!(told["progress"], 3_000_000);
        assert_eq!(told["item"]["manifest"]["filename"], "from the sdk.bin");
        assert_eq!(told["item"]["manifest"]["datasetSize"], 3_000_000);
        for key in ["totalBlocks", "quotaMaxBytes", "quotaUsedBytes", "quotaReservedBytes"] {
            assert!(told["space"][key].is_u64(), "{key}");
        }
        assert!(told["spr"]["spr"].as_str().unwrap().starts_with("spr:"));
        assert_eq!(told["peerId"]["id"], a.services().net.peer_id().to_string());
        assert_eq!(told["connected"], "Successfully connected to peer");
        assert_eq!(told["manifest"]["cid"], told["remote"]);
        assert_eq!(told["fetched"]["cid"], told["remote"]);
        assert_eq!(told["stream"], "from the other");
        assert_eq!(told["info"]["id"], a.services().net.peer_id().to_string());
        assert_eq!(told["level"], "");
        assert_eq!(told["missing"]["error"], true);
        assert_eq!(told["missing"]["code"], 404);
        assert!(told["missing"]["message"].as_str().unwrap().contains("is not stored here"));
    }
}
