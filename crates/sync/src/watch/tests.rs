//! No change goes untold: one by one, in storms, through an overflow, and when
//! numbers are used again.

mod state;
mod storm;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::inotify::ReadFlags;

use super::tree::Tree;
use super::*;

/// No test waits for longer.
const DEADLINE: Duration = Duration::from_secs(30);

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes.as_ref()).unwrap()
}

fn dirty(bytes: impl AsRef<[u8]>) -> Hint {
    Hint::Dirty(path(bytes))
}

fn below(bytes: impl AsRef<[u8]>) -> Hint {
    Hint::DirtyBelow(path(bytes))
}

/// A folder in a directory of its own, and all hints about it.
struct Fixture {
    dir: tempfile::TempDir,
    watcher: Watcher,
    hints: Receiver<(u32, Hint)>,
    /// A folder of its own, for [`Fixture::settle`].
    last: tempfile::TempDir,
    settled: std::cell::Cell<u32>,
}

/// After all others in the order of hints that are handed over together.
const LAST: u32 = u32::MAX;

impl Fixture {
    fn new(limit: Option<usize>) -> Self {
        let (sender, hints) = channel();
        let wake = move |folder, hint| {
            let _ = sender.send((folder, hint));
        };
        let watcher = Watcher::start(limit, wake).unwrap();
        let (dir, last) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Self { dir, watcher, hints, last, settled: std::cell::Cell::new(0) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add_to(&self, folder: u32, dir: &str, at: &Path) -> AddDir {
        self.watcher.add_dir(folder, &path(dir), File::open(at).unwrap().as_fd())
    }

    fn add(&self, dir: &str) {
        let added = self.add_to(1, dir, &self.at(dir));
        assert!(matches!(added, AddDir::Watched), "{dir}: {added:?}");
    }

    /// Makes and watches directories.
    fn make(&self, dirs: &[&str]) {
        for dir in dirs {
            fs::create_dir_all(self.at(dir)).unwrap();
            self.add(dir);
        }
    }

    /// Waits until each of these came; returns what else did.
    fn expect(&self, folder: u32, wanted: &[Hint]) -> BTreeSet<(u32, Hint)> {
        let mut missing: Vec<_> = wanted.iter().map(|hint| (folder, hint.clone())).collect();
        let mut others = BTreeSet::new();
        let start = Instant::now();
        while !missing.is_empty() {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match self.hints.recv_timeout(left) {
                Ok(hint) if missing.contains(&hint) => missing.retain(|other| *other != hint),
                Ok(hint) => {
                    others.insert(hint);
                }
                Err(_) => panic!("no {missing:?}, but {others:?}"),
            }
        }
        others
    }

    /// All that came of what was done until now: the system tells in order.
    fn settle(&self) -> BTreeSet<(u32, Hint)> {
        self.settled.set(self.settled.get() + 1);
        let name = format!("{}", self.settled.get());
        let added = self.add_to(LAST, "", self.last.path());
        assert!(matches!(added, AddDir::Watched), "{added:?}");
        fs::create_dir(self.last.path().join(&name)).unwrap();
        let mut all = self.expect(LAST, &[below(&name)]);
        all.retain(|(folder, _)| *folder != LAST);
        all
    }

    /// Whether a hint comes of what was done since [`Fixture::settle`].
    fn is_told(&self, hint: Hint) -> bool {
        self.settle().contains(&(1, hint))
    }
}

/// What is done to a directory.
type Change<'a> = &'a dyn Fn(&Path);

/// In a directory for each, so that no hint can come from another.
#[test]
fn each_change_is_told_where_it_was() {
    let f = Fixture::new(None);
    let cases: &[(&str, Change)] = &[
        ("create", &|dir| drop(File::create(dir.join("new")).unwrap())),
        ("write", &|dir| fs::write(dir.join("file"), "other").unwrap()),
        ("truncate", &|dir| {
            OpenOptions::new().write(true).open(dir.join("file")).unwrap().set_len(1).unwrap();
        }),
        ("save", &|dir| {
            fs::write(dir.join("temp"), "new").unwrap();
            fs::rename(dir.join("temp"), dir.join("file")).unwrap();
        }),
        ("mode", &|dir| {
            fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("own mode", &|dir| {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("time", &|dir| {
            let file = File::open(dir.join("file")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("link", &|dir| fs::hard_link(dir.join("file"), dir.join("hard")).unwrap()),
        ("symlink", &|dir| symlink("file", dir.join("soft")).unwrap()),
        ("rename", &|dir| fs::rename(dir.join("file"), dir.join("other")).unwrap()),
        ("delete", &|dir| fs::remove_file(dir.join("file")).unwrap()),
        ("recreate", &|dir| {
            fs::remove_file(dir.join("file")).unwrap();
            fs::write(dir.join("file"), "again").unwrap();
        }),
        ("rmdir", &|dir| fs::remove_dir(dir.join("sub")).unwrap()),
        ("rmdir b\u{e4}", &|dir| fs::remove_dir(dir.join("sub")).unwrap()),
    ];
    for (name, change) in cases {
        f.make(&[name]);
        fs::write(f.at(name).join("file"), "content").unwrap();
        fs::create_dir(f.at(name).join("sub")).unwrap();
        f.settle();
        change(&f.at(name));
        assert!(f.is_told(dirty(name)), "{name}");
    }
}

#[test]
fn a_file_that_is_never_closed_is_told_of() {
    let f = Fixture::new(None);
    f.make(&["log"]);
    let mut file = File::create(f.at("log/file")).unwrap();
    f.settle();
    for _ in 0..3 {
        file.write_all(b"line\n").unwrap();
        assert!(f.is_told(dirty("log")));
    }
}

#[test]
fn moves_are_told_at_both_ends() {
    let f = Fixture::new(None);
    let outside = tempfile::tempdir_in(f.dir.path().parent().unwrap()).unwrap();
    f.make(&["a", "b", "c", "d", "e"]);
    fs::write(f.at("a/file"), "").unwrap();
    fs::create_dir_all(f.at("c/dir/sub")).unwrap();
    fs::write(outside.path().join("in"), "").unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    f.settle();
    let expect = |hints: &[Hint]| {
        let told = f.settle();
        assert!(hints.iter().all(|hint| told.contains(&(1, hint.clone()))), "{hints:?} {told:?}");
    };

    fs::rename(f.at("a/file"), f.at("b/file")).unwrap();
    expect(&[dirty("a"), dirty("b")]);
    fs::rename(f.at("b/file"), outside.path().join("out")).unwrap();
    expect(&[dirty("b")]);
    fs::rename(outside.path().join("in"), f.at("a/in")).unwrap();
    expect(&[dirty("a")]);
    fs::rename(f.at("c/dir"), f.at("d/dir")).unwrap();
    expect(&[dirty("c"), dirty("d"), below("d/dir")]);
    fs::rename(outside.path().join("dir"), f.at("e/dir")).unwrap();
    expect(&[dirty("e"), below("e/dir")]);
}

#[test]
fn a_directory_that_was_replaced_is_told_of_and_the_old_one_is_not() {
    let f = Fixture::new(None);
    let outside = tempfile::tempdir_in(f.dir.path().parent().unwrap()).unwrap();
    f.make(&["", "a"]);
    fs::rename(f.at("a"), outside.path().join("old")).unwrap();
    f.make(&["a"]);
    f.settle();
    fs::write(f.at("a/file"), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::from([(1, dirty("a"))]));
    fs::write(outside.path().join("old/file"), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::new());
    assert_eq!(f.watcher.watched(1), 2);
}

#[test]
fn what_is_removed_is_told_of_no_more() {
    let f = Fixture::new(None);
    f.make(&["", "a", "a/b", "ab", "a/b/c"]);
    f.add_to(2, "", &f.at("a"));
    f.settle();
    f.watcher.remove_below(1, &path("a"));
    assert_eq!((f.watcher.watched(1), f.watcher.watched(2)), (2, 1));
    fs::write(f.at("a/b/file"), "").unwrap();
    fs::write(f.at("a/file"), "").unwrap();
    fs::write(f.at("ab/file"), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::from([(1, dirty("ab")), (2, dirty(""))]));
    f.watcher.remove_folder(1);
    assert_eq!((f.watcher.watched(1), f.watcher.watched(2)), (0, 1));
    assert_eq!(f.watcher.shared.state.lock().tree.descriptors(), 2);
    // And again, for it may come back.
    f.make(&["a", "a/b"]);
    fs::write(f.at("a/b/more"), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::from([(1, dirty("a/b"))]));
}

#[test]
fn a_root_that_goes_is_told_of() {
    for how in [fs::remove_dir as fn(PathBuf) -> io::Result<()>, |root: PathBuf| {
        fs::rename(&root, root.with_extension("moved"))
    }] {
        let f = Fixture::new(None);
        fs::create_dir(f.at("root")).unwrap();
        f.add_to(1, "", &f.at("root"));
        how(f.at("root")).unwrap();
        assert!(f.is_told(Hint::RootGone));
    }
}

#[test]
fn overlapping_folders_are_both_told() {
    let f = Fixture::new(None);
    f.make(&["", "a", "a/b"]);
    f.settle();
    // A folder in the folder, and the same one twice.
    f.add_to(2, "", &f.at("a"));
    f.add_to(2, "b", &f.at("a/b"));
    f.add_to(3, "a/b", &f.at("a/b"));
    assert_eq!(f.watcher.shared.state.lock().tree.descriptors(), 4);
    fs::write(f.at("a/b/file"), "").unwrap();
    let mut all = BTreeSet::from([(1, dirty("a/b")), (2, dirty("b")), (3, dirty("a/b"))]);
    assert_eq!(f.settle(), all);
    f.watcher.remove_folder(1);
    fs::write(f.at("a/b/other"), "").unwrap();
    all.remove(&(1, dirty("a/b")));
    assert_eq!(f.settle(), all);
    assert_eq!((f.watcher.watched(1), f.watcher.watched(2), f.watcher.watched(3)), (0, 2, 1));
}

#[test]
fn the_limit_is_kept_and_what_is_below_it_goes_on() {
    let f = Fixture::new(Some(10));
    let dirs: Vec<_> = (0..20).map(|n| format!("d{n}")).collect();
    for (n, dir) in dirs.iter().enumerate() {
        fs::create_dir(f.at(dir)).unwrap();
        let added = f.add_to(1, dir, &f.at(dir));
        assert!(
            if n < 10 {
                matches!(added, AddDir::Watched)
            } else {
                matches!(added, AddDir::LimitReached)
            },
            "{n} {added:?}"
        );
    }
    assert_eq!(f.watcher.watched(1), 10);
    // Once more is no more.
    f.add("d0");
    fs::write(f.at("d9/file"), "").unwrap();
    f.expect(1, &[dirty("d9")]);
    // What is freed is free, by us or by the system.
    f.watcher.remove_below(1, &path("d0"));
    f.add("d10");
    fs::remove_dir(f.at("d1")).unwrap();
    f.expect(1, &[below("d1")]);
    f.add("d11");
    assert_eq!(f.watcher.watched(1), 10);
}

#[test]
fn names_are_bytes() {
    let f = Fixture::new(None);
    f.add("");
    let name = b"\xff\xfe \n";
    let dir = f.dir.path().join(OsStr::from_bytes(name));
    fs::create_dir(&dir).unwrap();
    f.expect(1, &[below(name)]);
    f.watcher.add_dir(1, &path(name), File::open(&dir).unwrap().as_fd());
    f.settle();
    fs::write(dir.join(OsStr::from_bytes(b"\x80")), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::from([(1, dirty(name))]));
}

#[test]
fn no_link_leads_a_watch_elsewhere() {
    let f = Fixture::new(None);
    f.make(&["dir"]);
    let fd = File::open(f.at("dir")).unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::rename(f.at("dir"), f.at("moved")).unwrap();
    symlink(other.path(), f.at("dir")).unwrap();
    f.watcher.add_dir(1, &path("dir"), fd.as_fd());
    f.settle();
    fs::write(f.at("moved/file"), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::from([(1, dirty("dir"))]));
    fs::write(other.path().join("file"), "").unwrap();
    assert_eq!(f.settle(), BTreeSet::new());
    // A file is no directory, whoever says so.
    let file = File::open(f.at("moved/file")).unwrap();
    let added = f.watcher.add_dir(1, &path("file"), file.as_fd());
    assert!(matches!(added, AddDir::Failed(_)), "{added:?}");
    assert_eq!(f.watcher.watched(1), 1);
}

/// A watcher whose first hint is held until the test says so.
fn held() -> (Watcher, Receiver<(u32, Hint)>, std::sync::mpsc::Sender<()>) {
    let (sender, hints) = channel();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let watcher = Watcher::start(None, move |folder, hint| {
        let _ = sender.send((folder, hint));
        // It goes on for good when the test has dropped its end.
        let _ = wait.lock().recv();
    });
    (watcher.unwrap(), hints, go)
}

#[test]
fn saves_in_a_row_are_one_hint() {
    let dir = tempfile::tempdir().unwrap();
    let (watcher, hints, go) = held();
    watcher.add_dir(1, &RelPath::root(), File::open(dir.path()).unwrap().as_fd());
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(hints.recv_timeout(DEADLINE).unwrap(), (1, dirty("")));
    for n in 0..20 {
        fs::write(dir.path().join("temp"), n.to_string()).unwrap();
        fs::rename(dir.path().join("temp"), dir.path().join("file")).unwrap();
    }
    drop(go);
    assert_eq!(hints.recv_timeout(DEADLINE).unwrap(), (1, dirty("")));
    // What comes next comes from what was done next.
    fs::create_dir(dir.path().join("end")).unwrap();
    let next = [(); 2].map(|()| hints.recv_timeout(DEADLINE).unwrap());
    assert_eq!(next, [(1, dirty("")), (1, below("end"))]);
}

#[test]
fn a_queue_that_overflows_is_told_to_all_folders() {
    let dir = tempfile::tempdir().unwrap();
    let (watcher, hints, go) = held();
    for (folder, name) in [(1, "a"), (2, "b")] {
        let at = dir.path().join(name);
        fs::create_dir(&at).unwrap();
        watcher.add_dir(folder, &RelPath::root(), File::open(&at).unwrap().as_fd());
        fs::write(at.join("0"), "").unwrap();
        fs::write(at.join("1"), "").unwrap();
    }
    hints.recv_timeout(DEADLINE).unwrap();
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = text.trim().parse().unwrap();
    let files = ["0", "1"].map(|name| File::open(dir.path().join("a").join(name)).unwrap());
    for n in 0..queue + 100 {
        // Not the same one twice, for the system would make that one event.
        files[n % 2].set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    }
    drop(go);
    let mut missing = BTreeSet::from([(1, Hint::Overflow), (2, Hint::Overflow)]);
    while !missing.is_empty() {
        missing.remove(&hints.recv_timeout(DEADLINE).unwrap());
    }
    // And it goes on.
    fs::create_dir(dir.path().join("b/new")).unwrap();
    while hints.recv_timeout(DEADLINE).unwrap() != (2, below("new")) {}
}

#[test]
fn dropping_it_ends_its_thread_whoever_does() {
    let (sender, hints) = channel();
    let watcher = Watcher::start(None, move |folder, hint| {
        let _ = sender.send((folder, hint));
    });
    drop(watcher.unwrap());
    assert!(matches!(hints.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected)));

    let dir = tempfile::tempdir().unwrap();
    let own: Arc<Mutex<Option<Watcher>>> = Arc::default();
    let of_wake = own.clone();
    let (sender, ended) = channel::<()>();
    let watcher = Watcher::start(None, move |_, _| {
        let _ = &sender;
        drop(of_wake.lock().take());
    });
    let watcher = watcher.unwrap();
    watcher.add_dir(1, &RelPath::root(), File::open(dir.path()).unwrap().as_fd());
    *own.lock() = Some(watcher);
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(ended.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected)));
}

#[test]
fn many_watches_that_are_removed_leave_the_queue_to_others() {
    let f = Fixture::new(None);
    let (watcher, hints, go) = held();
    drop(f.watcher);
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let count = text.trim().parse::<usize>().unwrap() + 100;
    for n in 0..count {
        let at = f.dir.path().join(n.to_string());
        fs::create_dir(&at).unwrap();
        let added = watcher.add_dir(1, &path(n.to_string()), File::open(&at).unwrap().as_fd());
        if matches!(added, AddDir::LimitReached) {
            println!("skipped: fs.inotify.max_user_watches is too small");
            return;
        }
    }
    watcher.add_dir(2, &RelPath::root(), File::open(f.last.path()).unwrap().as_fd());
    // The thread reads nothing while this one removes.
    fs::write(f.last.path().join("file"), "").unwrap();
    assert_eq!(hints.recv_timeout(DEADLINE).unwrap(), (2, dirty("")));
    watcher.remove_folder(1);
    assert_eq!((watcher.watched(1), watcher.watched(2)), (0, 1));
    let text = fs::read_to_string(
        "/proc/self/fdinfo/".to_owned() + &watcher.shared.inotify.as_raw_fd().to_string(),
    )
    .unwrap();
    assert_eq!(text.matches("inotify wd:").count(), 1, "{text}");
    drop(go);
    fs::create_dir(f.last.path().join("end")).unwrap();
    loop {
        match hints.recv_timeout(DEADLINE).unwrap() {
            (2, hint) if hint == below("end") => break,
            (folder, hint) => assert_ne!(hint, Hint::Overflow, "{folder}"),
        }
    }
}
