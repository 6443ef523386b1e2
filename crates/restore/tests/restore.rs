//! A tree is stored in a block store and restored; the two trees are the same.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{blocks, capture, manifest};
use fstree::{CompareOptions, DifferenceKind, compare};
use restore::{
    BlocksError, OwnerPolicy, Progress, Report, RestoreError, RestoreOptions, Selection, restore,
};
use store::{BlockStore, FileWriter, MemStore};
use types::{Cid, Codec, Dataset, EncodedBlock, Entry, EntryKind, Hash, Metadata, RelPath};

struct Setup {
    dir: tempfile::TempDir,
    store: Arc<dyn BlockStore>,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        Self { dir, store: Arc::new(MemStore::new()) }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target/new")
    }

    fn restore(&self, manifest: Cid, options: &RestoreOptions) -> Result<Report, RestoreError> {
        let blocks = blocks(&self.store);
        restore(&blocks, manifest, &self.target(), options, &Progress::default())
    }

    fn assert_same(&self) {
        let options = CompareOptions::default();
        let differences = compare(&self.source(), &self.target(), options).unwrap();
        assert!(differences.is_empty(), "{differences:?}");
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn some_tree(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    for n in 0..300 {
        fs::write(dir.join(format!("a/{n:03}.txt")), noise(n, usize::try_from(n * 37).unwrap()))
            .unwrap();
    }
    fs::write(dir.join("a/b/large"), noise(1000, 12_000_000)).unwrap();
    fs::write(dir.join("a/b/c/deep"), b"deep").unwrap();
    fs::write(dir.join("nothing"), b"").unwrap();
    symlink("a/b/large", dir.join("link")).unwrap();
    symlink("/nowhere/at/all", dir.join("dangling")).unwrap();
    fs::hard_link(dir.join("a/b/large"), dir.join("z-second-name")).unwrap();
    fs::hard_link(dir.join("a/001.txt"), dir.join("a/b/other-name")).unwrap();
    fs::hard_link(dir.join("dangling"), dir.join("empty/dangling-too")).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"-rf \xff\n")), b"odd").unwrap();
    fs::set_permissions(dir.join("a/b/c"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(dir.join("nothing"), fs::Permissions::from_mode(0o4711)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::hard_link(dir.join("pipe"), dir.join("a/b/pipe")).unwrap();
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let manifest = capture(&setup.store, &setup.source());
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.not_set.clone(), report.skipped.clone()), (vec![], vec![]));
    assert_eq!(report.same, 0);
    setup.assert_same();
    // The second restore finds everything in place.
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert!(report.is_complete() && report.bytes == 0, "{report:?}");
    setup.assert_same();
}

/// Root can make devices; another user has the bits of own files alone.
#[test]
fn privileges_are_left_out_and_counted_for_a_source_that_is_not_trusted() {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
    let setup = Setup::new();
    let at = |name: &str| setup.source().join(name);
    let with_mode = |name: &str, mode| {
        fs::write(at(name), name).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    with_mode("setuid", 0o4755);
    with_mode("setgid", 0o2750);
    with_mode("plain", 0o640);
    fs::hard_link(at("setuid"), at("setuid-too")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o3775)).unwrap();
    fs::set_permissions(setup.source(), fs::Permissions::from_mode(0o2755)).unwrap();
    let mut left_out = 5;
    let device = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    if mknodat(CWD, at("null"), FileType::CharacterDevice, mode, device).is_ok() {
        left_out += 1;
    }
    if setxattr(at("plain"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).is_ok() {
        left_out += 1;
    }
    let manifest = capture(&setup.store, &setup.source());
    let untrusted = RestoreOptions { as_it_was: false, ..RestoreOptions::default() };
    // The second run finds everything in place.
    for _ in 0..2 {
        let report = setup.restore(manifest, &untrusted).unwrap();
        assert!(report.is_complete() && report.not_set.is_empty(), "{report:?}");
        assert_eq!(report.privileges_left_out, left_out, "{report:?}");
        assert_eq!(report.skipped.len() as u64, left_out, "{report:?}");
        let mode = |name: &str| {
            fs::metadata(setup.target().join(name)).unwrap().permissions().mode() & 0o7777
        };
        let modes = ["setuid", "setuid-too", "setgid", "plain", "dir", ""].map(mode);
        assert_eq!(modes, [0o755, 0o755, 0o750, 0o640, 0o1775, 0o755]);
        assert!(!setup.target().join("null").exists());
        let mut value = [0_u8; 8];
        let name = "trusted.overlay.opaque";
        assert!(rustix::fs::getxattr(setup.target().join("plain"), name, &mut value).is_err());
    }
    fs::remove_dir_all(setup.target()).unwrap();
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert_eq!(report.privileges_left_out, 0);
    setup.assert_same();
}

#[test]
fn what_is_in_the_way_stays_unless_it_is_to_be_replaced() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let manifest = capture(&setup.store, &setup.source());
    fs::create_dir_all(setup.target().join("a/b/large")).unwrap();
    fs::write(setup.target().join("a/000.txt"), b"mine").unwrap();
    fs::write(setup.target().join("mine too"), b"mine").unwrap();
    symlink("/tmp", setup.target().join("empty")).unwrap();
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert_eq!(report.in_the_way.len(), 3, "{report:?}");
    assert_eq!(fs::read(setup.target().join("a/000.txt")).unwrap(), b"mine");
    assert!(setup.target().join("empty").is_symlink());
    let overwrite = RestoreOptions { overwrite: true, ..RestoreOptions::default() };
    let report = setup.restore(manifest, &overwrite).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(fs::read(setup.target().join("mine too")).unwrap(), b"mine");
    fs::remove_file(setup.target().join("mine too")).unwrap();
    let differences = compare(&setup.source(), &setup.target(), CompareOptions::default()).unwrap();
    // The target was not empty, so it keeps its mode and times.
    assert!(differences.iter().all(|difference| difference.path.is_root()), "{differences:?}");
}

