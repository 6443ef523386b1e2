//! Missing, other and interrupted stores and markers.

use std::sync::Arc;

use disk::sim::{Fault, Power, SimDisk};
use store::{PackStore, StoreOptions};

use super::*;

const DATA: &str = "/data";
const STORE: &str = "/data/store";

fn markers(disk: &SimDisk) -> StoreMarkers<'_> {
    StoreMarkers::new(disk, Path::new(DATA), STORE.into(), "/data/identity.key".into())
}

fn create(disk: &SimDisk, path: &str) {
    disk.create(Path::new(path)).unwrap().sync().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
}

/// A disk with a data directory and a store without markers.
fn unmarked() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(&Path::new(STORE).join("roots")).unwrap();
    create(&disk, "/data/store/format");
    create(&disk, "/data/store/roots/a.log");
    disk
}

fn marked(own: &PeerId) -> SimDisk {
    let disk = unmarked();
    let missing = markers(&disk).check(Some(own)).unwrap().unwrap();
    markers(&disk).write(missing, own).unwrap();
    assert_eq!(markers(&disk).check(Some(own)).unwrap(), None);
    disk
}

/// A new instance, and one that is older than the markers, get them.
#[test]
fn markers_are_written_once() {
    let own = PeerId::random();
    let disk = SimDisk::new();
    disk.create_dir(Path::new(STORE)).unwrap();
    // Nothing exists yet, not even the identity.
    assert!(markers(&disk).check(None).unwrap().is_some());
    let disk = marked(&own);
    let data = read_file(&disk, Path::new("/data/marker.json"), 1000).unwrap();
    let store = read_file(&disk, Path::new("/data/store/marker.json"), 1000).unwrap();
    assert_eq!(data, store);
    let marker: Marker = serde_json::from_slice(&data).unwrap();
    assert_eq!((marker.version, marker.peer_id), (1, own.to_string()));
    assert_eq!(marker.store.len(), 32);
}

#[test]
fn a_store_that_is_missing_or_another_one_is_refused() {
    let own = PeerId::random();
    let disk = marked(&own);
    let check = |disk: &SimDisk| markers(disk).check(Some(&own));
    // Another disk, with an older store.
    disk.lose(Path::new("/data/store/marker.json"));
    assert!(matches!(check(&disk), Err(MarkerError::OtherStore(_))));
    // An empty mount point, or another disk that is empty.
    disk.lose(Path::new("/data/store/roots/a.log"));
    assert!(matches!(check(&disk), Err(MarkerError::StoreMissing(_))));
    disk.lose(Path::new("/data/store/format"));
    assert!(matches!(check(&disk), Err(MarkerError::StoreMissing(_))));
    create(&disk, "/data/store/lost+found");
    assert!(matches!(check(&disk), Err(MarkerError::StoreMissing(_))));
    assert!(matches!(markers(&disk).check_store(), Err(MarkerError::StoreMissing(_))));
    // The store of another data directory of the same instance.
    let [disk, other] = [marked(&own), marked(&own)];
    let bytes = read_file(&other, Path::new("/data/store/marker.json"), 1000).unwrap();
    disk.damage(Path::new("/data/store/marker.json"), |marker| *marker = bytes);
    assert!(matches!(check(&disk), Err(MarkerError::OtherStore(_))));
    // The user has said that it is the right one.
    markers(&disk).remove().unwrap();
    assert!(check(&disk).unwrap().is_some());
}

