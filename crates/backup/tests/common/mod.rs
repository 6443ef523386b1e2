//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::sync::Arc;
use std::time::Duration;

use backup::{RECEIPT_PROTOCOL, SNAPSHOTS_PROTOCOL};
use net::{Access, Answer, BlockProvider, Keypair, Net, NetConfig, PeerId};
use store::BlockStore;
use types::Cid;

/// Long enough for a busy machine; only a failure takes it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Serves a store.
pub(crate) struct Provider(pub(crate) Arc<dyn BlockStore>);

impl BlockProvider for Provider {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<Answer> {
        let (mut answers, mut len) = (Vec::new(), 0);
        for cid in wanted {
            let answer = match self.0.get_encoded(cid) {
                Ok(Some(block)) => {
                    len += block.payload().len();
                    Answer::Block(block)
                }
                _ => Answer::Missing,
            };
            if len > budget && !answers.is_empty() {
                break;
            }
            answers.push(answer);
        }
        answers
    }
}

/// A node on loopback with a free port, which serves a store.
pub(crate) async fn node_with(store: Arc<dyn BlockStore>, access: Access) -> Net {
    node_as(Keypair::generate_secp256k1(), store, access).await
}

/// The same, with this key.
pub(crate) async fn node_as(key: Keypair, store: Arc<dyn BlockStore>, access: Access) -> Net {
    let config = NetConfig {
        tcp: vec!["127.0.0.1:0".parse().unwrap()],
        protocols: vec![RECEIPT_PROTOCOL, SNAPSHOTS_PROTOCOL],
        ..NetConfig::default()
    };
    Net::start(config, key, Arc::new(Provider(store)), access).await.unwrap()
}

/// A node on loopback that has no blocks.
pub(crate) async fn node() -> Net {
    node_with(Arc::new(store::MemStore::new()), Access::new()).await
}

/// Connects two nodes.
pub(crate) async fn connect(from: &Net, to: &Net) {
    let to = to.handle();
    from.handle().connect(to.peer_id(), to.listen_addrs(), PATIENCE).await.unwrap();
}

/// Waits until something is so.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