/// The names in a snapshot come from its source. They must not be the files of the store.
#[test]
fn the_directories_of_the_instance_are_never_changed() {
    let setup = Setup::new();
    some_tree(&setup.source());
    fs::create_dir_all(setup.source().join("data/store")).unwrap();
    fs::write(setup.source().join("data/store/pack"), b"hostile").unwrap();
    let manifest = capture(&setup.store, &setup.source());
    let data = setup.target().join("data");
    fs::create_dir_all(data.join("store")).unwrap();
    fs::write(data.join("store/pack"), b"a backup").unwrap();
    let options = RestoreOptions {
        overwrite: true,
        protected: vec![data.clone()],
        ..RestoreOptions::default()
    };
    // Below the target: everything else is restored.
    let report = setup.restore(manifest, &options).unwrap();
    assert_eq!(report.failed.len(), 3, "{report:?}");
    assert!(report.failed.iter().all(|text| text.starts_with("data")), "{report:?}");
    assert!(setup.target().join("a/000.txt").exists());
    // The target is such a directory, is in one, or is a link to one.
    let link = setup.dir.path().join("link");
    symlink(&data, &link).unwrap();
    let blocks = blocks(&setup.store);
    for target in [data.clone(), data.join("store"), data.join("new/inner"), link.join("new")] {
        let ended = restore(&blocks, manifest, &target, &options, &Progress::default());
        assert!(matches!(ended, Err(RestoreError::Protected { .. })), "{target:?}: {ended:?}");
    }
    assert_eq!(fs::read(data.join("store/pack")).unwrap(), b"a backup");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    // A link to it is not replaced.
    let elsewhere = setup.dir.path().join("elsewhere");
    fs::rename(&data, &elsewhere).unwrap();
    symlink(&elsewhere, &data).unwrap();
    setup.restore(manifest, &options).unwrap();
    assert!(data.is_symlink());
    assert_eq!(fs::read(elsewhere.join("store/pack")).unwrap(), b"a backup");
}

#[test]
fn a_part_is_restored_without_the_rest() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let manifest = capture(&setup.store, &setup.source());
    let selection = Selection::new(vec![path("a/b"), path("a/007.txt"), path("a/nothing like it")]);
    let options = RestoreOptions { selection, ..RestoreOptions::default() };
    let report = setup.restore(manifest, &options).unwrap();
    assert_eq!(report.not_found, [path("a/nothing like it")]);
    assert!(report.failed.is_empty() && report.in_the_way.is_empty(), "{report:?}");
    let differences = compare(&setup.source(), &setup.target(), CompareOptions::default()).unwrap();
    // A file may have another name in the part that was not restored.
    let missing = |text: &str| {
        differences
            .iter()
            .any(|d| d.path == path(text) && !matches!(d.kind, DifferenceKind::HardLinks))
    };
    assert!(!missing("a/b") && !missing("a/b/large") && !missing("a/b/c/deep"));
    assert!(!missing("a/007.txt") && !missing("a"), "{differences:?}");
    assert!(missing("a/008.txt") && missing("nothing"));
    assert_eq!(fs::read_dir(setup.target()).unwrap().count(), 1);
}

