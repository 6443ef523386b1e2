//! The rules exclude exactly the paths that git excludes; hostile ignore files exclude nothing
//! and are reported.

mod hostile;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes.as_ref()).unwrap()
}

fn os(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A tree of files, and its paths; those of directories end with `/`.
struct Tree {
    dir: tempfile::TempDir,
    paths: BTreeSet<Vec<u8>>,
}

impl Tree {
    fn new(paths: &[&[u8]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut all = BTreeSet::new();
        for path in paths {
            let full = dir.path().join(os(path));
            let (dirs, is_dir) = match path.strip_suffix(b"/") {
                Some(dir) => (dir, true),
                None => (*path, false),
            };
            for at in (0..dirs.len()).filter(|at| dirs[*at] == b'/') {
                all.insert(dirs[..=at].to_vec());
            }
            all.insert(path.to_vec());
            if is_dir {
                fs::create_dir_all(full).unwrap();
            } else {
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, "").unwrap();
            }
        }
        Self { dir, paths: all }
    }

    /// Writes the ignore file of a directory, for git and for the rules.
    fn ignore(&self, dir: &[u8], text: &[u8]) {
        for name in [".gitignore", ".archivistignore"] {
            fs::write(self.dir.path().join(os(dir)).join(name), text).unwrap();
        }
    }

    fn git(&self) -> Command {
        let mut git = Command::new("git");
        git.current_dir(self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE");
        git
    }

    /// Makes the tree a git work tree; false if git is not installed.
    fn init(&self) -> bool {
        match self.git().args(["init", "-q"]).status() {
            Ok(status) => {
                assert!(status.success());
                true
            }
            Err(error) => {
                println!("skipped: git is not installed: {error}");
                false
            }
        }
    }

    /// Returns the paths that git excludes, with the patterns of the configuration in
    /// `info/exclude`.
    fn by_git(&self, exclude: &[String]) -> BTreeSet<Vec<u8>> {
        fs::create_dir_all(self.dir.path().join(".git/info")).unwrap();
        fs::write(self.dir.path().join(".git/info/exclude"), exclude.join("\n")).unwrap();
        let mut git = self
            .git()
            .args(["check-ignore", "-z", "--stdin", "--no-index"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = git.stdin.take().unwrap();
        for path in &self.paths {
            input.write_all(path.strip_suffix(b"/").unwrap_or(path)).unwrap();
            input.write_all(b"\0").unwrap();
        }
        drop(input);
        let output = git.wait_with_output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        let list = output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        list.map(<[u8]>::to_vec).collect()
    }

    /// Returns the paths that the rules exclude in a walk, which does not enter excluded
    /// directories, and the reported problems.
    fn by_walk(&self, exclude: &[String]) -> (BTreeSet<Vec<u8>>, Vec<(RelPath, String)>) {
        let root = SourceTree::open(self.dir.path()).unwrap();
        let mut rules = Rules::new(&root, exclude).unwrap();
        rules.enter(&RelPath::root());
        let mut sorted: Vec<_> = self
            .paths
            .iter()
            .map(|text| (path(text.strip_suffix(b"/").unwrap_or(text)), text.ends_with(b"/")))
            .collect();
        sorted.sort();
        let mut excluded = BTreeSet::new();
        for (path, is_dir) in sorted {
            if path.parent().is_some_and(|parent| excluded.contains(parent.as_bytes())) {
                excluded.insert(path.as_bytes().to_vec());
                continue;
            }
            if rules.is_excluded(&path, is_dir) {
                excluded.insert(path.as_bytes().to_vec());
            } else if is_dir {
                rules.enter(&path);
            }
        }
        (excluded, rules.problems())
    }

    /// Returns the paths that the rules exclude, each checked separately, with excluded
    /// directories entered, too.
    fn by_path(&self, exclude: &[String]) -> BTreeSet<Vec<u8>> {
        let root = SourceTree::open(self.dir.path()).unwrap();
        let mut excluded = BTreeSet::new();
        for text in &self.paths {
            let target = path(text.strip_suffix(b"/").unwrap_or(text));
            let mut rules = Rules::new(&root, exclude).unwrap();
            rules.enter(&RelPath::root());
            let bytes = target.as_bytes();
            for at in (0..bytes.len()).filter(|at| bytes[*at] == b'/') {
                rules.enter(&path(&bytes[..at]));
            }
            if rules.is_excluded(&target, text.ends_with(b"/")) {
                excluded.insert(bytes.to_vec());
            }
        }
        excluded
    }
}

/// Reports whether git treats the line differently from its manual: git cuts off the text
/// before the first wildcard, so that the `**` of `b**/a` stands alone. The rules follow the
/// manual.
fn is_odd_in_git(line: &str) -> bool {
    let body = line.trim_start_matches('!').trim_start_matches('/');
    let wild = body.find(['*', '?', '[', '\\']).unwrap_or(body.len());
    wild > 0 && !body[..wild].ends_with('/') && body[wild..].starts_with("**")
}

const PATHS: &[&[u8]] = &[
    b"a",
    b"b/a",
    b"b/b/a",
    b"b/b/b/a",
    b"b/c/d/",
    b"ab/ab/ab",
    b"ab/a.tmp",
    b"a.tmp",
    b"x/a.tmp/y",
    b"foo",
    b"bar/foo/bar/foo",
    b"bar/baz",
    b"foo{a,b}",
    b"fooa",
    b"foo,",
    b"!a",
    b"#a",
    b"a ",
    b"a  ",
    b"a\t",
    b" a",
    b"[a]",
    b"a]",
    b"a-b",
    b"a^b",
    b"a\\b",
    b"a\\",
    b"a*b",
    b"\\",
    b"*",
    b"**",
    b"a?",
    b"\xc3\xa4",
    b"\xff\xfe.tmp",
    b"d\xff/a",
    b".a",
    b"...",
];

#[test]
fn a_table_of_patterns_means_what_it_means_to_git() {
    let tree = Tree::new(PATHS);
    if !tree.init() {
        return;
    }
    let lines: &[&str] = &[
        "a",
        "a/",
        "/a",
        "/a/",
        "b/",
        "b/a",
        "/b/a",
        "b/b",
        "b/*",
        "b/**",
        "b/**/",
        "**/a",
        "**/a/",
        "**/b/a",
        "b/**/a",
        "b/**/**/a",
        "**/**/a",
        "/**",
        "/**/",
        "**",
        "**/",
        "*",
        "*/",
        "/*",
        "/*/",
        "/***",
        "b/***/a",
        "b/a**",
        "b**/a",
        "b/**a",
        "a**",
        "***",
        "*a",
        "a*",
        "*.tmp",
        "*.tmp/",
        "?",
        "??",
        "/?",
        "?/?",
        "[ab]",
        "[!ab]",
        "[^ab]",
        "b[/]a",
        "b[!x]a",
        "b[!x]c/d",
        "[a-b]",
        "[b-a]",
        "[a-]",
        "[]a]",
        "[]-a]",
        "[!]a]",
        "[[]a]",
        "[[a]]",
        "a[]]",
        "a[-]b",
        "a[^]b",
        "a[!^]b",
        "a[\\^]b",
        "a[\\\\]b",
        "[[:alpha:]]",
        "[![:alpha:]]",
        "[[:space:]]a",
        "a[[:blank:]]",
        "a[[:punct:]]b",
        "[[:upper:][:lower:]]",
        "a[[:x",
        "[",
        "[a",
        "a[",
        "[[:nope:]]",
        "[[:alpha:",
        "[\\]a]",
        "[a-\\b]",
        "{a,b}",
        "foo{a,b}",
        "foo[{]a,b[}]",
        "foo{,a}",
        "foo,",
        "{",
        "}",
        "\\a",
        "\\!a",
        "\\#a",
        "!a",
        "#a",
        "a\\ ",
        "a\\  ",
        "a ",
        "a  ",
        "a\\ \\ ",
        "a\t",
        " a",
        "\\ a",
        "a\\",
        "\\\\",
        "a\\\\",
        "a\\\\b",
        "a\\*b",
        "a*b",
        "\\*",
        "\\**",
        "*\\*",
        "\\*\\*",
        "a\\?",
        "ä",
        "?ä",
        "??.tmp",
        "/",
        "//",
        "//a",
        "a//",
        "b//a",
        "!",
        "!/",
        "./a",
        "b/./a",
        "../a",
        ".*",
        "...",
        "*.*",
        "d?/a",
        "d*",
        "\\[a\\]",
        "\\[a]",
        "x/",
        "b/c/",
        "b/c/d",
        "c/d",
        "/c/d",
        "**/c/d/",
        "*/c",
        "*/*/a",
        "b/b/**/a",
        "**/b/**",
        "/**/b/**/a",
        "b/**\\/a",
    ];
    for line in lines {
        if is_odd_in_git(line) {
            continue;
        }
        for (before, after) in [("", ""), ("*\n", ""), ("", "!/b\n!a\n"), ("*\n!", "")] {
            let text = format!("{before}{line}\n{after}");
            tree.ignore(b"", text.as_bytes());
            let by_git = tree.by_git(&[]);
            let (by_walk, problems) = tree.by_walk(&[]);
            if line.contains("\\/") {
                assert_eq!(problems.len(), 1, "{problems:?}");
                continue;
            }
            assert_eq!(by_walk, by_git, "{text:?} {problems:?}");
            if before.is_empty() {
                assert_eq!(tree.by_path(&[]), by_git, "{text:?}");
            }
        }
    }
}

#[test]
fn two_stars_beside_a_name_are_one_as_the_manual_of_git_says() {
    let tree = Tree::new(PATHS);
    tree.ignore(b"", b"b**/a");
    let (excluded, _) = tree.by_walk(&[]);
    assert_eq!(excluded, BTreeSet::from([b"b/a".to_vec()]));
}

#[test]
fn files_are_read_as_git_reads_them() {
    let tree = Tree::new(PATHS);
    if !tree.init() {
        return;
    }
    let texts: &[&[u8]] = &[
        b"\xef\xbb\xbf*.tmp\r\na \r\n",
        b"a\\ \r\nfoo",
        b"a\r",
        b"\n\n#a\n \n",
        b"a\n!a\na\n",
        b"\xef\xbb\xbf#a\n",
    ];
    for text in texts {
        tree.ignore(b"", text);
        let by_git = tree.by_git(&[]);
        assert_eq!(tree.by_walk(&[]), (by_git, Vec::new()), "{:?}", text.escape_ascii());
    }
}

#[test]
fn deeper_files_win_and_nothing_comes_back_below_what_is_excluded() {
    let tree = Tree::new(PATHS);
    if !tree.init() {
        return;
    }
    tree.ignore(b"", b"a\n/ab\n!*.tmp\n");
    tree.ignore(b"b", b"!a\n/b/b/\n");
    tree.ignore(b"b/b", b"a\n!b\n");
    tree.ignore(b"ab", b"!*\n");
    let exclude = ["*.tmp".to_owned(), "foo".to_owned(), "b/c/".to_owned()];
    let by_git = tree.by_git(&exclude);
    assert_eq!(tree.by_walk(&exclude), (by_git.clone(), Vec::new()));
    assert_eq!(tree.by_path(&exclude), by_git);
    let is_excluded = |path: &str| by_git.contains(path.as_bytes());
    assert!(is_excluded("a") && is_excluded("ab/ab") && is_excluded("b/b/a"));
    assert!(is_excluded("b/c/d") && is_excluded("bar/foo/bar"));
    assert!(!is_excluded("b/a") && !is_excluded("a.tmp") && !is_excluded("b/b/b"));
}

fn random_line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[ab]",
        2 => Just("*".to_owned()),
        2 => Just("**".to_owned()),
        2 => Just("/".to_owned()),
        2 => Just("?".to_owned()),
        1 => Just("[".to_owned()),
        1 => Just("]".to_owned()),
        1 => "\\[[\\]!^-]?[ab/\\]-]{1,3}\\]",
        1 => Just("[[:alpha:]]".to_owned()),
        1 => "[-^!,.# {}]",
        1 => "\\\\[ab*?\\[\\]\\\\!# -]",
        1 => Just("/**/".to_owned()),
        1 => Just("\\".to_owned()),
    ];
    let body = prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat());
    ("!?", "/?", body, "/?").prop_map(|(not, start, body, end)| format!("{not}{start}{body}{end}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn random_patterns_mean_what_they_mean_to_git(
        root in prop::collection::vec(random_line(), 0..4),
        inner in prop::collection::vec(random_line(), 0..3),
        exclude in prop::collection::vec(random_line(), 0..2),
    ) {
        thread_local! {
            static TREE: Option<Tree> = {
                let tree = Tree::new(&[
                    b"a", b"b/a", b"b/b", b"b/ab/a", b"b/ab/b", b"b/-", b"ab", b"ba/a/a/a",
                    b"ba/b/", b"aa/aa", b"a b", b" ", b"!", b"#", b"{a", b"a]", b"[", b"]",
                    b"a\\", b"\\/a", b"^/b", b"-", b"bb/bb/bb/", b"bb/\xff/a", b".a", b"a,b",
                ]);
                tree.init().then_some(tree)
            };
        }
        let usable = |line: &String| {
            let means_nothing = |error| matches!(error, PatternError::Class | PatternError::Escape);
            let rewritten = pattern::rewrite(line.as_bytes());
            !is_odd_in_git(line) && (rewritten.is_ok() || rewritten.is_err_and(means_nothing))
        };
        let root: Vec<_> = root.into_iter().filter(usable).collect();
        let inner: Vec<_> = inner.into_iter().filter(usable).collect();
        let exclude: Vec<_> =
            exclude.into_iter().filter(usable)
                .filter(|line| pattern::rewrite(line.as_bytes()).is_ok()).collect();
        TREE.with(|tree| {
            let Some(tree) = tree else { return Ok(()) };
            tree.ignore(b"", root.join("\n").as_bytes());
            tree.ignore(b"b", inner.join("\n").as_bytes());
            let by_git = tree.by_git(&exclude);
            let (by_walk, problems) = tree.by_walk(&exclude);
            prop_assert_eq!(&by_walk, &by_git, "{:?}", problems);
            prop_assert_eq!(tree.by_path(&exclude), by_git);
            Ok(())
        })?;
    }

    #[test]
    fn no_line_breaks_anything(line in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut builder = GitignoreBuilder::new("");
        if add(&mut builder, &line).is_ok() {
            let rules = builder.build().unwrap();
            decide(&rules, b"a/b\xff", false);
        }
    }
}
