//! A source on loopback: a node with a store that the test fills, its registry and its manifest
//! server.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::SourcePeer;
use manifest::{ManifestRegistry, ManifestServer, SeenClients};
use net::{
    Access, BlockAnswer, BlockProvider, Keypair, Net, NetConfig, PeerId, Purposes, StreamProtocol,
};
use parking_lot::Mutex;
use protocols::{
    PATCH_PROTOCOL, RECEIPT_PROTOCOL, ReceiptAnswer, SignedReceipt, serve_patches, serve_receipts,
};
use snapshots::{Depth, SnapshotTree};
use store::{BlockRead as _, BlockStore, BlockWrite as _, FileWriter, MemStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::{
    Cid, Codec, Dataset, EncodedBlock, Entry, EntryKind, Hash, MANIFEST_MIME, ManifestHeader,
    ManifestStats, Metadata, PublishedManifest, RelPath, Segment, SegmentRef, SegmentWriter,
    SequenceNumber,
};

use crate::nodes::noise;

/// Serves a store and records the served blocks.
#[derive(Default)]
pub struct Served {
    pub store: Arc<MemStore>,
    pub blocks: Mutex<Vec<Cid>>,
    /// Blocks that are reported as changed.
    pub changed: Mutex<HashSet<Cid>>,
    /// Blocks that are reported as missing.
    pub missing: Mutex<HashSet<Cid>>,
    /// Number of blocks that are still served; requests after them wait.
    pub left: Mutex<Option<usize>>,
    pub is_gone: AtomicBool,
    /// The peer whose blocks are recorded. A stream of an earlier peer may still be open.
    pub noted: Mutex<Option<PeerId>>,
}

impl BlockProvider for Served {
    fn read(&self, peer: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let (mut answers, mut len) = (Vec::new(), 0);
        for cid in wanted {
            while !self.is_gone.load(Ordering::SeqCst) {
                let mut left = self.left.lock();
                match &mut *left {
                    Some(0) => {}
                    Some(left) => {
                        *left -= 1;
                        break;
                    }
                    None => break,
                }
                drop(left);
                if !answers.is_empty() {
                    return answers;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.changed.lock().contains(cid) {
                answers.push(BlockAnswer::Changed);
                continue;
            }
            let is_missing = self.missing.lock().contains(cid);
            let block = self.store.get_encoded(cid).unwrap().filter(|_| !is_missing);
            let Some(block) = block else {
                answers.push(BlockAnswer::Missing);
                continue;
            };
            len += block.payload().len();
            if len > budget && !answers.is_empty() {
                break;
            }
            if *self.noted.lock() == Some(*peer) {
                self.blocks.lock().push(*cid);
            }
            answers.push(BlockAnswer::Block(block));
        }
        answers
    }
}

/// The contents of a folder, by path. A path that ends in `/` is a directory.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Returns a folder with small files in directories, and some large files.
pub fn tree(files: usize, large: usize) -> Tree {
    let mut tree = Tree::new();
    for number in 0..files {
        let dir = format!("d{:03}/", number / 100);
        tree.insert(format!("{dir}{number:06}.txt"), noise(number, 20 + number % 300));
        tree.insert(dir, Vec::new());
    }
    for number in 0..large {
        tree.insert(format!("large-{number}"), noise(1_000_000 + number, 3_000_000));
    }
    tree
}

pub fn put(store: &MemStore, block: types::Block) -> Cid {
    let cid = block.cid();
    store.put(&[EncodedBlock::plain(block)]).unwrap();
    cid
}

/// Stores the content of a file and returns its CID.
pub fn file(store: &Arc<MemStore>, content: &[u8]) -> Cid {
    let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
    writer.write(content).unwrap();
    writer.finish().unwrap().cid
}

pub fn file_entry(path: &str, cid: Cid, content: &[u8]) -> Entry {
    Entry {
        path: RelPath::new(path).unwrap(),
        kind: EntryKind::File {
            cid,
            size: content.len() as u64,
            blake3: Hash::of(content),
            is_sparse: false,
        },
        metadata: Metadata { mode: 0o644, ..Metadata::default() },
        error: None,
    }
}

pub fn dir_entry(path: &str) -> Entry {
    let path = RelPath::new(path.trim_end_matches('/')).unwrap();
    Entry { path, kind: EntryKind::Dir, metadata: Metadata::default(), error: None }
}

/// Stores the files of a folder and returns its entries.
pub fn entries(store: &Arc<MemStore>, tree: &Tree) -> Vec<Entry> {
    let entry = |(path, content): (&String, &Vec<u8>)| match path.ends_with('/') {
        true => dir_entry(path),
        false => file_entry(path, file(store, content), content),
    };
    let mut entries: Vec<_> = tree.iter().map(entry).collect();
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    entries
}

pub fn segments(entries: &[Entry]) -> Vec<Segment> {
    let mut writer = SegmentWriter::new(types::BlockScheme::plain());
    let mut segments: Vec<_> = entries.iter().filter_map(|entry| writer.push(entry)).collect();
    segments.extend(writer.finish());
    segments
}

/// Stores the segments of the entries and returns the header over them.
pub fn header(
    store: &MemStore,
    source: PeerId,
    folder: &str,
    sequence: u64,
    entries: &[Entry],
) -> ManifestHeader {
    let mut stats = ManifestStats::default();
    for entry in entries {
        match entry.kind {
            EntryKind::Dir => stats.total_dirs += 1,
            EntryKind::File { size, .. } => {
                stats.total_files += 1;
                stats.total_size_bytes += size;
            }
            _ => stats.total_files += 1,
        }
    }
    let segments = segments(entries).into_iter().map(|segment| SegmentRef {
        first_path: segment.first_path,
        entries: segment.entries,
        bytes: segment.block.data().len() as u64,
        cid: put(store, segment.block),
    });
    ManifestHeader {
        folder_id: folder.parse().unwrap(),
        folder_name: folder.to_uppercase(),
        folder_path: format!("/home/me/{folder}"),
        source_peer_id: source.to_string(),
        sequence_number: SequenceNumber(sequence),
        previous: None,
        created_at: "2026-11-22T10:30:00Z".parse().unwrap(),
        root: Entry { path: RelPath::root(), ..dir_entry("x") },
        stats,
        held: None,
        segments: segments.collect(),
    }
}

/// Stores a header and its dataset, and returns the CID of the manifest.
pub fn dataset(store: &MemStore, header: types::Block) -> Cid {
    let size = header.data().len() as u64;
    let tree = put(store, header);
    let mimetype = Some(MANIFEST_MIME.to_owned());
    let dataset = Dataset { tree, size, filename: None, mimetype };
    put(store, dataset.encode(&types::BlockScheme::plain()).unwrap())
}

/// A source.
pub struct Source {
    pub served: Arc<Served>,
    pub registry: ManifestRegistry,
    pub access: Access,
    pub net: Net,
    pub http: SocketAddr,
    pub receipts: Arc<Mutex<Vec<(PeerId, SignedReceipt)>>>,
    pub takes_receipts: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Source {
    pub async fn start() -> Self {
        Self::with(Keypair::generate_secp256k1()).await
    }

    pub async fn with(keypair: Keypair) -> Self {
        Self::speaking(keypair, vec![RECEIPT_PROTOCOL, PATCH_PROTOCOL]).await
    }

    /// Starts a source that supports only these protocols in addition to the block protocol.
    pub async fn speaking(keypair: Keypair, protocols: Vec<StreamProtocol>) -> Self {
        let (served, access) = (Arc::new(Served::default()), Access::new());
        let config = NetConfig {
            tcp: vec!["127.0.0.1:0".parse().unwrap()],
            protocols,
            ..NetConfig::default()
        };
        let net = Net::start(config, keypair.clone(), served.clone(), access.clone());
        let net = net.await.unwrap();
        let receipts = Arc::new(Mutex::new(Vec::new()));
        let takes_receipts = Arc::new(AtomicBool::new(true));
        let note = {
            let (receipts, takes) = (receipts.clone(), takes_receipts.clone());
            move |peer, receipt: SignedReceipt| {
                if !takes.load(Ordering::SeqCst) {
                    return ReceiptAnswer::UnknownFolder;
                }
                if receipt.receipt().backup_server != peer || !receipt.is_signed() {
                    return ReceiptAnswer::Refused;
                }
                receipts.lock().push((peer, receipt));
                ReceiptAnswer::Ok
            }
        };
        let allowed = {
            let access = access.clone();
            move |peer: &PeerId| access.allows(peer, Purposes::RECEIPTS)
        };
        if let Some(receiver) = net.accept(&RECEIPT_PROTOCOL) {
            tokio::spawn(serve_receipts(receiver, allowed, Arc::new(note)));
        }
        if let Some(receiver) = net.accept(&PATCH_PROTOCOL) {
            let access = access.clone();
            let allowed = move |peer: &PeerId| access.allows(peer, Purposes::BLOCKS);
            tokio::spawn(serve_patches(receiver, allowed, served.store.clone()));
        }
        let registry = ManifestRegistry::new(keypair);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let handle = net.handle();
        let server = ManifestServer {
            registry: registry.clone(),
            addresses: Arc::new(move || handle.listen_addrs()),
            whitelist: watch::Sender::default().subscribe(),
            confirmed: watch::Sender::default().subscribe(),
            clients: SeenClients::new(),
            stop: stop.clone(),
        };
        let service = server.router().into_make_service_with_connect_info::<SocketAddr>();
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(
            async move { axum::serve(listener, service).with_graceful_shutdown(ended).await },
        );
        Self { served, registry, access, net, http, receipts, takes_receipts, stop }
    }

    pub fn peer(&self) -> PeerId {
        self.registry.peer_id()
    }

    pub fn allow(&self, peer: PeerId) {
        *self.served.noted.lock() = Some(peer);
        self.access.set(peer, Purposes::BLOCKS | Purposes::RECEIPTS);
    }

    /// Registers a manifest, so that the manifest server offers it.
    pub fn show(&self, folder: &str, sequence: u64, manifest_cid: Cid) {
        let published = PublishedManifest {
            folder_id: folder.parse().unwrap(),
            folder_name: folder.to_uppercase(),
            folder_path: format!("/home/me/{folder}"),
            manifest_cid,
            sequence_number: SequenceNumber(sequence),
            updated_at: "2026-11-22T10:30:00Z".parse().unwrap(),
            file_count: 12,
            total_size_bytes: 345,
        };
        self.registry.publish(published).unwrap();
    }

    /// Stores a manifest of these entries.
    pub fn manifest(&self, folder: &str, sequence: u64, entries: &[Entry]) -> Cid {
        let store = &self.served.store;
        let header = header(store, self.peer(), folder, sequence, entries);
        dataset(store, header.encode(&types::BlockScheme::plain()).unwrap())
    }

    /// Stores a folder and registers its manifest.
    pub fn publish(&self, folder: &str, sequence: u64, tree: &Tree) -> Cid {
        let entries = entries(&self.served.store, tree);
        let manifest = self.manifest(folder, sequence, &entries);
        self.show(folder, sequence, manifest);
        manifest
    }

    /// Returns the blocks that were served since the last call.
    pub fn served(&self) -> Vec<Cid> {
        std::mem::take(&mut *self.served.blocks.lock())
    }

    pub fn config(&self, name: &str) -> SourcePeer {
        SourcePeer {
            name: name.parse().unwrap(),
            manifest_server_url: format!("http://{}", self.http).parse().unwrap(),
            peer_id: self.peer(),
            addresses: self.net.handle().listen_addrs(),
            quota: config::ByteSize::default(),
            folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
        }
    }

    pub fn stop_http(&self) {
        self.stop.cancel();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.served.is_gone.store(true, Ordering::SeqCst);
        self.stop.cancel();
    }
}

/// Starts a node on loopback that serves no blocks.
pub async fn plain_net() -> Net {
    plain_net_as(Keypair::generate_secp256k1()).await
}

/// Same as [`plain_net`], with the given key.
pub async fn plain_net_as(key: Keypair) -> Net {
    let config = NetConfig { tcp: vec!["127.0.0.1:0".parse().unwrap()], ..NetConfig::default() };
    let nothing = Arc::new(Served::default());
    Net::start(config, key, nothing, Access::new()).await.unwrap()
}

/// Asserts that a store is sound and contains a folder completely, byte for byte.
pub fn assert_holds(store: &Arc<dyn BlockStore>, manifest: Cid, tree: &Tree) {
    assert_eq!(store::check::missing_blocks(&**store).unwrap(), []);
    let snapshot = SnapshotTree::open(store.clone(), manifest).unwrap();
    let mut found = Tree::new();
    let root = RelPath::root();
    snapshot
        .list(&root, Depth::All, |entry| {
            let path = entry.path.to_string();
            match entry.kind {
                EntryKind::File { cid, .. } => {
                    let mut bytes = Vec::new();
                    let reader = store::FileReader::open(store.clone(), cid).unwrap();
                    let mut reader = reader.unwrap();
                    while let Some(piece) = reader.read().unwrap() {
                        bytes.extend_from_slice(&piece);
                    }
                    found.insert(path, bytes);
                }
                _ => {
                    found.insert(format!("{path}/"), Vec::new());
                }
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(found == *tree, "another tree");
}

pub fn raw(cids: &[Cid]) -> usize {
    cids.iter().filter(|cid| cid.codec() == Codec::Raw).count()
}
