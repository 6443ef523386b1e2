//! The index: rows stay a tree, ids lead to the right paths, segments are marked, and durable
//! data survives a failing disk and power cuts.

use std::io::ErrorKind;
use std::sync::Arc;

use disk::RealDisk;
use disk::sim::{Fault, Power, SimDisk};
use jiff::Timestamp;
use types::Xattrs;

use super::row::tests::{dir_row, file_row};
use super::*;

const NOW: i64 = 1_790_000_000;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn open(disk: &SimDisk) -> Result<Index, SyncError> {
    open_in(disk, None)
}

/// Opens the index in a run of the kernel.
fn open_in(disk: &SimDisk, boot: Option<u64>) -> Result<Index, SyncError> {
    Index::open(Arc::new(disk.clone()), Path::new("/state"), 1 << 20, boot)
}

struct Setup {
    disk: SimDisk,
    index: Index,
    folder: FolderId,
}

impl Setup {
    fn new() -> Self {
        let disk = SimDisk::new();
        let index = open(&disk).unwrap();
        let folder: FolderId = "docs".parse().unwrap();
        index.create_folder(&folder, None).unwrap();
        let setup = Self { disk, index, folder };
        setup.apply(&[put("", dir_row(1))]);
        setup
    }

    fn record(&self) -> FolderRecord {
        self.index.folder(&self.folder).unwrap().unwrap()
    }

    fn apply(&self, changes: &[(RelPath, Row, Option<RowStamp>)]) -> Applied {
        let mut batch = Batch::default();
        for (path, row, before) in changes {
            let row = Box::new(row.clone());
            batch.add(path.clone(), Change::Put { row, before: *before });
        }
        self.index.apply(&self.folder, &batch, now()).unwrap()
    }

    fn forget(&self, at: &str, before: Option<RowStamp>) -> Applied {
        let mut batch = Batch::default();
        batch.forget(path(at), before);
        self.index.apply(&self.folder, &batch, now()).unwrap()
    }

    fn row(&self, at: &str) -> Option<Row> {
        self.index.row(self.record().number, &path(at)).unwrap()
    }

    fn paths(&self) -> Vec<String> {
        let record = self.record();
        let mut paths = Vec::new();
        let snapshot = self.index.snapshot().unwrap();
        let each = |path: RelPath, _| {
            paths.push(path.to_string());
            Ok(())
        };
        snapshot.each_row(&folder_range(record.number), each).unwrap();
        paths
    }

    fn stale(&self) -> Vec<String> {
        let segments = self.index.snapshot().unwrap().segments(self.record().number).unwrap();
        let stale = segments.into_iter().filter(|(_, segment)| segment.stale > 0);
        stale.map(|(start, _)| start.to_string()).collect()
    }

    /// Publishes segments with these first paths.
    fn publish(&self, starts: &[&str], counter: u64) {
        let block = |start: &&str| SegmentBlock {
            cid: types::Cid::of(types::Codec::Json, start.as_bytes()),
            first_path: path(start),
            len: 10,
            totals: Totals { files: 1, dirs: 0, bytes: 0 },
        };
        let run = NewRun {
            from: RelPath::root(),
            to: None,
            segments: starts.iter().map(block).collect(),
        };
        let record = self.record();
        let manifest = ManifestRecord {
            sequence: record.sequence().next().unwrap(),
            cid: types::Cid::of(types::Codec::DagCbor, b"x"),
            at: now(),
            folder_name: "Docs".into(),
            folder_path: "/docs".into(),
            totals: Totals::default(),
            is_unfinished: false,
        };
        let new = NewManifest {
            manifest,
            counter,
            pending: record.pending,
            awaiting_confirmation: None,
            runs: vec![run],
        };
        self.index.commit_manifest(&self.folder, &new).unwrap();
    }
}

fn put(at: &str, row: Row) -> (RelPath, Row, Option<RowStamp>) {
    (path(at), row, None)
}

