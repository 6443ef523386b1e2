//! Nodes, blocks and checks that the integration tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use net::{
    Access, BlockAnswer, BlockProvider, FetchOutcome, Fetched, Handle, Keypair, Multiaddr, Net,
    NetConfig, PeerId, Purposes, Want,
};
use parking_lot::Mutex;
use types::{Block, Cid, Codec, EncodedBlock};

/// Time limit. Long enough for a busy computer; only a failing test needs it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Provider of blocks in memory.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) blocks: HashMap<Cid, EncodedBlock>,
    pub(crate) asked: AtomicUsize,
}

impl Shelf {
    pub(crate) fn holding(blocks: &[EncodedBlock]) -> Arc<Self> {
        let blocks = blocks.iter().map(|block| (block.cid(), block.clone())).collect();
        Arc::new(Self { blocks, asked: AtomicUsize::new(0) })
    }
}

impl BlockProvider for Shelf {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let (mut left, mut answers) = (budget, Vec::new());
        for cid in wanted {
            let Some(block) = self.blocks.get(cid) else {
                answers.push(BlockAnswer::Missing);
                continue;
            };
            let len = block.payload().len();
            if len > left && !answers.is_empty() {
                break;
            }
            left = left.saturating_sub(len);
            answers.push(BlockAnswer::Block(block.clone()));
        }
        self.asked.fetch_add(answers.len(), Ordering::Relaxed);
        answers
    }
}

/// Returns noise that is the same in every run.
pub(crate) fn block(seed: usize, len: usize) -> EncodedBlock {
    let mut bytes = vec![0; len];
    let mut noise = blake3::Hasher::new();
    noise.update(&seed.to_le_bytes());
    noise.finalize_xof().fill(&mut bytes);
    EncodedBlock::plain(Block::new(Codec::Raw, bytes).unwrap())
}

pub(crate) fn wants(blocks: &[EncodedBlock]) -> Vec<Want> {
    blocks.iter().map(|block| Want { cid: block.cid(), len: Some(block.len()) }).collect()
}

/// Starts a node on loopback, with TCP and QUIC on free ports.
pub(crate) fn local() -> NetConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    NetConfig { tcp: vec![any], quic: vec![any], ..NetConfig::default() }
}

pub(crate) async fn start(provider: Arc<dyn BlockProvider>, access: Access) -> Net {
    start_with(local(), provider, access).await
}

pub(crate) async fn start_with(
    config: NetConfig,
    provider: Arc<dyn BlockProvider>,
    access: Access,
) -> Net {
    Net::start(config, Keypair::generate_secp256k1(), provider, access).await.unwrap()
}

pub(crate) async fn idle_node() -> Net {
    start(Arc::new(Shelf::default()), Access::new()).await
}

/// Returns an access list with one peer that may fetch blocks.
pub(crate) fn allowing(peer: PeerId) -> Access {
    let access = Access::new();
    access.set(peer, Purposes::BLOCKS);
    access
}

pub(crate) fn tcp_address(handle: &Handle) -> Multiaddr {
    address_with(handle, "/tcp/")
}

pub(crate) fn quic_address(handle: &Handle) -> Multiaddr {
    address_with(handle, "/quic-v1")
}

fn address_with(handle: &Handle, part: &str) -> Multiaddr {
    let all = handle.listen_addrs();
    let found = all.iter().find(|address| address.to_string().contains(part));
    found.unwrap_or_else(|| panic!("no address with {part} in {all:?}")).clone()
}

pub(crate) async fn connect(from: &Handle, to: &Handle) {
    from.connect(to.peer_id(), to.listen_addrs(), PATIENCE).await.unwrap();
}

/// Batches that a sink got.
pub(crate) type Got = Arc<Mutex<Vec<Fetched>>>;

pub(crate) fn collector() -> (Got, impl FnMut(Vec<Fetched>) -> Result<(), ()> + Send + 'static) {
    let got = Got::default();
    let into = Arc::clone(&got);
    let sink = move |batch: Vec<Fetched>| {
        into.lock().extend(batch);
        Ok(())
    };
    (got, sink)
}

/// Checks that all blocks arrived, in order, with valid bytes.
pub(crate) fn assert_all(got: &Got, blocks: &[EncodedBlock]) {
    let got = got.lock();
    assert_eq!(got.len(), blocks.len());
    for (fetched, block) in got.iter().zip(blocks) {
        assert_eq!(fetched.cid, block.cid());
        assert_eq!(fetched.outcome, FetchOutcome::Block(block.clone()));
    }
}
