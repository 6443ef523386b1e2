//! A folder becomes manifests: first, after changes, after restarts.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Setup, noise};

fn sample(setup: &Setup) {
    setup.write("a.txt", "hello");
    setup.write("empty", "");
    setup.write("dir/b", noise(1, 200_000));
    setup.write("dir/deep/c", noise(2, 3_000_000));
    std::fs::create_dir(setup.path("empty dir")).unwrap();
    symlink("../elsewhere", setup.path("dir/link")).unwrap();
    std::fs::hard_link(setup.path("a.txt"), setup.path("dir/again")).unwrap();
    std::fs::set_permissions(setup.path("a.txt"), PermissionsExt::from_mode(0o640)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_manifest_is_the_folder() {
    let mut setup = Setup::stopped();
    sample(&setup);
    setup.start();
    let published = setup.sync().await;
    assert_eq!(published.sequence_number.0, 1);
    setup.check(&published);
    let (header, _) = setup.manifest(&published);
    assert_eq!(header.previous, None);
    assert_eq!(header.folder_name, "docs");
    assert!(header.held.is_none());
    // Nothing has changed: nothing is published, and nothing is read.
    setup.calm().await;
    let read = setup.files_read();
    assert_eq!(setup.sync().await, published);
    assert_eq!(setup.files_read(), read);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_nothing_and_publishes_the_same_again() {
    let mut setup = Setup::stopped();
    sample(&setup);
    setup.start();
    let first = setup.calm().await;
    setup.restart().await;
    assert_eq!(setup.published(), [first.clone(), first.clone()]);
    assert_eq!(setup.sync().await, first);
    assert_eq!(setup.files_read(), 0);
    setup.check(&first);
    // What changes while it is off is found.
    setup.stop().await;
    setup.write("a.txt", "hello again");
    setup.write("new", "new");
    std::fs::remove_dir_all(setup.path("dir/deep")).unwrap();
    setup.start();
    let second = setup.sync().await;
    assert_eq!(second.sequence_number.0, 2);
    setup.check(&second);
    let (header, _) = setup.manifest(&second);
    assert_eq!(header.previous, Some(first.manifest_cid));
    assert_eq!(header.stats.deleted_files, 2);
    setup.stop().await;
}
