//! Nodes on loopback, and a function to wait for their effects.

use std::sync::Arc;
use std::time::Duration;

use net::{Access, BlockAnswer, BlockProvider, Keypair, Net, NetConfig, PeerId};
use protocols::{
    Confirmation, PATCH_PROTOCOL, RECEIPT_PROTOCOL, Receipt, SNAPSHOTS_PROTOCOL, SignedReceipt,
};
use store::{BlockStore, MemStore};
use types::{Cid, SequenceNumber};

/// Long enough for a busy machine; only a failed test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Serves the blocks of a store.
pub struct Provider(pub Arc<dyn BlockStore>);

impl BlockProvider for Provider {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let (mut answers, mut len) = (Vec::new(), 0);
        for cid in wanted {
            let answer = match self.0.get_encoded(cid) {
                Ok(Some(block)) => {
                    len += block.payload().len();
                    BlockAnswer::Block(block)
                }
                _ => BlockAnswer::Missing,
            };
            if len > budget && !answers.is_empty() {
                break;
            }
            answers.push(answer);
        }
        answers
    }
}

/// Starts a node on loopback, on a free port, that serves a store.
pub async fn node_with(store: Arc<dyn BlockStore>, access: Access) -> Net {
    node_as(Keypair::generate_secp256k1(), store, access).await
}

/// Same as [`node_with`], with the given key.
pub async fn node_as(key: Keypair, store: Arc<dyn BlockStore>, access: Access) -> Net {
    node_providing(key, Arc::new(Provider(store)), access).await
}

/// Same as [`node_as`], with any provider of blocks.
pub async fn node_providing(key: Keypair, provider: Arc<dyn BlockProvider>, access: Access) -> Net {
    let config = NetConfig {
        tcp: vec!["127.0.0.1:0".parse().unwrap()],
        protocols: vec![RECEIPT_PROTOCOL, SNAPSHOTS_PROTOCOL, PATCH_PROTOCOL],
        ..NetConfig::default()
    };
    Net::start(config, key, provider, access).await.unwrap()
}

/// Returns a receipt of a backup server for manifest number `sequence` of a folder, which follows
/// `before` in the chain.
pub fn signed_receipt(
    server: &Keypair,
    source: &Keypair,
    folder: &str,
    (sequence, manifest_cid): (u64, Cid),
    before: Option<&SignedReceipt>,
) -> SignedReceipt {
    let (folder_id, sequence) = (folder.parse().unwrap(), SequenceNumber(sequence));
    let manifest_signature = manifest::sign(source, &folder_id, sequence, &manifest_cid).unwrap();
    let receipt = Receipt {
        number: before.map_or(0, |before| before.receipt().number) + 1,
        previous: before.map(SignedReceipt::hash),
        backup_server: server.public().to_peer_id(),
        source: source.public().to_peer_id(),
        confirmation: Confirmation {
            folder_id,
            sequence,
            manifest_cid,
            manifest_signature,
            received_at: "2026-11-22T10:30:05Z".parse().unwrap(),
        },
    };
    receipt.sign(server).unwrap()
}

/// Starts a node on loopback that has no blocks.
pub async fn node() -> Net {
    node_with(Arc::new(MemStore::new()), Access::new()).await
}

/// Connects two nodes.
pub async fn connect(from: &Net, to: &Net) {
    let to = to.handle();
    from.handle().connect(to.peer_id(), to.listen_addrs(), PATIENCE).await.unwrap();
}

/// Waits until `find` returns a value.
///
/// # Panics
///
/// Panics if that takes longer than [`PATIENCE`].
pub async fn until<T>(mut find: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = find() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it did not happen in time")
}

/// Returns noise that is the same in every run.
pub fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
