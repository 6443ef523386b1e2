//! Hostile names and ignore files, and their cost.

use super::*;

#[test]
fn names_that_are_not_utf_8_are_matched_by_patterns_that_are() {
    let tree = Tree::new(&[b"\xff.tmp", b"\xff/a.tmp", b"\xff/\xfe/b"]);
    fs::write(tree.dir.path().join(os(b"\xff/.archivistignore")), b"/?/\n\xfe\n").unwrap();
    let (excluded, problems) = tree.by_walk(&["*.tmp".to_owned(), "!a.*".to_owned()]);
    let expected: &[&[u8]] = &[b"\xff.tmp", b"\xff/\xfe", b"\xff/\xfe/b"];
    assert_eq!(excluded, expected.iter().map(|path| path.to_vec()).collect());
    let what = "line 2 has no effect: it is not UTF-8".to_owned();
    assert_eq!(problems, [(path(b"\xff/.archivistignore"), what)]);
}

#[test]
fn hostile_ignore_files_exclude_nothing_and_are_reported() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("rules"), "*").unwrap();
    let tree = Tree::new(&[b"link/a", b"dir/a", b"long/a", b"pipe/a", b"lines/a", b"none/a"]);
    let file = |dir: &str| tree.dir.path().join(dir).join(".archivistignore");
    symlink(outside.path().join("rules"), file("link")).unwrap();
    fs::create_dir(file("dir")).unwrap();
    fs::write(file("long"), "*\n".repeat(FILE_LEN_MAX / 2 + 1)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        file("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    fs::write(file("lines"), "[\n".repeat(20)).unwrap();
    let (excluded, problems) = tree.by_walk(&[]);
    assert!(excluded.is_empty(), "{excluded:?}");
    let about = |dir: &str| {
        let path = path(format!("{dir}/.archivistignore"));
        problems.iter().filter(|(at, _)| *at == path).map(|(_, what)| what.as_str()).collect()
    };
    let texts: [Vec<&str>; 6] = ["link", "dir", "long", "pipe", "lines", "none"].map(about);
    assert!(texts[0][0].contains("not a regular file"), "{texts:?}");
    assert!(texts[1][0].contains("not a regular file"), "{texts:?}");
    assert!(texts[2][0].contains("65536"), "{texts:?}");
    assert!(texts[3][0].contains("not a regular file"), "{texts:?}");
    assert_eq!(texts[4].len(), INVALID_LINES_MAX + 1);
    assert_eq!(texts[4][INVALID_LINES_MAX], "15 further lines have no effect");
    assert!(texts[5].is_empty());
}

#[test]
fn nested_ignore_files_have_a_common_limit() {
    let depth = FILES_LEN_MAX / FILE_LEN_MAX + 1;
    let deepest = "d/".repeat(depth);
    let tree = Tree::new(&[deepest.as_bytes()]);
    let text = format!("x{}\n", "y".repeat(FILE_LEN_MAX - 2));
    for at in 1..=depth {
        let dir = &deepest[..2 * at];
        fs::write(tree.dir.path().join(dir).join(".archivistignore"), &text).unwrap();
    }
    let (_, problems) = tree.by_walk(&[]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].0, path(format!("{deepest}.archivistignore")));
}

#[test]
fn a_bad_pattern_of_the_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = SourceTree::open(dir.path()).unwrap();
    let error = Rules::new(&root, &["*.o".to_owned(), "a[".to_owned()]).unwrap_err();
    assert_eq!(error.pattern, "a[");
    assert_eq!(error.source, PatternError::Class);
}

#[test]
fn a_changed_ignore_file_applies_when_its_directory_is_entered_again() {
    let tree = Tree::new(&[b"d/a", b"d/e/a"]);
    let root = SourceTree::open(tree.dir.path()).unwrap();
    let mut rules = Rules::new(&root, &[]).unwrap();
    rules.enter(&RelPath::root());
    rules.enter(&path("d"));
    assert!(!rules.is_excluded(&path("d/a"), false));
    tree.ignore(b"d", b"a");
    rules.enter(&path("d"));
    rules.enter(&path("d/e"));
    assert!(rules.is_excluded(&path("d/e/a"), false));
    // The rules of a directory end when the walk leaves it.
    assert!(!rules.is_excluded(&path("b/a"), false));
    assert!(rules.is_excluded(&path("d/x/a"), false));
    rules.enter(&path("f"));
    assert!(!rules.is_excluded(&path("f/a"), false));
}

/// `cargo test -p sync rules_measured -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn rules_measured() {
    let dir = tempfile::tempdir().unwrap();
    let root = SourceTree::open(dir.path()).unwrap();
    let paths: Vec<_> =
        (0..1_000_000).map(|n| path(format!("home/user/docs/d{}/file{n}.txt", n / 100))).collect();
    let few: Vec<String> =
        ["*.tmp", "node_modules/", "/target", "*~", "docs/**/x[ab]"].map(str::to_owned).into();
    for (what, exclude) in [("no patterns", &[][..]), ("five patterns", &few)] {
        let mut rules = Rules::new(&root, exclude).unwrap();
        rules.enter(&RelPath::root());
        for dir in ["home", "home/user", "home/user/docs"] {
            rules.enter(&path(dir));
        }
        let start = std::time::Instant::now();
        let mut last = RelPath::root();
        let mut excluded = 0;
        for path in &paths {
            let parent = path.parent().unwrap();
            if parent != last {
                rules.enter(&parent);
                last = parent;
            }
            excluded += usize::from(rules.is_excluded(path, false));
        }
        let rate = 1e6 / start.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} paths/s, {excluded} excluded, 10,000 directories entered");
    }
    let start = std::time::Instant::now();
    let line: Vec<u8> = b"*a*b*c?d[!x]\n".repeat(FILE_LEN_MAX / 13);
    fs::write(dir.path().join(".archivistignore"), line).unwrap();
    let mut rules = Rules::new(&root, &[]).unwrap();
    rules.enter(&RelPath::root());
    println!("a hostile file of 64 KiB: {:?}, {:?}", start.elapsed(), rules.problems());
}

#[test]
fn fuzz_patterns() {
    let examples = ["*.tmp", "/a/**/b/", "!x[a-z[:digit:]]?", "{a,b}\\ ", "# no\n\n**"];
    fuzzing::target!(&examples, |bytes: &[u8]| {
        let mut builder = GitignoreBuilder::new("");
        for line in lines(bytes) {
            // A line with a NUL is a comment, or is refused.
            let is_added = add(&mut builder, line).is_ok();
            assert!(!is_added || line.starts_with(b"#") || !line.contains(&0), "{line:?}");
        }
        let patterns = builder.build().unwrap();
        decide(&patterns, b"a/x1/b", false);
        decide(&patterns, b"\xff.tmp", true);
    });
}
