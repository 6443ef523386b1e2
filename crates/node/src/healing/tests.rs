//! Damage in a real store is healed from real peers on loopback.

use std::path::Path;

use config::{Config, ConfigFile};
use net::{Keypair, Net};
use store::{BlockRead as _, BlockWrite as _, MemStore, ScrubEnd, StoreOptions};
use testkit::{all_blocks, connect, filled, node, node_as, noise, until, without};
use tokio::sync::broadcast;
use types::{Block, EncodedBlock};

use super::*;

/// A backup server with three snapshots in a store on disk.
struct Server {
    dir: tempfile::TempDir,
    store: Arc<PackStore>,
    snapshots: SnapshotStore,
    all: [snapshots::Snapshot; 3],
    net: Net,
    parts: HealingParts,
    healing: Healing,
    source_key: Keypair,
    _sources: broadcast::Sender<BackupEvent>,
}

impl Server {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
        let (store, _) = PackStore::open(&dir.path().join("store"), &options).unwrap();
        let store = Arc::new(store);
        let (maker, all) = filled(store.clone());
        let net = node().await;
        let access = Access::new();
        access.set(maker.key.public().to_peer_id(), Purposes::BLOCKS);
        let config_path = dir.path().join("config.toml");
        std::fs::write(&config_path, "").unwrap();
        let parts = HealingParts {
            store: store.clone(),
            snapshots: maker.snapshots.clone(),
            net: net.handle(),
            access,
            settings: Settings::new(ConfigFile::new(config_path), Config::default()),
            journal: Journal::default(),
            problems: Problems::default(),
            path: dir.path().join("healing.json"),
            stop: CancellationToken::new(),
        };
        let (sender, receiver) = broadcast::channel(16);
        let healing = Healing::default();
        tokio::spawn(healing.clone().run(parts.clone(), receiver));
        Self {
            dir,
            store,
            snapshots: maker.snapshots,
            all,
            net,
            parts,
            healing,
            source_key: maker.key,
            _sources: sender,
        }
    }

    /// Starts the source with these blocks, and connects it.
    async fn source(&self, blocks: Arc<MemStore>) -> Net {
        let access = Access::new();
        access.set(self.net.handle().peer_id(), Purposes::BLOCKS);
        let source = node_as(self.source_key.clone(), blocks, access).await;
        connect(&source, &self.net).await;
        source
    }

    /// Returns a copy of all blocks.
    fn blocks(&self) -> Arc<MemStore> {
        without(&*self.store, &BTreeSet::new())
    }

    /// Flips a bit of the payload of a block in its pack.
    fn flip(&self, cid: &Cid) {
        for path in packs(self.dir.path()) {
            let mut bytes = std::fs::read(&path).unwrap();
            let hash = cid.hash().as_bytes();
            // Nodes contain the hashes of other blocks, too.
            let is_record = |window: &[u8]| window.starts_with(b"BLK1") && window.ends_with(hash);
            if let Some(at) = bytes.windows(48).position(is_record) {
                // The payload follows the hash and two checksums.
                bytes[at + 56] ^= 4;
                std::fs::write(&path, bytes).unwrap();
                return;
            }
        }
        panic!("{cid} is in no pack");
    }

    async fn until_healed(&self, count: u64) {
        until(|| {
            let state = self.healing.to_api();
            (state.outstanding == 0 && state.healed >= count).then_some(())
        })
        .await;
    }

    fn assert_complete(&self) {
        let (counts, never) = (VerifyProgress::default(), CancellationToken::new());
        let report = snapshots::verify(&self.snapshots, true, &counts, &never).unwrap();
        assert!(report.is_ok(), "{report:?}");
        assert_eq!(self.parts.problems.list(), Vec::<String>::new());
    }

    fn chunk_of(&self, snapshot: usize) -> Cid {
        let blocks = all_blocks(&*self.store, &self.all[snapshot]);
        blocks.into_iter().find(|cid| cid.codec() == Codec::Raw).unwrap()
    }

    fn journal(&self) -> String {
        let entries = self.parts.journal.entries().into_iter();
        entries.map(|entry| entry.message + "\n").collect()
    }
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir.join("store/packs")).unwrap();
    all.map(|entry| entry.unwrap().path()).collect()
}

