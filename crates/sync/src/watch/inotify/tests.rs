//! Every change leads to a hint: alone, in storms, through an overflow, and if the system
//! uses a watch descriptor again.

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
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::inotify::ReadFlags;

use super::tree::Tree;
use super::*;

/// Maximum time that a test waits for a hint.
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

/// A folder in a temporary directory, and all hints about it.
struct Fixture {
    dir: tempfile::TempDir,
    watcher: InotifyWatcher,
    hints: Receiver<(u32, Hint)>,
    /// A folder that only [`Fixture::hints_so_far`] uses.
    last: tempfile::TempDir,
    rounds: std::cell::Cell<u32>,
}

/// The last folder in the order of hints that are delivered together.
const LAST: u32 = u32::MAX;

fn sink(sender: Sender<(u32, Hint)>) -> HintSink {
    Box::new(move |folder, hint| {
        let _ = sender.send((folder, hint));
    })
}

impl Fixture {
    fn new(limit: Option<usize>) -> Self {
        let (sender, hints) = channel();
        let watcher = InotifyWatcher::start(limit, sink(sender)).unwrap();
        let (dir, last) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Self { dir, watcher, hints, last, rounds: std::cell::Cell::new(0) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add_to(&self, folder: u32, dir: &str, at: &Path) -> WatchResult {
        self.watcher.watch_fd(folder, &path(dir), File::open(at).unwrap().as_fd())
    }

    fn add(&self, dir: &str) {
        let added = self.add_to(1, dir, &self.at(dir));
        assert!(matches!(added, WatchResult::Watched), "{dir}: {added:?}");
    }

    /// Creates and watches directories.
    fn make(&self, dirs: &[&str]) {
        for dir in dirs {
            fs::create_dir_all(self.at(dir)).unwrap();
            self.add(dir);
        }
    }

    /// Waits until each wanted hint has arrived. Returns the other hints that arrived.
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

    /// Returns the hints for everything that was done so far: the system reports events in
    /// order, so that the hint for one more change is the last.
    fn hints_so_far(&self) -> BTreeSet<(u32, Hint)> {
        self.rounds.set(self.rounds.get() + 1);
        let name = format!("{}", self.rounds.get());
        let added = self.add_to(LAST, "", self.last.path());
        assert!(matches!(added, WatchResult::Watched), "{added:?}");
        fs::create_dir(self.last.path().join(&name)).unwrap();
        let mut all = self.expect(LAST, &[below(&name)]);
        all.retain(|(folder, _)| *folder != LAST);
        all
    }

    /// Reports whether what was done since [`Fixture::hints_so_far`] led to a hint.
    fn is_hinted(&self, hint: Hint) -> bool {
        self.hints_so_far().contains(&(1, hint))
    }
}

/// A change in a directory.
type Change<'a> = &'a dyn Fn(&Path);

/// Each change has a directory of its own, so that no hint can come from another change.
#[test]
fn each_change_is_hinted_where_it_was() {
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
        f.hints_so_far();
        change(&f.at(name));
        assert!(f.is_hinted(dirty(name)), "{name}");
    }
}

#[test]
fn a_write_to_a_file_that_is_never_closed_is_hinted() {
    let f = Fixture::new(None);
    f.make(&["log"]);
    let mut file = File::create(f.at("log/file")).unwrap();
    f.hints_so_far();
    for _ in 0..3 {
        file.write_all(b"line\n").unwrap();
        assert!(f.is_hinted(dirty("log")));
    }
}

#[test]
fn moves_are_hinted_at_both_ends() {
    let f = Fixture::new(None);
    let outside = tempfile::tempdir_in(f.dir.path().parent().unwrap()).unwrap();
    f.make(&["a", "b", "c", "d", "e"]);
    fs::write(f.at("a/file"), "").unwrap();
    fs::create_dir_all(f.at("c/dir/sub")).unwrap();
    fs::write(outside.path().join("in"), "").unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    f.hints_so_far();
    let expect = |hints: &[Hint]| {
        let hinted = f.hints_so_far();
        assert!(
            hints.iter().all(|hint| hinted.contains(&(1, hint.clone()))),
            "{hints:?} {hinted:?}"
        );
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
fn a_directory_that_was_replaced_is_watched_and_the_old_one_is_not() {
    let f = Fixture::new(None);
    let outside = tempfile::tempdir_in(f.dir.path().parent().unwrap()).unwrap();
    f.make(&["", "a"]);
    fs::rename(f.at("a"), outside.path().join("old")).unwrap();
    f.make(&["a"]);
    f.hints_so_far();
    fs::write(f.at("a/file"), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::from([(1, dirty("a"))]));
    fs::write(outside.path().join("old/file"), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::new());
    assert_eq!(f.watcher.watched(1), 2);
}

#[test]
fn an_unwatched_directory_leads_to_no_hint() {
    let f = Fixture::new(None);
    f.make(&["", "a", "a/b", "ab", "a/b/c"]);
    f.add_to(2, "", &f.at("a"));
    f.hints_so_far();
    f.watcher.unwatch_below(1, &path("a"));
    assert_eq!((f.watcher.watched(1), f.watcher.watched(2)), (2, 1));
    fs::write(f.at("a/b/file"), "").unwrap();
    fs::write(f.at("a/file"), "").unwrap();
    fs::write(f.at("ab/file"), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::from([(1, dirty("ab")), (2, dirty(""))]));
    f.watcher.unwatch_folder(1);
    assert_eq!((f.watcher.watched(1), f.watcher.watched(2)), (0, 1));
    assert_eq!(f.watcher.shared.state.lock().tree.descriptors(), 2);
    // The same directories can be watched again.
    f.make(&["a", "a/b"]);
    fs::write(f.at("a/b/more"), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::from([(1, dirty("a/b"))]));
}

#[test]
fn a_root_that_goes_is_hinted() {
    for how in [fs::remove_dir as fn(PathBuf) -> io::Result<()>, |root: PathBuf| {
        fs::rename(&root, root.with_extension("moved"))
    }] {
        let f = Fixture::new(None);
        fs::create_dir(f.at("root")).unwrap();
        f.add_to(1, "", &f.at("root"));
        how(f.at("root")).unwrap();
        assert!(f.is_hinted(Hint::RootGone));
    }
}

#[test]
fn overlapping_folders_both_receive_hints() {
    let f = Fixture::new(None);
    f.make(&["", "a", "a/b"]);
    f.hints_so_far();
    // A folder inside the folder, and one directory twice.
    f.add_to(2, "", &f.at("a"));
    f.add_to(2, "b", &f.at("a/b"));
    f.add_to(3, "a/b", &f.at("a/b"));
    assert_eq!(f.watcher.shared.state.lock().tree.descriptors(), 4);
    fs::write(f.at("a/b/file"), "").unwrap();
    let mut all = BTreeSet::from([(1, dirty("a/b")), (2, dirty("b")), (3, dirty("a/b"))]);
    assert_eq!(f.hints_so_far(), all);
    f.watcher.unwatch_folder(1);
    fs::write(f.at("a/b/other"), "").unwrap();
    all.remove(&(1, dirty("a/b")));
    assert_eq!(f.hints_so_far(), all);
    assert_eq!((f.watcher.watched(1), f.watcher.watched(2), f.watcher.watched(3)), (0, 2, 1));
}

#[test]
fn the_limit_is_kept_and_watches_within_it_work() {
    let f = Fixture::new(Some(10));
    let dirs: Vec<_> = (0..20).map(|n| format!("d{n}")).collect();
    for (n, dir) in dirs.iter().enumerate() {
        fs::create_dir(f.at(dir)).unwrap();
        let added = f.add_to(1, dir, &f.at(dir));
        assert!(
            if n < 10 {
                matches!(added, WatchResult::Watched)
            } else {
                matches!(added, WatchResult::LimitReached)
            },
            "{n} {added:?}"
        );
    }
    assert_eq!(f.watcher.watched(1), 10);
    // A directory that is watched already needs no further watch.
    f.add("d0");
    fs::write(f.at("d9/file"), "").unwrap();
    f.expect(1, &[dirty("d9")]);
    // A watch that this process or the system removed can be used again.
    f.watcher.unwatch_below(1, &path("d0"));
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
    f.watcher.watch_fd(1, &path(name), File::open(&dir).unwrap().as_fd());
    f.hints_so_far();
    fs::write(dir.join(OsStr::from_bytes(b"\x80")), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::from([(1, dirty(name))]));
}

#[test]
fn no_link_leads_a_watch_elsewhere() {
    let f = Fixture::new(None);
    f.make(&["dir"]);
    let fd = File::open(f.at("dir")).unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::rename(f.at("dir"), f.at("moved")).unwrap();
    symlink(other.path(), f.at("dir")).unwrap();
    f.watcher.watch_fd(1, &path("dir"), fd.as_fd());
    f.hints_so_far();
    fs::write(f.at("moved/file"), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::from([(1, dirty("dir"))]));
    fs::write(other.path().join("file"), "").unwrap();
    assert_eq!(f.hints_so_far(), BTreeSet::new());
    // A file cannot be watched as a directory.
    let file = File::open(f.at("moved/file")).unwrap();
    let added = f.watcher.watch_fd(1, &path("file"), file.as_fd());
    assert!(matches!(added, WatchResult::Failed(_)), "{added:?}");
    assert_eq!(f.watcher.watched(1), 1);
}

/// A watcher whose delivery blocks at the first hint, until the test drops the sender.
fn blocked() -> (InotifyWatcher, Receiver<(u32, Hint)>, std::sync::mpsc::Sender<()>) {
    let (sender, hints) = channel();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let sink = Box::new(move |folder, hint| {
        let _ = sender.send((folder, hint));
        // After the test has dropped its end, this returns immediately.
        let _ = wait.lock().recv();
    });
    (InotifyWatcher::start(None, sink).unwrap(), hints, go)
}

#[test]
fn saves_in_a_row_are_one_hint() {
    let dir = tempfile::tempdir().unwrap();
    let (watcher, hints, go) = blocked();
    watcher.watch_fd(1, &RelPath::root(), File::open(dir.path()).unwrap().as_fd());
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(hints.recv_timeout(DEADLINE).unwrap(), (1, dirty("")));
    for n in 0..20 {
        fs::write(dir.path().join("temp"), n.to_string()).unwrap();
        fs::rename(dir.path().join("temp"), dir.path().join("file")).unwrap();
    }
    drop(go);
    assert_eq!(hints.recv_timeout(DEADLINE).unwrap(), (1, dirty("")));
    // The next hints come from the next change.
    fs::create_dir(dir.path().join("end")).unwrap();
    let next = [(); 2].map(|()| hints.recv_timeout(DEADLINE).unwrap());
    assert_eq!(next, [(1, dirty("")), (1, below("end"))]);
}

#[test]
fn all_folders_receive_an_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let (watcher, hints, go) = blocked();
    for (folder, name) in [(1, "a"), (2, "b")] {
        let at = dir.path().join(name);
        fs::create_dir(&at).unwrap();
        watcher.watch_fd(folder, &RelPath::root(), File::open(&at).unwrap().as_fd());
        fs::write(at.join("0"), "").unwrap();
        fs::write(at.join("1"), "").unwrap();
    }
    hints.recv_timeout(DEADLINE).unwrap();
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = text.trim().parse().unwrap();
    let files = ["0", "1"].map(|name| File::open(dir.path().join("a").join(name)).unwrap());
    for n in 0..queue + 100 {
        // Not the same file twice in a row: the system would merge the events.
        files[n % 2].set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    }
    drop(go);
    let mut missing = BTreeSet::from([(1, Hint::Overflow), (2, Hint::Overflow)]);
    while !missing.is_empty() {
        missing.remove(&hints.recv_timeout(DEADLINE).unwrap());
    }
    // Hints arrive again afterwards.
    fs::create_dir(dir.path().join("b/new")).unwrap();
    while hints.recv_timeout(DEADLINE).unwrap() != (2, below("new")) {}
}

#[test]
fn dropping_the_watcher_ends_its_thread_even_from_the_sink() {
    let (sender, hints) = channel();
    drop(InotifyWatcher::start(None, sink(sender)).unwrap());
    assert!(matches!(hints.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected)));

    let dir = tempfile::tempdir().unwrap();
    let own: Arc<Mutex<Option<InotifyWatcher>>> = Arc::default();
    let of_sink = own.clone();
    let (sender, ended) = channel::<()>();
    let sink = Box::new(move |_, _| {
        let _ = &sender;
        drop(of_sink.lock().take());
    });
    let watcher = InotifyWatcher::start(None, sink).unwrap();
    watcher.watch_fd(1, &RelPath::root(), File::open(dir.path()).unwrap().as_fd());
    *own.lock() = Some(watcher);
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(ended.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected)));
}

#[test]
fn removing_many_watches_causes_no_overflow() {
    let f = Fixture::new(None);
    let (watcher, hints, go) = blocked();
    drop(f.watcher);
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let count = text.trim().parse::<usize>().unwrap() + 100;
    for n in 0..count {
        let at = f.dir.path().join(n.to_string());
        fs::create_dir(&at).unwrap();
        let added = watcher.watch_fd(1, &path(n.to_string()), File::open(&at).unwrap().as_fd());
        if matches!(added, WatchResult::LimitReached) {
            println!("skipped: fs.inotify.max_user_watches is too small");
            return;
        }
    }
    watcher.watch_fd(2, &RelPath::root(), File::open(f.last.path()).unwrap().as_fd());
    // While the sink blocks, the thread of the watcher reads nothing.
    fs::write(f.last.path().join("file"), "").unwrap();
    assert_eq!(hints.recv_timeout(DEADLINE).unwrap(), (2, dirty("")));
    watcher.unwatch_folder(1);
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