#[test]
fn rows_stay_a_tree() {
    let setup = Setup::new();
    let applied = setup.apply(&[
        put("a", dir_row(2)),
        put("a/x", file_row(10, b"x", 5)),
        put("missing/y", file_row(11, b"y", 5)),
        put("f", file_row(12, b"f", 5)),
        put("f/below", file_row(13, b"z", 5)),
    ]);
    assert_eq!(applied.conflicts, [path("f/below"), path("missing/y")]);
    assert_eq!(setup.paths(), ["", "a", "a/x", "f"]);
    let totals = Totals { files: 2, dirs: 1, bytes: 2 };
    assert_eq!(setup.record().rows, totals);
    // A file replaces a directory: the rows below it are removed.
    let before = setup.row("a").unwrap().stamp;
    setup.apply(&[(path("a"), file_row(14, b"now a file", 6), Some(before))]);
    assert_eq!(setup.paths(), ["", "a", "f"]);
    assert_eq!(setup.index.locate(FileId(10)).unwrap(), None);
    assert_eq!(setup.record().rows, Totals { files: 2, dirs: 0, bytes: 11 });
}

#[test]
fn a_change_is_applied_only_if_the_row_is_unchanged() {
    let setup = Setup::new();
    setup.apply(&[put("f", file_row(10, b"one", 5))]);
    let old = setup.row("f").unwrap().stamp;
    setup.apply(&[(path("f"), file_row(10, b"two", 6), Some(old))]);
    let late = setup.apply(&[(path("f"), file_row(10, b"three", 7), Some(old))]);
    assert_eq!((late.conflicts.len(), late.changes), (1, 0));
    assert_eq!(setup.row("f").unwrap().stamp.size, 3);
    assert_eq!(setup.forget("f", Some(old)).conflicts, [path("f")]);
    assert_eq!(setup.apply(&[put("f", file_row(10, b"four", 7))]).conflicts.len(), 1);
    assert!(setup.row("f").is_some());
    let now = setup.row("f").unwrap().stamp;
    assert_eq!(setup.forget("f", Some(now)).changes, 1);
    assert_eq!(setup.paths(), [""]);
}

#[test]
fn ids_follow_a_rename_and_a_swap() {
    let setup = Setup::new();
    setup.apply(&[put("a", file_row(10, b"A", 5)), put("b", file_row(20, b"B", 5))]);
    let (a, b) = (setup.row("a").unwrap(), setup.row("b").unwrap());
    let swapped = [(path("a"), b.clone(), Some(a.stamp)), (path("b"), a.clone(), Some(b.stamp))];
    assert_eq!(setup.apply(&swapped).changes, 2);
    let at = |id| setup.index.locate(FileId(id)).unwrap().unwrap().1;
    assert_eq!((at(10), at(20)), (path("b"), path("a")));
    let number = setup.record().number;
    assert_eq!(setup.index.by_inode(number, 10).unwrap().unwrap().0, path("b"));
    // a is renamed to c: the new name appears first.
    let moved = setup.row("a").unwrap();
    setup.apply(&[put("c", moved.clone())]);
    setup.forget("a", Some(moved.stamp));
    assert_eq!(at(20), path("c"));
    assert_eq!(setup.index.by_inode(number, 20).unwrap().unwrap().0, path("c"));
    // A removed file has neither an id nor an inode.
    setup.forget("c", Some(moved.stamp));
    assert!(setup.index.locate(FileId(20)).unwrap().is_none());
    assert!(setup.index.by_inode(number, 20).unwrap().is_none());
}

/// A file that is renamed immediately after it was written is read again under its new name.
#[test]
fn a_renamed_file_that_was_read_again_is_not_lost() {
    for (content, lost) in [(b"A", 0), (b"B", 1)] {
        let setup = Setup::new();
        let old = Row { sequence: 0, ..file_row(10, b"A", 5) };
        setup.apply(&[put("a", old.clone())]);
        let mut new = file_row(10, content, 5);
        new.kind = RowKind::File(Content { id: Some(FileId(99)), ..*new.content().unwrap() });
        setup.apply(&[put("b", new)]);
        let before = setup.record().lost;
        setup.forget("a", Some(old.stamp));
        assert_eq!(setup.record().lost - before, lost);
    }
}

