//! A tree in which a mounted file system does not answer.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use fstree::{ReadError, SourceTree, TreeReader as _, Visit, WalkItem, WalkOptions};
use types::RelPath;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

#[test]
fn nothing_on_a_mount_that_hangs_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "m/inner", "m2", "z"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("file"), name).unwrap();
    }
    let mut tree = SourceTree::open(dir.path()).unwrap();
    tree.set_hung(vec![path("m")]);
    let mut asked = Vec::new();
    let decide = |path: &RelPath, _| {
        asked.push(path.to_string());
        Visit::Descend
    };
    let items: Vec<_> =
        tree.walk(&RelPath::root(), WalkOptions::default(), decide).unwrap().collect();
    let mut found = Vec::new();
    for item in items {
        match item {
            WalkItem::Entry(entry) => found.push(entry.path.to_string()),
            WalkItem::Error(ReadError::NotAnswering { path, mount }) => {
                assert_eq!((path.to_string(), mount.to_string()), ("m".into(), "m".into()));
            }
            WalkItem::Error(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(found, ["a", "a/file", "m2", "m2/file", "z", "z/file"]);
    // Not even the caller's rules are applied, since they may read files in it.
    assert_eq!(asked, found);
    let is_hung = |error: ReadError| matches!(error, ReadError::NotAnswering { .. });
    for inner in ["m", "m/inner", "m/inner/file"] {
        assert!(is_hung(tree.examine(&path(inner)).unwrap_err()));
        assert!(is_hung(tree.open_file(&path(inner)).unwrap_err()));
        assert!(is_hung(tree.dir_handle(&path(inner)).unwrap_err()));
        assert!(is_hung(tree.mount_on_the_way(&path(inner)).unwrap_err()));
        assert!(is_hung(
            tree.walk(&path(inner), WalkOptions::default(), |_, _| Visit::Record).err().unwrap()
        ));
    }
    tree.set_hung(Vec::new());
    assert!(tree.examine(&path("m/inner/file")).unwrap().is_some());
}