#[test]
fn a_missing_or_damaged_block_costs_its_file_alone() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let manifest = capture(&setup.store, &setup.source());
    // Remove the chunk of one small file, and one chunk of the large one.
    let small = Cid::of(Codec::Raw, &noise(50, 50 * 37));
    let large = {
        let mut writer = FileWriter::new(setup.store.clone(), types::BlockScheme::plain());
        writer.write(&noise(1000, 12_000_000)).unwrap();
        writer.finish().unwrap().cid
    };
    let node = setup.store.get(&large).unwrap().unwrap();
    let chunk = types::links(Codec::DagCbor, &node).unwrap()[20];
    let holes: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let mut stack = vec![manifest];
    while let Some(cid) = stack.pop() {
        if cid == small || cid == chunk {
            continue;
        }
        let block = setup.store.get_encoded(&cid).unwrap().unwrap();
        stack.extend(types::links(cid.codec(), &block.decode().unwrap()).unwrap());
        holes.put(&[block]).unwrap();
    }
    let report = restore(
        &blocks(&holes),
        manifest,
        &setup.target(),
        &RestoreOptions::default(),
        &Progress::default(),
    )
    .unwrap();
    // The large file has two names.
    assert_eq!(report.failed.len(), 3, "{report:?}");
    assert!(!setup.target().join("a/050.txt").exists());
    assert!(!setup.target().join("a/b/large").exists());
    assert!(setup.target().join("a/051.txt").exists());
    // When the blocks are back, the rest is restored.
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert!(report.is_complete() && report.bytes < 13_000_000, "{report:?}");
    setup.assert_same();
}

/// Returns a file entry that refers to any node.
fn entry(at: &str, cid: Cid, size: u64, blake3: Hash) -> Entry {
    Entry {
        path: path(at),
        kind: EntryKind::File { cid, size, blake3, is_sparse: false },
        metadata: Metadata { mode: 0o644, ..Metadata::default() },
        error: None,
    }
}