fn scrub(store: &PackStore) -> Vec<ScrubEnd> {
    let packs = store.packs();
    packs.iter().map(|pack| store.scrub(pack.id, &mut |_| true).unwrap().end).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_block_is_healed_from_the_source_without_a_request() {
    let server = Server::new().await;
    let blocks: BTreeSet<Cid> =
        server.all.iter().flat_map(|one| all_blocks(&*server.store, one)).collect();
    let _source = server.source(server.blocks()).await;
    assert!(blocks.len() > 15);
    for (number, cid) in blocks.iter().enumerate() {
        server.flip(cid);
        let bytes = if number % 2 == 0 {
            scrub(&server.store);
            None
        } else {
            server.store.get(cid).ok().flatten()
        };
        assert_eq!(bytes, None, "{cid} was damaged");
        server.until_healed(number as u64 + 1).await;
        assert!(server.store.get(cid).unwrap().is_some());
    }
    server.assert_complete();
    let state = server.healing.to_api();
    assert_eq!((state.found, state.healed), (blocks.len() as u64, blocks.len() as u64));
    let journal = server.journal();
    for cid in blocks {
        assert_eq!(journal.matches(&cid.to_string()).count(), 2, "found and healed: {journal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_off_heals_when_it_connects_and_the_alarm_ends() {
    let server = Server::new().await;
    let (chunk, blocks) = (server.chunk_of(2), server.blocks());
    server.flip(&chunk);
    scrub(&server.store);
    until(|| server.healing.to_api().blocks.first().is_some_and(|b| b.attempts > 0).then_some(()))
        .await;
    // The alarm names what is concerned.
    let problem = until(|| {
        let problems = server.parts.problems.list();
        problems.into_iter().find(|problem| problem.contains("song"))
    });
    assert!(problem.await.contains("1 stored block is damaged or missing"));
    let state = server.healing.to_api();
    assert!(!state.blocks[0].is_lost, "{state:?}");
    assert!(state.blocks[0].concerns.contains(&server.all[2].id.to_string()), "{state:?}");
    let _source = server.source(blocks).await;
    server.until_healed(1).await;
    until(|| server.parts.problems.list().is_empty().then_some(())).await;
    server.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_the_source_no_longer_has_is_listed_and_heals_from_another_peer() {
    let server = Server::new().await;
    let (chunk, blocks) = (server.chunk_of(2), server.blocks());
    let _source = server.source(without(&*blocks, &BTreeSet::from([chunk]))).await;
    server.flip(&chunk);
    scrub(&server.store);
    let state = until(|| {
        let state = server.healing.to_api();
        state.blocks.first().is_some_and(|b| b.is_lost && !b.concerns.is_empty()).then_some(state)
    });
    let block = state.await.blocks.remove(0);
    assert_eq!(block.cid, chunk);
    assert_eq!(block.concerns, [server.all[2].id.to_string(), "song".to_owned()]);
    until(|| server.journal().contains("cannot be fetched again yet").then_some(())).await;
    // Another backup server has it.
    let key = Keypair::generate_secp256k1();
    server.parts.access.set(key.public().to_peer_id(), Purposes::BLOCKS);
    let access = Access::new();
    access.set(server.net.handle().peer_id(), Purposes::BLOCKS);
    let other = node_as(key, blocks, access).await;
    connect(&other, &server.net).await;
    server.until_healed(1).await;
    server.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_is_fetched_again_completely() {
    for kind in ["d-", "m-"] {
        let server = Server::new().await;
        let _source = server.source(server.blocks()).await;
        let is_kind =
            |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(kind);
        let lost = packs(server.dir.path()).into_iter().find(is_kind).unwrap();
        std::fs::remove_file(&lost).unwrap();
        assert!(scrub(&server.store).contains(&ScrubEnd::Lost));
        server.until_healed(3).await;
        server.assert_complete();
        assert!(server.journal().contains(&lost.display().to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_no_alarm_and_earlier_damage_is_healed_after_a_start() {
    let server = Server::new().await;
    let block = EncodedBlock::plain(Block::new(Codec::Raw, noise(90, 1000)).unwrap());
    server.store.put(std::slice::from_ref(&block)).unwrap();
    let (chunk, blocks) = (server.chunk_of(0), server.blocks());
    server.flip(&block.cid());
    scrub(&server.store);
    until(|| {
        let state = server.healing.to_api();
        (state.outstanding == 0 && server.journal().contains(&block.cid().to_string()))
            .then_some(())
    })
    .await;
    until(|| server.parts.problems.list().is_empty().then_some(())).await;
    assert_eq!(server.healing.to_api().found, 0);
    // The task of another start finds the damage in the list of the store.
    server.parts.stop.cancel();
    server.flip(&chunk);
    scrub(&server.store);
    let _source = server.source(blocks).await;
    let parts = HealingParts { stop: CancellationToken::new(), ..server.parts.clone() };
    let (_sender, receiver) = broadcast::channel(16);
    let healing = Healing::default();
    tokio::spawn(healing.clone().run(parts, receiver));
    until(|| (healing.to_api().healed == 1).then_some(())).await;
    server.assert_complete();
}