#[test]
fn the_names_of_a_file_share_its_id() {
    let setup = Setup::new();
    let linked = Row { hard_link: Some(10), links: 3, sequence: 0, ..file_row(10, b"A", 5) };
    setup.apply(&["a", "b", "c"].map(|name| put(name, linked.clone())));
    let number = setup.record().number;
    let names = |inode| {
        let names = setup.index.names_of_inode(number, inode).unwrap();
        names.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(10), ["a", "b", "c"]);
    let lost = setup.record().lost;
    for (gone, left) in [("c", 2), ("a", 1), ("b", 0)] {
        setup.forget(gone, Some(linked.stamp));
        assert_eq!(names(10).len(), left, "{gone}");
        let located = setup.index.locate(FileId(10)).unwrap();
        assert_eq!(located.is_some(), left > 0, "{gone}");
    }
    assert_eq!(setup.record().lost, lost + 1, "one content was lost");
    // A removed folder leaves no names.
    setup.apply(&["a", "b"].map(|name| put(name, linked.clone())));
    setup.index.remove_folder(&setup.folder).unwrap();
    assert_eq!(names(10), [""; 0]);
}

/// An earlier version did not have the table of names.
#[test]
fn an_index_of_format_2_is_converted() {
    let setup = Setup::new();
    let linked = Row { hard_link: Some(10), links: 2, ..file_row(10, b"A", 5) };
    let single = file_row(20, b"B", 5);
    setup.apply(&[put("a", linked.clone()), put("b", linked), put("single", single)]);
    let number = setup.record().number;
    setup
        .index
        .write("change", |txn| {
            txn.delete_multimap_table(LINKS)?;
            txn.open_table(META)?.insert("format", FORMAT_WITHOUT_LINKS)?;
            Ok(())
        })
        .unwrap();
    let Setup { disk, index, .. } = setup;
    drop(index);
    for _ in 0..2 {
        let index = open(&disk).unwrap();
        assert_eq!(index.names_of_inode(number, 10).unwrap().len(), 2);
        assert_eq!(index.names_of_inode(number, 20).unwrap().len(), 1);
    }
}

#[test]
fn a_change_marks_its_segment_and_no_other() {
    let setup = Setup::new();
    assert_eq!(setup.stale(), [""]);
    let rows = ["a", "b", "c", "d"]
        .map(|name| put(name, file_row(u64::from(name.as_bytes()[0]), b"x", 1)));
    setup.apply(&rows);
    setup.publish(&["a", "c"], setup.record().counter);
    assert_eq!(setup.stale(), [] as [&str; 0]);
    assert_eq!(setup.record().pending, 0);
    let d = setup.row("d").unwrap();
    // A change that no manifest shows marks no segment.
    let mut same = d.clone();
    same.stamp.ctime.0 += 1;
    setup.apply(&[(path("d"), same.clone(), Some(d.stamp))]);
    assert_eq!(setup.stale(), [] as [&str; 0]);
    let changed = file_row(100, b"other", 9);
    setup.apply(&[(path("d"), changed, Some(same.stamp))]);
    assert_eq!(setup.stale(), ["c"]);
    setup.apply(&[put("aa", file_row(5, b"new", 1))]);
    assert_eq!(setup.stale(), ["", "c"]);
    assert_eq!(setup.record().pending, 2);
}

#[test]
fn a_change_during_a_publication_is_for_the_next() {
    let setup = Setup::new();
    setup.apply(&[put("a", file_row(1, b"x", 1))]);
    let cut = setup.record().counter;
    setup.apply(&[put("b", file_row(2, b"y", 1))]);
    setup.publish(&["a"], cut);
    assert_eq!(setup.stale(), [""]);
    setup.publish(&["a"], setup.record().counter);
    assert_eq!(setup.stale(), [] as [&str; 0]);
    setup.publish(&[], setup.record().counter);
    let segments = setup.index.snapshot().unwrap().segments(setup.record().number).unwrap();
    assert_eq!(segments, [(RelPath::root(), SegmentRow::unwritten(0))]);
}