#[test]
fn blocks_that_make_up_another_file_are_refused() {
    let setup = Setup::new();
    let content = noise(3, 3_000_000);
    let mut writer = FileWriter::new(setup.store.clone(), types::BlockScheme::plain());
    writer.write(&content).unwrap();
    let cid = writer.finish().unwrap().cid;
    let hash = Hash::of(&content);
    let dataset = Dataset { tree: cid, size: 3_000_000, filename: None, mimetype: None };
    let node = dataset.encode(&types::BlockScheme::plain()).unwrap();
    let wrong_kind = node.cid();
    setup.store.put(&[EncodedBlock::plain(node)]).unwrap();
    let entries = [
        entry("a", cid, 3_000_000, hash),
        entry("b", cid, 3_000_000, Hash::of(b"something else")),
        entry("c", cid, 2_999_999, hash),
        entry("d", cid, 3_000_001, hash),
        entry("e", wrong_kind, 3_000_000, hash),
        entry("f", Cid::of(Codec::Raw, b"not there"), 9, Hash::of(b"not there")),
    ];
    let manifest = manifest(&setup.store, Metadata { mode: 0o755, ..Default::default() }, &entries);
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert_eq!((report.made, report.failed.len()), (1, 5), "{report:?}");
    let names: Vec<_> =
        fs::read_dir(setup.target()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a"], "nothing half-made is left");
}

/// Two names of a file may have been scanned at different times.
#[test]
fn names_of_one_file_with_other_content_are_files_of_their_own() {
    let setup = Setup::new();
    let mut entries = Vec::new();
    for (at, content) in [("a", "old"), ("b", "new"), ("c", "old"), ("d", "new")] {
        let block = types::Block::new(Codec::Raw, content.as_bytes()).unwrap();
        let hash = Hash::of(content.as_bytes());
        let mut entry = entry(at, block.cid(), 3, hash);
        entry.metadata.hard_link = Some(7);
        setup.store.put(&[EncodedBlock::plain(block)]).unwrap();
        entries.push(entry);
    }
    let manifest = manifest(&setup.store, Metadata { mode: 0o755, ..Default::default() }, &entries);
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert!(report.is_complete(), "{report:?}");
    let read = |at: &str| fs::read(setup.target().join(at)).unwrap();
    assert_eq!(["a", "b", "c", "d"].map(read), [b"old", b"new", b"old", b"new"]);
    let inode = |at: &str| fs::metadata(setup.target().join(at)).unwrap().ino();
    assert_eq!((inode("a"), inode("b")), (inode("c"), inode("d")));
    assert_ne!(inode("a"), inode("b"));
}

#[test]
fn a_manifest_that_is_no_tree_is_refused() {
    let setup = Setup::new();
    let file = |at: &str| entry(at, Cid::of(Codec::Raw, b""), 0, Hash::of(b""));
    for (entries, what) in [
        (vec![file("b"), file("a")], "out of order"),
        (vec![file("a"), file("a/b")], "in a file"),
        (vec![file("x/y")], "in nothing"),
    ] {
        let manifest = manifest(&setup.store, Metadata::default(), &entries);
        let result = setup.restore(manifest, &RestoreOptions::default());
        assert!(matches!(result, Err(RestoreError::Manifest(_))), "{what}: {result:?}");
    }
    let not_one = Cid::of(Codec::DagCbor, b"nothing");
    assert!(setup.restore(not_one, &RestoreOptions::default()).is_err());
}

#[test]
fn a_stopped_restore_goes_on_where_it_was() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let manifest = capture(&setup.store, &setup.source());
    let progress = Progress::default();
    progress.stop();
    let blocks = blocks(&setup.store);
    let options = RestoreOptions::default();
    let result = restore(&blocks, manifest, &setup.target(), &options, &progress);
    assert!(matches!(result, Err(RestoreError::Stopped)), "{result:?}");
    let report = setup.restore(manifest, &options).unwrap();
    assert!(report.is_complete(), "{report:?}");
    setup.assert_same();
}

#[test]
fn owners_that_are_left_are_counted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let setup = Setup::new();
    for (name, owner) in [("a", 12_345), ("b", 12_345), ("c", 0)] {
        let path = setup.source().join(name);
        fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).unwrap();
    }
    let manifest = capture(&setup.store, &setup.source());
    let options = RestoreOptions { owners: OwnerPolicy::Leave, ..RestoreOptions::default() };
    let report = setup.restore(manifest, &options).unwrap();
    assert_eq!((report.owners_not_set, report.not_set.len()), (2, 0), "{report:?}");
}

#[test]
fn a_root_that_is_not_made_for_the_restore_keeps_its_mode_and_that_is_told() {
    let setup = Setup::new();
    fs::write(setup.source().join("a"), "a").unwrap();
    fs::set_permissions(setup.source(), fs::Permissions::from_mode(0o701)).unwrap();
    let manifest = capture(&setup.store, &setup.source());
    fs::create_dir_all(setup.target()).unwrap();
    fs::write(setup.target().join("mine"), "mine").unwrap();
    let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
    assert!(report.is_complete() && report.skipped.len() == 1, "{report:?}");
    // An unchanged root is not reported.
    fs::remove_dir_all(setup.target()).unwrap();
    for _ in 0..2 {
        let report = setup.restore(manifest, &RestoreOptions::default()).unwrap();
        assert!(report.is_complete() && report.not_set.is_empty(), "{report:?}");
        setup.assert_same();
        let [a, b] = [setup.source(), setup.target()].map(|dir| fs::metadata(dir).unwrap());
        assert_eq!((a.mode(), a.modified().unwrap()), (b.mode(), b.modified().unwrap()));
    }
}

#[test]
fn the_root_can_be_asked_for() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let manifest = capture(&setup.store, &setup.source());
    let selection = Selection::new(vec![RelPath::root(), path("a/b")]);
    let options = RestoreOptions { selection, ..RestoreOptions::default() };
    let report = setup.restore(manifest, &options).unwrap();
    assert!(report.is_complete(), "{report:?}");
    setup.assert_same();
}

/// A supplier that stops the restore while it returns the last blocks.
#[derive(Debug)]
struct Stopping(Arc<dyn restore::Blocks>, Cid, Arc<Progress>);

