//! A scanner that looks only where it is told to, while everything changes.

use super::*;

/// By name: whether it is a directory, its inode, its length.
type List = BTreeMap<Vec<u8>, (bool, u64, u64)>;

/// What a scanner does with hints, in the fewest words: what it has seen has
/// to be what is there in the end.
struct Scanner<'a> {
    f: &'a Fixture,
    seen: BTreeMap<RelPath, List>,
}

impl Scanner<'_> {
    fn look(&mut self, dir: &RelPath, all: bool) {
        let Ok(fd) = File::open(self.f.dir.path().join(dir.as_path())) else {
            self.f.watcher.remove_below(1, dir);
            self.seen.retain(|path, _| !path.is_within(dir));
            return;
        };
        let added = self.f.watcher.add_dir(1, dir, fd.as_fd());
        assert!(matches!(added, AddDir::Watched | AddDir::Gone), "{added:?}");
        let mut list = BTreeMap::new();
        let at = format!("/proc/self/fd/{}", fd.as_raw_fd());
        for entry in fs::read_dir(at).unwrap().flatten() {
            // Gone already: there is a hint of it.
            let Ok(data) = entry.metadata() else { continue };
            let len = if data.is_dir() { 0 } else { data.len() };
            list.insert(entry.file_name().as_bytes().to_vec(), (data.is_dir(), data.ino(), len));
        }
        let before = self.seen.insert(dir.clone(), list.clone()).unwrap_or_default();
        for (name, (was_dir, inode, _)) in &before {
            let is_same = list.get(name).is_some_and(|(_, other, _)| other == inode);
            if *was_dir && !is_same {
                let gone = dir.join(name).unwrap();
                self.f.watcher.remove_below(1, &gone);
                self.seen.retain(|path, _| !path.is_within(&gone));
            }
        }
        for (name, (is_dir, inode, _)) in &list {
            let is_same = before.get(name).is_some_and(|(_, other, _)| other == inode);
            if *is_dir && (all || !is_same) {
                self.look(&dir.join(name).unwrap(), true);
            }
        }
    }

    fn take(&mut self, hint: &Hint) {
        match hint {
            Hint::Dirty(dir) if self.seen.contains_key(dir) => self.look(dir, false),
            // Nobody knows of it; whoever is above it does.
            Hint::Dirty(_) => {}
            Hint::DirtyBelow(dir) => match dir.parent() {
                Some(parent) if !self.seen.contains_key(&parent) => {}
                _ => self.look(dir, true),
            },
            Hint::Overflow => self.look(&RelPath::root(), true),
            Hint::RootGone => panic!("the root is there"),
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

/// Something happens to a tree.
fn storm(root: &Path, seed: u64, steps: u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let any_path = |random: &mut StdRng| {
        let depth = random.random_range(1..5);
        (0..depth).fold(root.to_owned(), |at, _| at.join(format!("d{}", random.random_range(0..3))))
    };
    for step in 0..steps {
        let (one, other) = (any_path(&mut random), any_path(&mut random));
        // Much of it cannot be done, as nothing is there, or something is.
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
fn whatever_happens_the_scanner_ends_with_what_is_there() {
    for seed in 0..8 {
        let f = Fixture::new(None);
        let mut scanner = Scanner { f: &f, seen: BTreeMap::new() };
        scanner.look(&RelPath::root(), true);
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
        // Nothing is watched but that, once the system has said all.
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