#[test]
fn the_mtime_of_a_directory_requires_no_manifest() {
    let setup = Setup::new();
    setup.apply(&[put("d", dir_row(2))]);
    setup.publish(&["d"], setup.record().counter);
    let mut later = setup.row("d").unwrap();
    let before = Some(later.stamp);
    later.stamp.mtime.0 += 10;
    let applied = setup.apply(&[(path("d"), later.clone(), before)]);
    assert_eq!(applied.changes, 0);
    assert_eq!(setup.stale(), [""]);
    let before = Some(later.stamp);
    later.mode = 0o700;
    later.xattrs = Xattrs::from([(b"user.a".to_vec(), b"b".to_vec())]);
    assert_eq!(setup.apply(&[(path("d"), later, before)]).changes, 1);
}

#[test]
fn errors_stay_until_the_path_is_readable_or_gone() {
    let setup = Setup::new();
    setup.apply(&[put("f", file_row(1, b"x", 1))]);
    let mut batch = Batch::default();
    batch.add(path("f"), Change::Fail { what: "no".into(), is_marked: true });
    batch.add(path("g"), Change::Fail { what: "nor this".into(), is_marked: true });
    assert_eq!(setup.index.apply(&setup.folder, &batch, now()).unwrap().changes, 1);
    // The same error again is no change.
    setup.publish(&[], setup.record().counter);
    assert_eq!(setup.index.apply(&setup.folder, &batch, now()).unwrap().changes, 0);
    assert_eq!(setup.stale(), [] as [&str; 0]);
    assert_eq!(setup.record().errors, 2);
    let row = setup.row("f").unwrap();
    assert_eq!(row.error.as_deref(), Some("no"));
    assert_eq!(row.content().unwrap().id, Some(FileId(1)));
    setup.apply(&[(path("f"), file_row(1, b"x", 1), Some(row.stamp))]);
    let number = setup.record().number;
    let errors = setup.index.errors(number, 10).unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].0.clone(), &errors[0].1.what[..]), (path("g"), "nor this"));
    setup.index.keep_errors(&setup.folder, |path| path.as_bytes() == b"g").unwrap();
    assert_eq!(setup.record().errors, 1);
    setup.forget("g", None);
    assert_eq!(setup.record().errors, 0);
}

#[test]
fn only_the_loss_of_old_content_is_counted() {
    let setup = Setup::new();
    let old = |inode, content: &[u8]| Row { hour: 1000, ..file_row(inode, content, 1) };
    setup.apply(&[
        put("gone", old(1, b"1")),
        put("moved", old(2, b"2")),
        put("new", Row { hour: 0, ..file_row(3, b"3", 1) }),
        put("rewritten", old(4, b"4")),
        put("touched", old(5, b"5")),
    ]);
    let stamp = |name: &str| Some(setup.row(name).unwrap().stamp);
    let later = |inode, content: &[u8]| Row { hour: 0, ..file_row(inode, content, 2) };
    let content = *old(5, b"5").content().unwrap();
    setup.apply(&[
        put("moved-to", setup.row("moved").unwrap()),
        (path("rewritten"), later(40, b"other"), stamp("rewritten")),
        (path("touched"), Row { kind: RowKind::File(content), ..later(5, b"5") }, stamp("touched")),
    ]);
    for name in ["gone", "moved", "new"] {
        setup.forget(name, stamp(name));
    }
    assert_eq!(setup.record().recent_losses().0, 2, "gone and rewritten");
    assert_eq!(setup.row("touched").unwrap().hour, 1000);
    assert_eq!(setup.row("rewritten").unwrap().hour, hour_of(now()));
}

