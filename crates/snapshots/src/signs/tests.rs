//! Folders that are encrypted in different ways, and folders that users change.

use std::collections::BTreeMap;
use std::sync::Arc;

use store::{BlockRead as _, BlockWrite as _, MemStore};
use types::ManifestHeader;

use super::*;

type Tree = BTreeMap<String, Vec<u8>>;

/// A folder with its history of signs.
struct Folder {
    store: Arc<MemStore>,
    header: ManifestHeader,
    tree: Tree,
    signs: Signs,
    second: i64,
}

impl Folder {
    fn new(tree: Tree) -> Self {
        let store = Arc::new(MemStore::new());
        let header = header(&store, &tree);
        Self { store, header, tree, signs: Signs::default(), second: 1_700_000_000 }
    }

    /// Makes a snapshot of the folder, this many seconds after the last one.
    fn save(&mut self, seconds: i64, change: impl FnOnce(&mut Tree)) -> Option<&str> {
        let files = self.tree.len() as u64;
        change(&mut self.tree);
        self.second += seconds;
        let new = header(&self.store, &self.tree);
        let before = Before { signs: &self.signs, header: &self.header, files };
        let now = Timestamp::from_second(self.second).unwrap();
        self.signs = find_signs(&*self.store, &before, &new, now).unwrap();
        self.header = new;
        self.signs.suspicion()
    }
}

fn header(store: &Arc<MemStore>, tree: &Tree) -> ManifestHeader {
    let entries = testkit::entries(store, tree);
    testkit::header(store, net::PeerId::random(), "docs", 1, &entries)
}

/// Returns bytes as a cipher makes them.
fn encrypted(seed: usize, len: usize) -> Vec<u8> {
    testkit::noise(0x5eed_0000 + seed, len)
}

/// A folder as people have it: texts, photos, archives, programs.
fn documents(files: usize) -> Tree {
    let file = |number: usize| {
        let noise = testkit::noise(number, 2000 + number % 3000);
        let (extension, content) = match number % 5 {
            0 => {
                ("txt", format!("Letter {number}. Dear all, nothing new here.\n").repeat(20).into())
            }
            1 => ("jpg", [b"\xff\xd8\xff\xe0\0\x10JFIF\0", &noise[..]].concat()),
            2 => ("docx", [b"PK\x03\x04\x14\0\x06\0\x08\0", &noise[..]].concat()),
            3 => ("pdf", [b"%PDF-1.7\n", &noise[..]].concat()),
            _ => ("csv", format!("{number};1.5;north\n").repeat(40).into_bytes()),
        };
        (format!("d{:02}/file{number:05}.{extension}", number % 7), content)
    };
    (0..files).map(file).collect()
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.keys().cloned().collect()
}

fn encrypt(tree: &mut Tree, path: &str, seed: usize) {
    let len = tree[path].len() + 16;
    tree.insert(path.to_owned(), encrypted(seed, len));
}

/// The ways in which programs encrypt a folder: what they do with one file.
const WAYS: [fn(&mut Tree, &str, usize); 6] = [
    encrypt,
    |tree, path, seed| {
        let content = tree.remove(path).unwrap();
        tree.insert(format!("{path}.locked"), encrypted(seed, content.len()));
    },
    |tree, path, seed| {
        let content = tree.remove(path).unwrap();
        let stem = &path[..path.rfind('.').unwrap()];
        tree.insert(format!("{stem}.crypt"), encrypted(seed, content.len()));
    },
    |tree, path, seed| {
        let content = tree.remove(path).unwrap();
        tree.insert(format!("{seed:016x}"), encrypted(seed, content.len()));
    },
    |tree, path, seed| {
        // With a header of its own, as `openssl enc` writes it.
        let content = tree.remove(path).unwrap();
        let salted = [b"Salted__", &encrypted(seed, content.len())[..]].concat();
        tree.insert(format!("{path}.enc"), salted);
    },
    |tree, path, _| {
        // A weak cipher: the bytes are not distributed equally.
        let content = tree[path].iter().map(|byte| byte ^ 0xa5).collect();
        tree.insert(path.to_owned(), content);
    },
];

