//! The simulated disk loses the changes that it should, and no others.

use super::*;

fn disk_with(content: &[u8]) -> (SimDisk, Box<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/d")).unwrap();
    let file = disk.create(Path::new("/d/f")).unwrap();
    file.write_at(&[content], 0).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path)).ok()?;
    let mut content = vec![0; 100_000];
    let read = file.read_at(&mut content, 0).unwrap();
    content.truncate(read);
    Some(content)
}

#[test]
fn only_what_was_synced_survives_a_power_cut() {
    let (disk, file) = disk_with(b"one");
    assert_eq!(content(&disk.crash(Power::Dropped), "/d/f"), None);
    assert_eq!(content(&disk.crash(Power::Kept), "/d/f").unwrap(), b"one");
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(content(&disk.crash(Power::Dropped), "/d/f").unwrap(), b"");
    file.sync().unwrap();
    file.write_at(&[b"two!"], 3).unwrap();
    assert_eq!(content(&disk.crash(Power::Dropped), "/d/f").unwrap(), b"one");
    assert_eq!(content(&disk.crash(Power::Torn), "/d/f").unwrap(), b"onetw");
}

#[test]
fn a_failed_sync_loses_what_it_was_to_write_for_good() {
    let (disk, file) = disk_with(b"one");
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.set_fault(disk.operations(), Fault::Fail(io::ErrorKind::Other));
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok());
    assert_eq!(content(&disk, "/d/f").unwrap(), b"one");
    assert_eq!(content(&disk.crash(Power::Dropped), "/d/f").unwrap(), b"");
}

#[test]
fn reordering_keeps_any_part_and_repeats_by_its_seed() {
    let (disk, file) = disk_with(&[1; 40_000]);
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[&[2; 40_000]], 40_000).unwrap();
    let images: BTreeSet<_> =
        (0..20).map(|seed| content(&disk.crash(Power::Reordered(seed)), "/d/f")).collect();
    assert!(images.len() > 10);
    let twice = [0, 0].map(|seed| content(&disk.crash(Power::Reordered(seed)), "/d/f"));
    assert_eq!(twice[0], twice[1]);
}

#[test]
fn death_leaves_the_operation_done_or_not() {
    let (disk, file) = disk_with(b"");
    disk.set_fault(disk.operations(), Fault::Die);
    assert!(file.write_at(&[b"x"], 0).is_err());
    assert!(disk.is_dead());
    assert!(disk.open(Path::new("/d/f")).is_err());
    assert_eq!(content(&disk.crash(Power::Kept), "/d/f").unwrap(), b"x");
}

#[test]
fn a_full_disk_refuses_growth_alone() {
    let (disk, file) = disk_with(b"12345");
    disk.set_capacity(Some(8));
    assert_eq!(disk.space(Path::new("/d")).unwrap().free, 3);
    let error = file.write_at(&[b"123456789"], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.write_at(&[b"abc"], 0).unwrap();
    file.truncate(1).unwrap();
    file.write_at(&[b"1234567"], 1).unwrap();
}

#[test]
fn a_rule_fails_its_operations_on_its_paths_for_as_long_as_it_says() {
    let (disk, file) = disk_with(b"12345");
    disk.create(Path::new("/d/other")).unwrap();
    let armed = disk.add_fault(FaultRule::reads(EIO).on("d/f").after(1).times(2));
    assert_eq!(content(&disk, "/d/other").unwrap(), b"");
    assert_eq!(file.len().unwrap(), 5, "the first operation succeeds");
    let failed = [file.len().map(|_| ()), disk.open(Path::new("/d/f")).map(|_| ())];
    for error in failed.map(Result::unwrap_err) {
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    }
    assert_eq!(content(&disk, "/d/f").unwrap(), b"12345", "two failures and no more");
    assert_eq!((armed.failures(), armed.matches()), (2, 5));
    disk.clear_fault_rules();

    // Every operation that reads, by kind.
    let list = || disk.list(Path::new("/d")).map(|_| ());
    let len = || file.len().map(|_| ());
    let read = || file.read_at(&mut [0], 0).map(|_| ());
    let open = || disk.open(Path::new("/d/f")).map(|_| ());
    let space = || disk.space(Path::new("/d")).map(|_| ());
    let all: [(Op, &dyn Fn() -> io::Result<()>); 5] = [
        (Op::List, &list),
        (Op::Len, &len),
        (Op::Read, &read),
        (Op::Open, &open),
        (Op::Space, &space),
    ];
    for (op, _) in &all {
        disk.add_fault(FaultRule::new(*op, EACCES));
        for (other, call) in &all {
            assert_eq!(call().is_err(), op == other, "{op:?} fails, {other:?} is called");
        }
        disk.clear_fault_rules();
    }
}

#[test]
fn a_rule_with_bytes_fails_reads_and_writes_of_these_bytes_alone() {
    let (disk, file) = disk_with(b"12345");
    disk.add_fault(FaultRule::new([Op::Read, Op::Write, Op::Len], EIO).bytes(2..4));
    for (offset, len, fails) in [(0, 2, false), (0, 3, true), (3, 1, true), (4, 1, false)] {
        assert_eq!(file.read_at(&mut vec![0; len], offset).is_err(), fails, "{offset}, {len}");
        assert_eq!(file.write_at(&[&vec![1; len]], offset).is_err(), fails, "{offset}, {len}");
    }
    assert_eq!(file.len().unwrap(), 5);
}

#[test]
fn a_rule_fails_changes_too_and_knows_a_file_by_its_present_name() {
    let (disk, file) = disk_with(b"12345");
    disk.add_fault(FaultRule::new(Op::Rename, EIO).on("/d/f").times(1));
    let rename = || disk.rename(Path::new("/d/f"), Path::new("/d/g"));
    assert!(rename().is_err());
    assert!(content(&disk, "/d/f").is_some() && content(&disk, "/d/g").is_none());
    rename().unwrap();
    disk.add_fault(FaultRule::new(Op::CHANGES, EROFS).on("/d/g"));
    let error = file.write_at(&[b"x"], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(disk.remove(Path::new("/d/g")).unwrap_err().kind(), error.kind());
    disk.create(Path::new("/d/h")).unwrap();
    assert_eq!(content(&disk.crash(Power::Kept), "/d/g").unwrap(), b"12345");
}

#[test]
fn reads_return_what_a_failed_sync_did_not_write_until_the_cache_is_dropped() {
    let (disk, file) = disk_with(b"one");
    file.sync().unwrap();
    file.write_at(&[b"two"], 3).unwrap();
    disk.add_fault(FaultRule::new(Op::Sync, EIO).times(1));
    assert!(file.sync().is_err());
    file.write_at(&[b"3"], 6).unwrap();
    assert_eq!(content(&disk, "/d/f").unwrap(), b"onetwo3");
    file.drop_cache(u64::MAX);
    assert_eq!(content(&disk, "/d/f").unwrap(), b"one\0\0\x003", "written later, and kept");
}
