//! A source on a simulated disk, and backup servers whose keys the test has.

mod comparing;
mod receiving;
mod storing;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use disk::Disk as _;
use disk::sim::{Fault, Power, SimDisk};
use net::Keypair;
use protocols::SystemClock;
use sync::Confirmations as _;
use testkit::signed_receipt;
use types::Codec;

use super::*;

const DATA: &str = "/data";

/// The folders of the source: each with the CIDs of its manifests, from number 1.
#[derive(Clone, Default)]
struct FakeFolders(Arc<Mutex<BTreeMap<FolderId, Vec<Cid>>>>);

impl Folders for FakeFolders {
    fn published(&self, folder: &FolderId) -> Option<PublishedFolder> {
        let folders = self.0.lock();
        let manifests = folders.get(folder)?;
        Some(PublishedFolder {
            name: format!("name of {folder}"),
            sequence: SequenceNumber(manifests.len() as u64),
            manifest_cid: manifests.last().copied(),
        })
    }

    fn receipt_changed(&self, _: &FolderId) {}
}

/// A source with the folder `docs`, and its backup server.
struct Source {
    disk: SimDisk,
    key: Keypair,
    server: Keypair,
    folders: FakeFolders,
}

fn cid(folder: &str, sequence: u64) -> Cid {
    Cid::of(Codec::DagCbor, format!("{folder} {sequence}").as_bytes())
}

fn docs() -> FolderId {
    "docs".parse().unwrap()
}

impl Source {
    /// Creates a source that has published manifests 1 to `count` of `docs`.
    fn new(count: u64) -> Self {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(DATA)).unwrap();
        let source = Self {
            disk,
            key: Keypair::generate_secp256k1(),
            server: Keypair::generate_secp256k1(),
            folders: FakeFolders::default(),
        };
        source.publish("docs", count);
        source
    }

    fn publish(&self, folder: &str, count: u64) {
        let manifests = (1..=count).map(|sequence| cid(folder, sequence)).collect();
        self.folders.0.lock().insert(folder.parse().unwrap(), manifests);
    }

    fn peer(&self) -> PeerId {
        self.server.public().to_peer_id()
    }

    /// Opens the receipts, as a start of the instance does.
    fn open(&self) -> Receipts {
        self.open_on(&self.disk)
    }

    fn open_on(&self, disk: &SimDisk) -> Receipts {
        let own = self.key.public().to_peer_id();
        let receipts =
            Receipts::open(Arc::new(disk.clone()), Path::new(DATA), own, SystemClock::shared())
                .unwrap();
        receipts.connect(self.folders.clone(), BTreeMap::new());
        receipts
    }

    fn path(&self) -> PathBuf {
        Path::new(DATA).join(DIR).join(format!("{}.docs.jsonl", self.peer()))
    }

    fn content(&self, disk: &SimDisk) -> Vec<u8> {
        disk::read_file(disk, &self.path(), 1 << 30).unwrap()
    }

    /// Signs the receipt for manifest `sequence` of `docs`.
    fn sign(&self, sequence: u64, before: Option<&SignedReceipt>) -> SignedReceipt {
        signed_receipt(&self.server, &self.key, "docs", (sequence, cid("docs", sequence)), before)
    }

    /// Signs a chain of receipts for manifests 1 to `count`.
    fn chain(&self, count: u64) -> Vec<SignedReceipt> {
        let mut chain: Vec<SignedReceipt> = Vec::new();
        for sequence in 1..=count {
            chain.push(self.sign(sequence, chain.last()));
        }
        chain
    }

    fn receive(&self, receipts: &Receipts, signed: &SignedReceipt) -> ReceiptAnswer {
        receipts.receive(self.peer(), signed)
    }
}

/// Returns the sequence number that is shown as confirmed.
fn confirmed(receipts: &Receipts) -> Option<u64> {
    let shown = receipts.newest(&docs()).map(|receipt| receipt.sequence.0);
    // A process that waits for a receipt sees the same.
    let waited = receipts.confirmed().borrow().get(&docs()).map(|sequence| sequence.0);
    assert!(waited.is_none() || waited == shown, "{waited:?} {shown:?}");
    shown
}

fn problems(receipts: &Receipts) -> String {
    let texts = receipts.problems().into_iter().map(|problem| problem.message);
    texts.collect::<Vec<_>>().join("\n")
}