#[test]
fn encryption_is_found_by_the_time_two_percent_are_lost() {
    for (way, encrypt) in WAYS.iter().enumerate() {
        for (files, step) in [(60, 1), (60, 60), (400, 1), (400, 40), (2000, 200), (2000, 10)] {
            let mut folder = Folder::new(documents(files));
            let limit = 20.max(files / 50);
            for (done, chunk) in paths(&folder.tree).chunks(step).enumerate() {
                let lost = (done + 1) * step;
                let found = folder.save(120, |tree| {
                    for (at, path) in chunk.iter().enumerate() {
                        encrypt(tree, path, done * step + at);
                    }
                });
                if found.is_some() {
                    break;
                }
                assert!(lost < limit, "way {way}: {lost} of {files} lost, {step} in a snapshot");
            }
        }
    }
}

#[test]
fn files_that_are_written_encrypted_before_the_old_ones_are_removed_are_found() {
    let mut folder = Folder::new(documents(100));
    let old = paths(&folder.tree);
    assert_eq!(
        folder.save(60, |tree| {
            for (at, path) in old.iter().enumerate().take(40) {
                let len = tree[path].len();
                tree.insert(format!("{path}.locked"), encrypted(at, len));
            }
        }),
        None
    );
    assert!(
        folder
            .save(60, |tree| {
                for path in old.iter().take(40) {
                    tree.remove(path);
                }
            })
            .is_some()
    );
    // The other order: moved away, and brought back encrypted.
    let mut folder = Folder::new(documents(100));
    folder.save(60, |tree| old.iter().take(40).for_each(|path| drop(tree.remove(path))));
    assert!(
        folder
            .save(3600, |tree| {
                for (at, _) in old.iter().enumerate().take(40) {
                    tree.insert(format!("{at:08x}"), encrypted(at, 3000));
                }
            })
            .is_some()
    );
}

#[test]
fn the_suspicion_stays_while_the_files_are_lost_and_ends_when_they_are_back() {
    const DAY: i64 = 86_400;
    for way in WAYS {
        let mut folder = Folder::new(documents(100));
        let before = folder.tree.clone();
        assert!(
            folder
                .save(60, |tree| {
                    for (at, path) in paths(tree).iter().enumerate().take(50) {
                        way(tree, path, at);
                    }
                })
                .is_some()
        );
        // Neither time nor other changes, nor many new files, end it.
        for day in 0..20 {
            let found = folder.save(DAY, |tree| {
                for number in 0..50 {
                    tree.insert(format!("new-{day}-{number}.txt"), b"a new text\n".to_vec());
                }
            });
            assert!(found.is_some(), "after {day} days");
        }
        assert_eq!(folder.save(DAY, |tree| *tree = before), None);
    }
}