#[test]
fn a_removed_folder_leaves_nothing() {
    let setup = Setup::new();
    let other: FolderId = "other".parse().unwrap();
    setup.index.create_folder(&other, None).unwrap();
    let rows: Vec<_> = (0..2500_u64)
        .map(|n| put(&format!("f{n:05}"), file_row(n + 10, &n.to_le_bytes(), 1)))
        .collect();
    setup.apply(&rows);
    let number = setup.record().number;
    setup.index.remove_folder(&setup.folder).unwrap();
    assert!(setup.index.folder(&setup.folder).unwrap().is_none());
    assert!(setup.index.locate(FileId(10)).unwrap().is_none());
    let read = |txn: &ReadTransaction| {
        use redb::ReadableTableMetadata;
        let left = txn.open_table(FILES)?.len()?
            + txn.open_table(BY_ID)?.len()?
            + txn.open_table(BY_INODE)?.len()?;
        Ok((left, txn.open_table(SEGMENTS)?.len()?))
    };
    assert_eq!(setup.index.read(read).unwrap(), (0, 1));
    // Its number is not used again.
    let record = setup.index.create_folder(&setup.folder, None).unwrap();
    assert!(record.number > number);
}

#[test]
fn a_subtree_of_many_rows_is_removed_completely() {
    let setup = Setup::new();
    let mut rows = vec![put("d", dir_row(2))];
    rows.extend((0..2500_u64).map(|n| put(&format!("d/{n:05}"), file_row(n + 10, b"x", 1))));
    rows.push(put("d-", file_row(3, b"stays", 1)));
    setup.apply(&rows);
    assert_eq!(setup.forget("d", Some(dir_row(2).stamp)).changes, 2501);
    assert_eq!(setup.paths(), ["", "d-"]);
    assert_eq!(setup.record().rows, Totals { files: 1, dirs: 0, bytes: 5 });
}

#[test]
fn ids_are_never_used_twice_and_a_second_process_is_kept_out() {
    let setup = Setup::new();
    let first = setup.index.file_id();
    assert!(setup.index.file_id() > first);
    assert!(matches!(open(&setup.disk), Err(SyncError::Locked(_))));
    drop(setup.index);
    let again = open(&setup.disk).unwrap();
    assert!(again.file_id().0 >> IDS_BITS > first.0 >> IDS_BITS);
}

#[test]
fn another_format_and_damage_are_refused_and_nothing_is_replaced() {
    let setup = Setup::new();
    setup
        .index
        .write("write", |txn| {
            txn.open_table(META)?.insert("format", 9)?;
            Ok(())
        })
        .unwrap();
    drop(setup.index);
    let error = open(&setup.disk).unwrap_err().to_string();
    assert!(error.contains("format 9") && error.contains("index.redb"), "{error}");
    let file = Path::new("/state/index.redb");
    setup.disk.damage(file, |bytes| bytes[..64].fill(7));
    assert!(matches!(open(&setup.disk), Err(SyncError::Index { .. })));
    setup.disk.damage(file, |bytes| assert_eq!(bytes[..64], [7; 64]));
}

/// Rows are written while the disk fails once, at every operation in turn. The index works
/// again immediately, and everything that was reported as written exists.
#[test]
fn a_disk_that_fails_once_is_survived_without_a_restart() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        for at in 0.. {
            let setup = Setup::new();
            setup.disk.set_fault(setup.disk.operations() + at, Fault::Fail(kind));
            let mut batch = Batch::default();
            let row = Box::new(file_row(7, b"x", 1));
            batch.add(path("f"), Change::Put { row, before: None });
            let result = setup.index.apply(&setup.folder, &batch, now());
            let is_over = setup.disk.operations() <= at || result.is_ok();
            setup.disk.clear_fault();
            if result.is_err() && setup.row("f").is_none() {
                setup.index.apply(&setup.folder, &batch, now()).unwrap();
            }
            assert!(setup.row("f").is_some(), "{kind:?} at {at}");
            assert_eq!(setup.paths(), ["", "f"]);
            if is_over {
                assert!(at > 3, "the fault never happened");
                break;
            }
        }
    }
}