/// Everything but the marker, and the file with the version, is lost.
#[test]
fn a_store_that_has_lost_its_content_is_refused() {
    let own = PeerId::random();
    let disk = marked(&own);
    disk.lose(Path::new("/data/store/roots/a.log"));
    for lost in ["/data/store/format", "/data/marker.json", "/data/store/marker.json"] {
        let refused = markers(&disk).check(Some(&own));
        assert!(matches!(refused, Err(MarkerError::StoreEmptied(_))), "{lost} {refused:?}");
        let refused = markers(&disk).check_store();
        assert!(matches!(refused, Err(MarkerError::StoreEmptied(_))), "{lost} {refused:?}");
        disk.lose(Path::new(lost));
    }
    // A damaged marker is not a missing one.
    create(&disk, "/data/store/marker.json");
    let refused = markers(&disk).check_store();
    assert!(matches!(refused, Err(MarkerError::StoreEmptied(_))), "{refused:?}");
    disk.lose(Path::new("/data/store/marker.json"));
    // A first start that did not end has left empty directories.
    assert!(markers(&disk).check(Some(&own)).unwrap().is_some());
}

/// Death at every operation of the first start, and loss of power in every way: the next start
/// creates a store, and marks it.
#[test]
fn a_crash_while_the_store_is_created_is_no_reason_to_refuse() {
    let own = PeerId::random();
    let start = |disk: &SimDisk| {
        let missing = markers(disk).check(Some(&own)).map_err(|error| error.to_string())?;
        let options =
            StoreOptions { disk_reserve: 0, background: false, ..StoreOptions::default() };
        let opened = PackStore::open_on(Arc::new(disk.clone()), Path::new(STORE), &options);
        let (store, report) = opened.map_err(|error| error.to_string())?;
        assert!(!report.roots_incomplete);
        if let Some(missing) = missing {
            markers(disk).write(missing, &own).map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(store)
    };
    let powers = [Power::Kept, Power::Dropped, Power::Torn];
    for at in 0.. {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(DATA)).unwrap();
        disk.set_fault(disk.operations() + at, Fault::Die);
        let started = start(&disk);
        for power in powers.into_iter().chain((0..20).map(Power::Reordered)) {
            let next = disk.crash(power);
            let again = start(&next);
            assert!(again.is_ok(), "{at} {power:?}: {:?}", again.err());
            assert_eq!(markers(&next).check(Some(&own)).unwrap(), None, "{at} {power:?}");
        }
        if started.is_ok() {
            assert!(at > 20, "{at}");
            break;
        }
    }
}

/// The first start after an update: there are no markers, and the disk of the store is
/// not mounted.
#[test]
fn a_used_data_directory_without_marker_and_store_is_refused() {
    let own = PeerId::random();
    for name in INSTANCE_NAMES {
        let disk = SimDisk::new();
        disk.create_dir(Path::new(STORE)).unwrap();
        create(&disk, "/data/identity.key");
        create(&disk, "/data/store/lost+found");
        // `init` makes the identity only.
        assert!(markers(&disk).check(Some(&own)).unwrap().is_some());
        create(&disk, &format!("/data/{name}"));
        for own in [Some(&own), None] {
            let refused = markers(&disk).check(own);
            assert!(matches!(refused, Err(MarkerError::StoreMissing(_))), "{name} {refused:?}");
        }
        let refused = markers(&disk).check_store();
        assert!(matches!(refused, Err(MarkerError::StoreMissing(_))), "{name} {refused:?}");
        // The file with the version alone is no store.
        create(&disk, "/data/store/format");
        let refused = markers(&disk).check(Some(&own));
        assert!(matches!(refused, Err(MarkerError::StoreMissing(_))), "{name} {refused:?}");
        // The disk is mounted.
        disk.create_dir(Path::new("/data/store/packs")).unwrap();
        create(&disk, "/data/store/packs/m-1.pack");
        assert!(markers(&disk).check(Some(&own)).unwrap().is_some(), "{name}");
    }
}

