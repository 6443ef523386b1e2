//! The hints that follow from events, without a system; and the tree of watches, compared
//! with a plain map.

use super::*;

fn take(state: &mut State, wd: i32, mask: ReadFlags, name: Option<&[u8]>) -> Vec<(u32, Hint)> {
    let mut hints = Hints::default();
    state.take(Event { wd, mask, name }, &mut hints);
    hints.set.into_iter().collect()
}

fn state(dirs: &[(u32, &str, i32)]) -> State {
    let mut state = State::new();
    for (folder, dir, wd) in dirs {
        let id = state.tree.make(*folder, &path(dir));
        state.tree.set_wd(id, Some(*wd));
    }
    state
}

#[test]
fn a_number_that_is_used_again_is_not_forgotten_by_the_end_of_its_former_use() {
    let mut state = state(&[(1, "", 1), (1, "a", 2)]);
    // Removed by this process; the system uses the descriptor again before it confirms.
    let id = state.tree.find(1, &path("a")).unwrap();
    assert_eq!(state.tree.remove(id), [2]);
    state.expect_ignored(2);
    let id = state.tree.make(1, &path("b"));
    state.tree.set_wd(id, Some(2));
    assert_eq!(take(&mut state, 2, ReadFlags::IGNORED, None), []);
    let hints = take(&mut state, 2, ReadFlags::MODIFY, Some(b"file"));
    assert_eq!(hints, [(1, dirty("b"))]);
    // Removed by the system and used again before this process knows: the hint for `b`
    // starts a scan, which watches it again.
    let id = state.tree.make(1, &path("c"));
    state.tree.set_wd(id, Some(2));
    let hints = take(&mut state, 2, ReadFlags::IGNORED, None);
    assert_eq!(hints, [(1, dirty("")), (1, below("b")), (1, below("c"))]);
    assert_eq!(take(&mut state, 2, ReadFlags::MODIFY, Some(b"file")), []);
    assert_eq!(state.tree.watched(1), 1);
}

#[test]
fn an_overflow_ends_what_was_expected() {
    let mut state = state(&[(1, "", 1), (2, "", 2), (2, "a", 3)]);
    state.expect_ignored(3);
    let hints = take(&mut state, -1, ReadFlags::QUEUE_OVERFLOW, None);
    assert_eq!(hints, [(1, Hint::Overflow), (2, Hint::Overflow)]);
    let hints = take(&mut state, 3, ReadFlags::IGNORED, None);
    assert_eq!(hints, [(2, dirty("")), (2, below("a"))]);
}

#[test]
fn an_unmount_is_hinted() {
    let mut state = state(&[(1, "", 1), (1, "mnt", 2), (2, "", 2)]);
    let mut hints = Hints::default();
    for mask in [ReadFlags::UNMOUNT, ReadFlags::IGNORED] {
        state.take(Event { wd: 2, mask, name: None }, &mut hints);
    }
    let hints: Vec<_> = hints.set.into_iter().collect();
    let expected = [(1, dirty("")), (1, below("mnt")), (2, below("")), (2, Hint::RootGone)];
    assert_eq!(hints, expected);
    assert_eq!((state.tree.watched(1), state.tree.watched(2)), (1, 0));
}

#[test]
fn the_tree_equals_a_plain_map() {
    let mut random = StdRng::seed_from_u64(7);
    let mut tree = Tree::new();
    let mut map: BTreeMap<(u32, RelPath), i32> = BTreeMap::new();
    let any_path = |random: &mut StdRng| {
        let names: Vec<_> = (0..random.random_range(0..4))
            .map(|_| ["a", "b", "c"][random.random_range(0..3)])
            .collect();
        path(names.join("/"))
    };
    for _ in 0..30_000 {
        let (folder, one) = (random.random_range(0..2), any_path(&mut random));
        match random.random_range(0..10) {
            0..5 => {
                let wd = random.random_range(1..30);
                let before = map.insert((folder, one.clone()), wd);
                let id = tree.make(folder, &one);
                let orphan = before.filter(|wd| !map.values().any(|other| other == wd));
                assert_eq!(tree.set_wd(id, Some(wd)), orphan);
            }
            5 => {
                let gone: Vec<_> =
                    map.extract_if(.., |(of, at), _| *of == folder && at.is_within(&one)).collect();
                let gone: BTreeSet<i32> = gone
                    .into_iter()
                    .map(|(_, wd)| wd)
                    .filter(|wd| !map.values().any(|other| other == wd))
                    .collect();
                let removed = tree.find(folder, &one).map(|id| tree.remove(id));
                assert_eq!(removed.unwrap_or_default().into_iter().collect::<BTreeSet<_>>(), gone);
            }
            _ => {
                let wd = random.random_range(1..30);
                for id in tree.of_wd(wd) {
                    tree.set_wd(id, None);
                    tree.prune(id);
                }
                map.retain(|_, other| *other != wd);
            }
        }
        for folder in 0..2 {
            let watched = map.keys().filter(|(of, _)| *of == folder).count() as u64;
            assert_eq!(tree.watched(folder), watched);
        }
        assert_eq!(tree.descriptors(), map.values().collect::<BTreeSet<_>>().len());
        for ((folder, at), wd) in &map {
            let id = tree.find(*folder, at).unwrap();
            assert_eq!((tree.wd(id), tree.path(id).as_ref()), (Some(*wd), Some(at)));
            assert!(tree.of_wd(*wd).contains(&id));
        }
    }
    for folder in 0..2 {
        if let Some(id) = tree.find(folder, &RelPath::root()) {
            tree.remove(id);
        }
    }
    assert_eq!((tree.descriptors(), tree.folders().count()), (0, 0));
}

/// `cargo test -p sync watch_measured -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn watch_measured() {
    let resident = || {
        let text = fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let start = Instant::now();
    let mut tree = Tree::new();
    for n in 0..1_000_000 {
        let id = tree.make(1, &path(format!("d{}/d{}/d{n}", n / 10_000, n / 100)));
        tree.set_wd(id, Some(n));
    }
    let each = (resident() - before) / 1_000_000;
    println!("1,000,000 directories: {each} bytes each, {:?}", start.elapsed());
    let mut state = State::new();
    state.tree = tree;
    let start = Instant::now();
    let mut hints = Hints::default();
    for n in 0..1_000_000 {
        let event = Event { wd: n % 1000, mask: ReadFlags::MODIFY, name: Some(b"file") };
        state.take(event, &mut hints);
    }
    println!("1,000,000 events in 1,000 directories: {:?}", start.elapsed());
}

#[test]
fn changes_that_are_not_delivered_yet_have_an_age() {
    let (entered, is_entered) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = parking_lot::Mutex::new(may_go_on);
    let blocking: HintSink = Box::new(move |_, _| {
        let _ = entered.send(());
        let _ = may_go_on.lock().recv();
    });
    let watcher = InotifyWatcher::start(None, blocking).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let added = watcher.watch_fd(1, &RelPath::root(), File::open(dir.path()).unwrap().as_fd());
    assert!(matches!(added, WatchResult::Watched));
    assert_eq!(watcher.unread_time(), Duration::ZERO);
    fs::write(dir.path().join("a"), "a").unwrap();
    // In the queue, or read and not delivered.
    assert!(watcher.unread_time() > Duration::ZERO);
    is_entered.recv().unwrap();
    assert!(watcher.unread_time() > Duration::ZERO);
    drop(go_on);
    let start = Instant::now();
    while watcher.unread_time() > Duration::ZERO {
        assert!(start.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
}