/// The power is cut at every operation in turn, and any part of the unsynced data survives.
/// Everything that was reported as written exists, and each batch completely or not at all.
#[test]
fn a_power_cut_at_any_moment_leaves_complete_batches() {
    let powers =
        [Power::Kept, Power::Dropped, Power::Torn, Power::Reordered(1), Power::Reordered(2)];
    for at in 0.. {
        let setup = Setup::new();
        setup.disk.set_fault(setup.disk.operations() + at, Fault::Die);
        let mut written = 0;
        for n in 0..3_u64 {
            let mut batch = Batch::default();
            for part in ["a", "b"] {
                let row = Box::new(file_row(n + 10, &n.to_le_bytes(), 1));
                batch.add(path(&format!("{part}{n}")), Change::Put { row, before: None });
            }
            match setup.index.apply(&setup.folder, &batch, now()) {
                Ok(_) => written = n + 1,
                Err(_) => break,
            }
        }
        for power in powers {
            let image = setup.disk.crash(power);
            let index = open(&image).unwrap_or_else(|error| panic!("{at} {power:?}: {error}"));
            let number = index.folder(&setup.folder).unwrap().unwrap().number;
            for n in 0..3 {
                let exists = ["a", "b"]
                    .map(|part| index.row(number, &path(&format!("{part}{n}"))).unwrap().is_some());
                assert_eq!(exists[0], exists[1], "{at} {power:?}");
                assert!(exists[0] || n >= written, "{at} {power:?}: batch {n} is lost");
            }
        }
        if !setup.disk.is_dead() {
            assert!(at > 10);
            break;
        }
    }
}

#[test]
fn it_works_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let folder: FolderId = "docs".parse().unwrap();
    for round in 0..3 {
        let index =
            Index::open(Arc::new(RealDisk), &dir.path().join("sync"), 1 << 20, None).unwrap();
        if round == 0 {
            index.create_folder(&folder, None).unwrap();
        }
        index.update(&folder, |record| record.pending += 1).unwrap();
        assert_eq!(index.folders().unwrap()[0].1.pending, round + 1);
    }
}

#[test]
fn a_power_cut_during_the_creation_leaves_an_index_that_can_be_opened() {
    let mut powers = vec![Power::Kept, Power::Dropped, Power::Torn];
    powers.extend((0..8).map(Power::Reordered));
    for at in 0.. {
        let disk = SimDisk::new();
        disk.set_fault(at, Fault::Die);
        let opened = open(&disk);
        for power in &powers {
            let image = disk.crash(*power);
            open(&image).unwrap_or_else(|error| panic!("{at} {power:?}: {error}"));
        }
        if !disk.is_dead() {
            opened.unwrap();
            assert!(at > 10);
            break;
        }
    }
}

#[test]
fn recent_files_are_not_trusted_after_a_crash_of_the_computer() {
    let Setup { disk, index, folder } = Setup::new();
    let scanned = |index: &Index, second: i64| {
        let at = Timestamp::from_second(second).unwrap();
        index.update(&folder, |record| record.last_scan = Some(at)).unwrap();
    };
    let since = |index: &Index| {
        let since = index.folder(&folder).unwrap().unwrap().distrusted_since;
        since.map(Timestamp::as_second)
    };
    scanned(&index, NOW);
    drop(index);
    // The process ends in one way or another, and the computer runs on.
    for is_closed in [false, true, false] {
        let index = open_in(&disk, Some(1)).unwrap();
        assert_eq!(since(&index), None);
        if is_closed {
            index.close().unwrap();
        }
    }
    // The run of the kernel is unknown, and known again.
    assert_eq!(since(&open_in(&disk, None).unwrap()), None);
    // Another run, without an end of the process in the last one.
    let index = open_in(&disk, Some(2)).unwrap();
    assert_eq!(since(&index), Some(NOW - 600));
    // One more crash, before the files were read.
    scanned(&index, NOW + 5000);
    drop(index);
    let index = open_in(&disk, Some(3)).unwrap();
    assert_eq!(since(&index), Some(NOW - 600));
    index.update(&folder, |record| record.distrusted_since = None).unwrap();
    index.close().unwrap();
    drop(index);
    assert_eq!(since(&open_in(&disk, Some(4)).unwrap()), None);
}