#[test]
fn changes_of_users_and_programs_are_not_suspicious() {
    let photo = |number: usize| [b"\xff\xd8\xff\xe1", &testkit::noise(number, 4000)[..]].concat();
    let source = |number: usize, version: usize| {
        format!("fn f{number}() {{\n    // version {version}\n}}\n").repeat(30).into_bytes()
    };
    let many = |name: &'static str, content: &dyn Fn(usize) -> Vec<u8>| -> Tree {
        (0..500)
            .map(|number| (name.replace('#', &format!("{number:03}")), content(number)))
            .collect()
    };
    let sources = |version| many("src/file#.rs", &move |number| source(number, version));
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let object = |number: usize| [&program[..3000], &number.to_le_bytes()].concat();
    let zlib = |number: usize| [b"\x78\x01", &testkit::noise(number, 300)[..]].concat();
    let mp3 = |number: usize| [b"ID3\x04\0\0\0\0\0\0", &testkit::noise(number, 4000)[..]].concat();
    let mpeg = |number: usize| [b"\xff\xf3\x44\xc4", &testkit::noise(number, 2000)[..]].concat();
    let flac = |number: usize| [b"fLaC\0\0\0\x22", &testkit::noise(number, 9000)[..]].concat();
    let ogg = |number: usize| [b"OggS\0\x02", &testkit::noise(number, 2000)[..]].concat();
    let random = |number: usize| testkit::noise(number + 9_000_000, 4000);
    let pointer = |number: usize| {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{number}\n").into_bytes()
    };
    let gzip = |number: usize| [b"\x1f\x8b\x08\0", &testkit::noise(number, 900)[..]].concat();
    let none = Tree::new();
    let changes: Vec<(&str, Tree, Tree)> = vec![
        ("a checkout of another branch", sources(1), sources(2)),
        ("an unpacked archive", none.clone(), sources(1)),
        ("a photo import", none.clone(), many("2026/IMG_#.jpg", &photo)),
        ("edited photos", many("IMG_#.jpg", &photo), many("IMG_#.jpg", &|n| photo(n + 5000))),
        (
            "photos in another format",
            many("IMG_#.jpg", &photo),
            many("IMG_#.webp", &|n| {
                [b"RIFF\0\0\x01\0WEBPVP8 ", &testkit::noise(n, 900)[..]].concat()
            }),
        ),
        ("music with other bit rates", many("#.mp3", &mp3), many("#.mp3", &mpeg)),
        ("music in another format", many("#.flac", &flac), many("#.ogg", &ogg)),
        ("a compiler run", many("o/#.o", &object), many("o/#.o", &|n| object(n + 1000))),
        (
            "a repository that is packed",
            many(".git/objects/#", &zlib),
            [(
                ".git/objects/pack/pack-1.pack".to_owned(),
                [b"PACK\0\0\0\x02", &testkit::noise(3, 90_000)[..]].concat(),
            )]
            .into(),
        ),
        ("files instead of pointers", many("a/#.bin", &pointer), many("a/#.bin", &random)),
        ("pointers instead of files", many("a/#.bin", &random), many("a/#.bin", &pointer)),
        ("rotated logs", many("log/#.log", &|n| source(n, 1)), many("log/#.log.gz", &gzip)),
        ("removed files", sources(1), none.clone()),
        ("a renamed vault of encrypted files", many("vault/#", &random), many("safe/#", &random)),
        (
            "a vault that is encrypted again",
            many("v/#", &random),
            many("v/#", &|n| random(n + 777)),
        ),
        (
            "a repository of encrypted packs",
            many("data/#", &random),
            many("data/1#", &|n| random(n + 600)),
        ),
        ("new encrypted files", none.clone(), many("vault/#", &random)),
        ("a cache", many(".cache/x/#", &|n| source(n, 1)), many(".cache/x/1#", &random)),
        (
            "logs that grow",
            many("#.log", &|n| source(n, 1)),
            many("#.log", &|n| [source(n, 1), source(n, 2)].concat()),
        ),
        ("emptied files", sources(1), many("src/file#.rs", &|_| Vec::new())),
    ];
    for (name, before, after) in changes {
        let mut folder = Folder::new(documents(50));
        folder.save(60, |tree| tree.extend(before.clone()));
        for round in 0..2 {
            // At once, in parts, and back.
            let found = folder.save(600, |tree| {
                for path in before.keys() {
                    tree.remove(path);
                }
                tree.extend(after.clone());
            });
            assert_eq!(found, None, "{name}, round {round}");
            let found = folder.save(600, |tree| {
                for path in after.keys() {
                    tree.remove(path);
                }
            });
            assert_eq!(found, None, "{name}, removed in round {round}");
            assert_eq!(folder.save(600, |tree| tree.extend(before.clone())), None, "{name}");
        }
    }
}

