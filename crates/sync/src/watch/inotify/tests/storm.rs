//! A scanner that lists only the hinted directories, while everything changes.

use super::*;

/// For each name: whether it is a directory, the inode, the length.
type List = BTreeMap<Vec<u8>, (bool, u64, u64)>;

/// A minimal scanner: in the end, what it has seen must equal the tree on disk.
struct Scanner<'a> {
    f: &'a Fixture,
    seen: BTreeMap<RelPath, List>,
}

impl Scanner<'_> {
    fn scan(&mut self, dir: &RelPath, all: bool) {
        let Ok(fd) = File::open(self.f.dir.path().join(dir.as_path())) else {
            self.f.watcher.unwatch_below(1, dir);
            self.seen.retain(|path, _| !path.is_within(dir));
            return;
        };
        let added = self.f.watcher.watch_fd(1, dir, fd.as_fd());
        assert!(matches!(added, WatchResult::Watched | WatchResult::Gone), "{added:?}");
        let mut list = BTreeMap::new();
        let at = format!("/proc/self/fd/{}", fd.as_raw_fd());
        for entry in fs::read_dir(at).unwrap().flatten() {
            // Already gone: a hint for it follows.
            let Ok(data) = entry.metadata() else { continue };
            let len = if data.is_dir() { 0 } else { data.len() };
            list.insert(entry.file_name().as_bytes().to_vec(), (data.is_dir(), data.ino(), len));
        }
        let before = self.seen.insert(dir.clone(), list.clone()).unwrap_or_default();
        for (name, (was_dir, inode, _)) in &before {
            let is_same = list.get(name).is_some_and(|(_, other, _)| other == inode);
            if *was_dir && !is_same {
                let gone = dir.join(name).unwrap();
                self.f.watcher.unwatch_below(1, &gone);
                self.seen.retain(|path, _| !path.is_within(&gone));
            }
        }
        for (name, (is_dir, inode, _)) in &list {
            let is_same = before.get(name).is_some_and(|(_, other, _)| other == inode);
            if *is_dir && (all || !is_same) {
                self.scan(&dir.join(name).unwrap(), true);
            }
        }
    }

    fn take(&mut self, hint: &Hint) {
        match hint {
            Hint::Dirty(dir) if self.seen.contains_key(dir) => self.scan(dir, false),
            // A directory that was not scanned yet: the scan of its parent finds it.
            Hint::Dirty(_) => {}
            Hint::DirtyBelow(dir) => match dir.parent() {
                Some(parent) if !self.seen.contains_key(&parent) => {}
                _ => self.scan(dir, true),
            },
            Hint::Overflow => self.scan(&RelPath::root(), true),
            Hint::RootGone => panic!("the root exists"),
        }
    }

    fn on_disk(&self) -> BTreeMap<RelPath, List> {
        let mut all = BTreeMap::new();
        let mut dirs = vec![RelPath::root()];
        while let Some(dir) = dirs.pop() {
            let mut list = BTreeMap::new();
            for entry in fs::read_dir(self.f.dir.path().join(dir.as_path())).unwrap() {
                let entry = entry.unwrap();
                let data = entry.metadata().unwrap();
                let name = entry.file_name().as_bytes().to_vec();
                if data.is_dir() {
                    dirs.push(dir.join(&name).unwrap());
                }
                let len = if data.is_dir() { 0 } else { data.len() };
                list.insert(name, (data.is_dir(), data.ino(), len));
            }
            all.insert(dir, list);
        }
        all
    }
}

/// Changes a tree at random.
fn storm(root: &Path, seed: u64, steps: u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let any_path = |random: &mut StdRng| {
        let depth = random.random_range(1..5);
        (0..depth).fold(root.to_owned(), |at, _| at.join(format!("d{}", random.random_range(0..3))))
    };
    for step in 0..steps {
        let (one, other) = (any_path(&mut random), any_path(&mut random));
        // Many of these fail, as a path is missing or exists.
        let _ = match random.random_range(0..10) {
            0..3 => fs::create_dir_all(&one).and_then(|()| {
                fs::write(one.join(format!("f{}", step % 5)), vec![0; step as usize])
            }),
            3 | 4 => OpenOptions::new()
                .append(true)
                .open(one.join("f1"))
                .and_then(|mut file| file.write_all(b"more")),
            5 | 6 => fs::rename(&one, &other),
            7 => fs::rename(one.join("f2"), other.join("f3")),
            8 => fs::remove_dir_all(&one),
            _ => fs::remove_file(one.join("f0")),
        };
    }
}

#[test]
fn after_any_storm_the_scanner_has_seen_what_is_on_disk() {
    for seed in 0..8 {
        let f = Fixture::new(None);
        let mut scanner = Scanner { f: &f, seen: BTreeMap::new() };
        scanner.scan(&RelPath::root(), true);
        let root = f.dir.path().to_owned();
        let stormy = std::thread::spawn(move || storm(&root, seed, 3000));
        while !stormy.is_finished() {
            if let Ok((_, hint)) = f.hints.recv_timeout(Duration::from_millis(1)) {
                scanner.take(&hint);
            }
        }
        stormy.join().unwrap();
        let start = Instant::now();
        let on_disk = scanner.on_disk();
        while scanner.seen != on_disk {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match f.hints.recv_timeout(left) {
                Ok((_, hint)) => scanner.take(&hint),
                Err(_) => assert_eq!(scanner.seen, on_disk, "seed {seed}"),
            }
        }
        // Once all events have arrived, exactly these directories are watched.
        let dirs = on_disk.len() as u64;
        while f.watcher.watched(1) != dirs {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match f.hints.recv_timeout(left) {
                Ok((_, hint)) => scanner.take(&hint),
                Err(_) => assert_eq!(f.watcher.watched(1), dirs, "seed {seed}"),
            }
        }
    }
}