#[test]
fn a_lost_or_other_identity_is_refused() {
    let own = PeerId::random();
    for disk in [unmarked(), marked(&own)] {
        assert!(matches!(markers(&disk).check(None), Err(MarkerError::NoIdentity(_))));
    }
    let disk = marked(&own);
    let other = PeerId::random();
    let refused = markers(&disk).check(Some(&other));
    assert!(matches!(refused, Err(MarkerError::OtherInstance { .. })), "{refused:?}");
    // A data directory from a backup, or a new one, beside the store of another.
    disk.lose(Path::new("/data/marker.json"));
    let refused = markers(&disk).check(Some(&other));
    assert!(matches!(refused, Err(MarkerError::OtherInstance { .. })), "{refused:?}");
    // A data directory of this instance from a backup that is older than the markers.
    let missing = markers(&disk).check(Some(&own)).unwrap().unwrap();
    markers(&disk).write(missing, &own).unwrap();
    assert_eq!(markers(&disk).check(Some(&own)).unwrap(), None);
    // Readers do not know the identity.
    markers(&disk).check_store().unwrap();
}

#[test]
fn a_marker_that_cannot_be_read_is_not_missing() {
    let own = PeerId::random();
    for path in ["/data/marker.json", "/data/store/marker.json"] {
        for damage in [&b""[..], b"{}", b"{\"version\":2,\"store\":\"\",\"peer_id\":\"\"}"] {
            let disk = marked(&own);
            disk.damage(Path::new(path), |bytes| *bytes = damage.to_vec());
            let refused = markers(&disk).check(Some(&own));
            assert!(matches!(refused, Err(MarkerError::Damaged(_))), "{refused:?}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    // A directory in the place of the marker cannot be read.
    std::fs::create_dir_all(dir.path().join("store/marker.json")).unwrap();
    let (store, key) = (dir.path().join("store"), dir.path().join("identity.key"));
    let markers = StoreMarkers::new(&disk::RealDisk, dir.path(), store, key);
    std::fs::create_dir_all(dir.path().join("store/packs/x")).unwrap();
    let refused = markers.check(Some(&own));
    assert!(matches!(refused, Err(MarkerError::Unreadable { .. })), "{refused:?}");
    // A file in the place of the store is no store.
    std::fs::remove_dir_all(dir.path().join("store")).unwrap();
    std::fs::write(dir.path().join("store"), "").unwrap();
    let refused = markers.check_store();
    assert!(matches!(refused, Err(MarkerError::NotADirectory(_))), "{refused:?}");
}

/// Death at every operation and loss of power in every way: the next start accepts
/// what it finds and completes the markers.
#[test]
fn a_crash_between_the_markers_is_no_reason_to_refuse() {
    let own = PeerId::random();
    let powers = [Power::Kept, Power::Dropped, Power::Torn];
    for at in 0.. {
        let disk = unmarked();
        let first = disk.operations();
        disk.set_fault(first + at, Fault::Die);
        let missing = markers(&disk).check(Some(&own)).unwrap().unwrap();
        let written = markers(&disk).write(missing, &own);
        for power in powers.into_iter().chain((0..20).map(Power::Reordered)) {
            let next = disk.crash(power);
            if let Some(missing) = markers(&next).check(Some(&own)).unwrap() {
                markers(&next).write(missing, &own).unwrap();
            }
            assert_eq!(markers(&next).check(Some(&own)).unwrap(), None, "{at} {power:?}");
        }
        if written.is_ok() {
            assert!(at > 6);
            break;
        }
    }
}

#[test]
fn fuzz_marker() {
    let own = PeerId::random();
    let disk = marked(&own);
    let path = Path::new(STORE).join(FILE);
    let example = read_file(&disk, &path, LEN_MAX).unwrap();
    let good = Marker::parse(&example).unwrap();
    fuzzing::target!(&[example], |bytes: &[u8]| {
        let Some(found) = Marker::parse(bytes) else { return };
        assert_eq!(Marker::parse(&serde_json::to_vec(&found).unwrap()), Some(found.clone()));
        // Only the marker of this store is accepted.
        disk.damage(&path, |content| *content = bytes.to_vec());
        let is_accepted = markers(&disk).check(Some(&own)).is_ok();
        assert_eq!(is_accepted, found == good);
    });
}