#[test]
fn a_few_encrypted_files_a_week_are_not_suspicious() {
    let mut folder = Folder::new(documents(50));
    for week in 0..30 {
        for number in 0..10 {
            let found = folder.save(60_480, |tree| {
                tree.insert(format!("{week}-{number}.gpg"), encrypted(week * 10 + number, 900));
                let path = paths(tree).into_iter().find(|path| path.ends_with(".txt"));
                path.map(|path| tree.remove(&path));
                tree.insert(format!("{week}-{number}.txt"), b"a text".to_vec());
            });
            assert_eq!(found, None, "week {week}");
        }
    }
}

#[test]
fn many_new_files_do_not_raise_the_limit() {
    let mut folder = Folder::new(documents(100));
    folder.save(60, |tree| {
        for number in 0..5 {
            let path = paths(tree)[number].clone();
            encrypt(tree, &path, number);
        }
    });
    folder.save(60, |tree| {
        for number in 0..5000 {
            tree.insert(format!("x/{number}"), b"nothing".to_vec());
        }
    });
    assert!(
        folder
            .save(60, |tree| {
                for number in 5..20 {
                    let path = paths(tree)[number].clone();
                    encrypt(tree, &path, number);
                }
            })
            .is_some()
    );
}

#[test]
fn the_clock_may_jump() {
    let mut folder = Folder::new(documents(100));
    let old = paths(&folder.tree);
    let jumps = [60, -400 * 86_400, 60, 86_400, -86_400, 2 * 86_400, -10, 60];
    for (round, seconds) in jumps.into_iter().enumerate() {
        folder.save(seconds, |tree| {
            for at in 0..2 {
                encrypt(tree, &old[round * 2 + at], round * 2 + at);
            }
        });
    }
    assert!(folder.signs.suspicion().is_some(), "{:?}", folder.signs);
    assert!(folder.signs.days.len() <= usize::from(WINDOW_DAYS));
}

#[test]
fn unreadable_files_are_not_counted_and_a_missing_manifest_is_an_error() {
    let folder = Folder::new(documents(60));
    let empty = MemStore::new();
    let new = folder.header.clone();
    let before = Before { signs: &folder.signs, header: &folder.header, files: 60 };
    // Both manifests are the same: nothing is read.
    assert!(find_signs(&empty, &before, &new, Timestamp::UNIX_EPOCH).is_ok());
    let other = header(&folder.store, &documents(61));
    assert!(find_signs(&empty, &before, &other, Timestamp::UNIX_EPOCH).is_err());
    // A store that only has the manifests.
    let mut tree = documents(60);
    for path in paths(&tree) {
        encrypt(&mut tree, &path, 7);
    }
    let new = header(&folder.store, &tree);
    let bare = MemStore::new();
    for segment in folder.header.segments.iter().chain(&new.segments) {
        bare.put(&[folder.store.get_encoded(&segment.cid).unwrap().unwrap()]).unwrap();
    }
    let found = find_signs(&bare, &before, &new, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(found, Signs::default());
    assert!(
        find_signs(&*folder.store, &before, &new, Timestamp::UNIX_EPOCH)
            .unwrap()
            .suspicion()
            .is_some()
    );
}

#[test]
fn a_large_change_is_judged_by_samples() {
    let mut folder = Folder::new(documents(12_000));
    let old = paths(&folder.tree);
    assert!(
        folder
            .save(60, |tree| {
                for (at, path) in old.iter().enumerate() {
                    match at % 20 {
                        0 => encrypt(tree, path, at),
                        _ => {
                            let text = format!("a new text {at}\n").repeat(9);
                            tree.insert(path.clone(), text.into_bytes());
                        }
                    }
                }
            })
            .is_some()
    );
    let lost = folder.signs.lost();
    assert!((400..=800).contains(&lost), "{lost} instead of 600");
}