impl restore::Blocks for Stopping {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<bytes::Bytes>>, BlocksError> {
        if wanted.contains(&self.1) {
            self.2.stop();
        }
        self.0.get(wanted)
    }
}

#[test]
fn a_restore_that_was_stopped_at_its_very_end_is_not_complete() {
    let setup = Setup::new();
    for name in ["a", "b", "c"] {
        fs::write(setup.source().join(name), name).unwrap();
    }
    fs::hard_link(setup.source().join("a"), setup.source().join("z")).unwrap();
    fs::set_permissions(setup.source(), fs::Permissions::from_mode(0o701)).unwrap();
    let manifest = capture(&setup.store, &setup.source());
    let options = RestoreOptions::default();
    // By then, the workers have all entries.
    let progress = Arc::new(Progress::default());
    let last = Cid::of(Codec::Raw, b"c");
    let stopping: Arc<dyn restore::Blocks> =
        Arc::new(Stopping(blocks(&setup.store), last, progress.clone()));
    let result = restore(&stopping, manifest, &setup.target(), &options, &progress);
    assert!(matches!(result, Err(RestoreError::Stopped)), "{result:?}");
    assert!(!setup.target().join("c").exists());
    // The run that resumes the restore also sets the mode and the time of the root.
    let report = setup.restore(manifest, &options).unwrap();
    assert!(report.is_complete() && report.not_set.is_empty(), "{report:?}");
    setup.assert_same();
    let [a, b] = [setup.source(), setup.target()].map(|dir| fs::metadata(dir).unwrap());
    assert_eq!((a.mode(), a.modified().unwrap()), (b.mode(), b.modified().unwrap()));
}

#[test]
fn the_manifest_is_written_out_whole() {
    let setup = Setup::new();
    some_tree(&setup.source());
    let cid = capture(&setup.store, &setup.source());
    let manifest = restore::Manifest::open(blocks(&setup.store), cid).unwrap();
    let mut out = Vec::new();
    manifest.write_json(&mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let files = json["files"].as_array().unwrap();
    let stats = manifest.header().stats;
    assert_eq!(files.len() as u64, stats.total_files + stats.total_dirs);
    assert_eq!((&json["version"], &json["sequence_number"]), (&"2".into(), &1.into()));
    assert!(
        files.iter().any(|file| file["path"] == "a/b/large" && file["size_bytes"] == 12_000_000)
    );
}

/// A supplier that counts the bytes of the blocks in memory.
#[derive(Debug)]
struct Held {
    store: Arc<dyn BlockStore>,
    now: Arc<AtomicUsize>,
    most: AtomicUsize,
}

/// The bytes of one block, counted until they are dropped.
struct Counted {
    bytes: bytes::Bytes,
    now: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.now.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl restore::Blocks for Held {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<bytes::Bytes>>, BlocksError> {
        let found = blocks(&self.store).get(wanted)?;
        let count = |bytes: bytes::Bytes| {
            let now = self.now.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
            self.most.fetch_max(now, Ordering::Relaxed);
            bytes::Bytes::from_owner(Counted { bytes, now: self.now.clone() })
        };
        Ok(found.into_iter().map(|bytes| bytes.map(count)).collect())
    }
}

/// The content in memory is limited by the number of workers, not by the length of the
/// files.
#[test]
fn a_restore_holds_few_bytes_at_once() {
    let setup = Setup::new();
    for n in 0..6 {
        fs::write(setup.source().join(format!("{n}")), noise(n, 40 << 20)).unwrap();
    }
    let manifest = capture(&setup.store, &setup.source());
    let held = Arc::new(Held {
        store: setup.store.clone(),
        now: Arc::default(),
        most: AtomicUsize::new(0),
    });
    let workers = 2;
    let options = RestoreOptions { workers, ..RestoreOptions::default() };
    let blocks: Arc<dyn restore::Blocks> = held.clone();
    let report =
        restore(&blocks, manifest, &setup.target(), &options, &Progress::default()).unwrap();
    assert!(report.is_complete(), "{report:?}");
    setup.assert_same();
    // Three groups of 4 MiB, each exceeded by a last chunk of up to 1 MiB.
    let most = held.most.load(Ordering::Relaxed);
    assert!(most <= workers * 3 * (5 << 20), "{most} bytes");
    assert_eq!(held.now.load(Ordering::Relaxed), 0);
}
