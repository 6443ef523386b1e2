//! Files with several names: each is read once, and a save through one name reaches all.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::Write as _;

use common::{Setup, folder, id, noise};
use sync::SyncSettings;
use types::{EntryKind, Hash, RelPath};

const NAMES: [&str; 4] = ["a0/w", "d1/x", "d2/y", "z9/v"];

fn link(setup: &Setup, from: &str, to: &str) {
    fs::create_dir_all(setup.path(to).parent().unwrap()).unwrap();
    fs::hard_link(setup.path(from), setup.path(to)).unwrap();
}

/// Waits until a manifest has this content for all names, and checks that no manifest had
/// two contents for them.
async fn until_all_have(setup: &Setup, names: &[&str], content: &[u8]) {
    let wanted = Hash::of(content);
    let contents = |published: &types::PublishedManifest| {
        let entries = setup.entries(published);
        let hash = |name: &&str| match entries.get(&RelPath::new(*name).unwrap()).map(|e| &e.kind) {
            Some(EntryKind::File { blake3, .. }) => Some(*blake3),
            _ => None,
        };
        names.iter().filter_map(hash).collect::<Vec<_>>()
    };
    setup
        .until("the new content", |_| {
            let published = setup.published();
            published.last().is_some_and(|last| {
                let contents = contents(last);
                contents.len() == names.len() && contents.iter().all(|hash| *hash == wanted)
            })
        })
        .await;
    for published in setup.published() {
        let contents = contents(&published);
        assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "a state that never existed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_through_one_name_is_a_save_of_all() {
    let mut setup = Setup::stopped();
    setup.write("d1/x", "version 1");
    for name in NAMES {
        if name != "d1/x" {
            link(&setup, "d1/x", name);
        }
    }
    setup.start();
    setup.calm().await;
    for (round, name) in NAMES.into_iter().enumerate() {
        let content = format!("VERSION {round}, through {name}");
        fs::write(setup.path(name), &content).unwrap();
        until_all_have(&setup, &NAMES, content.as_bytes()).await;
    }
    // All names of the manifest are one file, with one mode.
    fs::set_permissions(setup.path("z9/v"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
        .unwrap();
    setup
        .until("the mode", |_| {
            let entries = setup.entries(setup.published().last().unwrap());
            NAMES.iter().all(|name| entries[&RelPath::new(*name).unwrap()].metadata.mode == 0o640)
        })
        .await;
    setup.check(setup.published().last().unwrap());
}

/// The watcher reports a new link in the directory of the new name only.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_comes_later_is_the_same_file() {
    let setup = Setup::new();
    setup.write("old/name", "content");
    setup.calm().await;
    link(&setup, "old/name", "new/name");
    let names = ["old/name", "new/name"];
    until_all_have(&setup, &names, b"content").await;
    setup
        .until("one id for both names", |_| {
            let entries = setup.entries(setup.published().last().unwrap());
            let link = |name: &str| entries[&RelPath::new(name).unwrap()].metadata.hard_link;
            link(names[0]).is_some() && link(names[0]) == link(names[1])
        })
        .await;
    fs::write(setup.path("new/name"), "more content").unwrap();
    until_all_have(&setup, &names, b"more content").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_reaches_the_name_in_another_folder() {
    let mut setup = Setup::stopped();
    setup.write("name", "version 1");
    let other = setup.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::hard_link(setup.path("name"), other.join("name")).unwrap();
    setup.settings.send_modify(|settings: &mut SyncSettings| {
        settings.folders.push(folder("other", other.clone()));
    });
    setup.start();
    setup.calm().await;
    setup.handle().scan_now(&id("other")).await.unwrap();
    fs::write(other.join("name"), "version 2").unwrap();
    setup.until_published("name", b"version 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_once_whatever_the_number_of_its_names() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    setup.clock.set_file_time(1);
    for number in 0..20 {
        let content = noise(number, if number == 7 { 3_000_000 } else { 1000 });
        setup.write(&format!("2026-01/f{number}"), content);
        for date in 2..=8 {
            link(&setup, &format!("2026-01/f{number}"), &format!("2026-0{date}/f{number}"));
        }
    }
    setup.start();
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), 20);
    // A further date, and the end of the oldest: the files are the same.
    for number in 0..20 {
        link(&setup, &format!("2026-01/f{number}"), &format!("2026-09/f{number}"));
    }
    setup.check(&setup.sync().await);
    // A link changes the ctime, so each file is read, under one of its names.
    assert_eq!(setup.files_read(), 40);
    fs::remove_dir_all(setup.path("2026-01")).unwrap();
    let published = setup.sync().await;
    setup.check(&published);
    // The full scan reads the files whose number of names has changed before, each once.
    assert!(setup.files_read() <= 60, "{}", setup.files_read());
    setup.check(&setup.calm().await);
    let read = setup.files_read();
    assert!(setup.manifest(&published).0.held.is_none(), "nothing is lost with one of the names");
    // The blocks are served under the names that are left.
    for (_, entry) in setup.entries(&published) {
        if let EntryKind::File { cid, size, .. } = entry.kind {
            assert_eq!(setup.content(cid).unwrap().len() as u64, size);
        }
    }
    // A change with the old mtime, at the same time as a new number of names.
    let file = setup.path("2026-02/f3");
    let mtime = fs::metadata(&file).unwrap().modified().unwrap();
    let mut writer = fs::File::options().write(true).open(&file).unwrap();
    writer.write_all(b"other").unwrap();
    writer.set_modified(mtime).unwrap();
    drop(writer);
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), read + 1);
    // The same at the same time as a new name: the next full scan reads the file.
    let mut writer = fs::File::options().write(true).open(&file).unwrap();
    writer.write_all(b"again").unwrap();
    writer.set_modified(mtime).unwrap();
    drop(writer);
    link(&setup, "2026-02/f3", "2026-09/another");
    setup.sync().await;
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_file_go_one_after_the_other() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    setup.clock.set_file_time(1);
    setup.write(NAMES[0], noise(1, 300_000));
    for name in &NAMES[1..] {
        link(&setup, NAMES[0], name);
    }
    setup.start();
    let mut published = setup.sync().await;
    for name in NAMES {
        let entries = setup.entries(&published);
        let EntryKind::File { cid, .. } = entries[&RelPath::new(name).unwrap()].kind else {
            panic!("{name}")
        };
        assert_eq!(setup.content(cid).unwrap(), noise(1, 300_000), "before {name} is removed");
        fs::remove_file(setup.path(name)).unwrap();
        setup.write("kept", name);
        published = setup.sync().await;
        setup.check(&published);
    }
    assert_eq!(setup.names(&published), ["a0", "d1", "d2", "kept", "z9"]);
    // Each time, the full scan reads the file whose number of names had changed before.
    assert!(setup.files_read() <= 12, "{}", setup.files_read());
}
