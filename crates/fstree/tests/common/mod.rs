//! Source trees, a copy through the two traits, and ways to run a test as another user
//! or with a separate file system.

#![allow(dead_code, reason = "each test program uses some of it")]

pub(crate) mod awkward;
pub(crate) mod poor;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use fstree::{
    CreateFile, DestError, DestOptions, DestTree, FileContent, FileWriter as _, FoundEntry,
    FoundKind, Identity, Owners, ReadError, Resolution, SourceTree, TreeReader as _,
    TreeWriter as _, Visit, WalkItem, WalkOptions,
};
use types::{EntryKind, Metadata, RelPath};

/// Result of a copy.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) read_errors: Vec<ReadError>,
    pub(crate) errors: Vec<DestError>,
    pub(crate) not_set: Vec<fstree::NotSet>,
    pub(crate) made: usize,
    pub(crate) same: usize,
}

impl Report {
    pub(crate) fn is_clean(&self) -> bool {
        self.read_errors.is_empty() && self.errors.is_empty() && self.not_set.is_empty()
    }
}

pub(crate) fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(text.as_ref()).unwrap()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns a symbolic link to `target`.
pub(crate) fn symlink_to(target: &[u8]) -> EntryKind {
    EntryKind::Symlink { target: target.to_vec() }
}

/// Walks everything below the root.
pub(crate) fn walk(root: &SourceTree, options: WalkOptions) -> (Vec<FoundEntry>, Vec<ReadError>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for item in root.walk(&RelPath::root(), options, |_, _| Visit::Descend).unwrap() {
        match item {
            WalkItem::Entry(entry) => found.push(entry),
            WalkItem::Error(error) => errors.push(error),
        }
    }
    (found, errors)
}

/// Reads everything of a tree that a manifest contains.
pub(crate) fn capture(root: &SourceTree, report: &mut Report) -> Vec<(FoundEntry, Metadata)> {
    let owners = Owners::system();
    let (found, errors) = walk(root, WalkOptions::default());
    report.read_errors.extend(errors);
    let mut entries = Vec::new();
    for found in found {
        match root.xattrs(&found) {
            Ok(read) => {
                assert!(read.unread.is_empty(), "{:?}", read.unread);
                let metadata = found.metadata(&owners, read.xattrs);
                entries.push((found, metadata));
            }
            Err(error) => report.read_errors.push(error),
        }
    }
    entries
}

/// Copies a tree by reading it and creating it again.
pub(crate) fn copy(from: &Path, to: &Path, options: &DestOptions) -> Report {
    let mut report = Report::default();
    let root = SourceTree::open_with(from, options.resolution).unwrap();
    let entries = capture(&root, &mut report);
    let target = DestTree::open(to, options.clone()).unwrap();
    make_all(&root, &entries, &target, &mut report);
    report
}

pub(crate) fn make_all(
    root: &SourceTree,
    entries: &[(FoundEntry, Metadata)],
    target: &DestTree,
    report: &mut Report,
) {
    let mut dirs = Vec::new();
    let mut groups: BTreeMap<u64, (RelPath, Identity)> = BTreeMap::new();
    for (found, metadata) in entries {
        if found.kind() == fstree::FileKind::Dir {
            dirs.push((found.path.clone(), metadata.clone()));
        }
        let linked = found.hard_link.and_then(|id| groups.get(&id));
        let made = match (linked, &found.kind) {
            (Some((first, identity)), _) => target.create_hard_link(first, *identity, &found.path),
            (None, FoundKind::File { is_sparse }) => {
                make_file(root, found, *is_sparse, metadata, target)
            }
            (None, _) => target.create(&found.path, &found.entry_kind().unwrap(), metadata),
        };
        match made {
            Ok(made) => {
                if let Some(id) = found.hard_link {
                    groups.entry(id).or_insert((found.path.clone(), made.identity));
                }
                if made.is_new {
                    report.made += 1;
                } else {
                    report.same += 1;
                }
                report.not_set.extend(made.not_set);
            }
            Err(error) => report.errors.push(error),
        }
    }
    let (not_set, errors) = target.finish_dirs(dirs);
    report.not_set.extend(not_set);
    report.errors.extend(errors);
}

fn make_file(
    root: &SourceTree,
    found: &FoundEntry,
    is_sparse: bool,
    metadata: &Metadata,
    target: &DestTree,
) -> Result<fstree::CreatedEntry, DestError> {
    let source = root.open_file(&found.path).unwrap();
    let size = source.stamp.size;
    let content = FileContent { size, is_sparse };
    let verify = |there: &File| Ok(is_same_content(&source.file, there, size));
    let mut sink = match target.create_file(&found.path, content, metadata, verify)? {
        CreateFile::Existing(existing) => return Ok(existing),
        CreateFile::Write(sink) => sink,
    };
    let mut at = 0;
    let mut buffer = vec![0; usize::try_from(size).unwrap().min(1 << 20)];
    while at < size {
        let len = usize::try_from(size - at).unwrap().min(buffer.len());
        source.file.read_exact_at(&mut buffer[..len], at).unwrap();
        sink.write(&buffer[..len])?;
        at += len as u64;
    }
    assert!(root.is_unchanged(&source).unwrap());
    sink.finish(metadata)
}

fn is_same_content(a: &File, b: &File, size: u64) -> bool {
    let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).unwrap().min(1 << 16);
        a.read_exact_at(&mut buffers[0][..len], at).unwrap();
        b.read_exact_at(&mut buffers[1][..len], at).unwrap();
        if buffers[0][..len] != buffers[1][..len] {
            return false;
        }
        at += len as u64;
    }
    true
}

/// A new directory with `source` and `target` in it, which is removed on drop even if
/// its content is not readable.
#[derive(Debug)]
pub(crate) struct Dirs(PathBuf);

impl Dirs {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub(crate) fn within(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("fstree-").tempdir_in(parent).unwrap().keep();
        std::fs::create_dir(dir.join("source")).unwrap();
        std::fs::create_dir(dir.join("target")).unwrap();
        Self(dir)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.0.join("source")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.0.join("target")
    }

    pub(crate) fn base(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dirs {
    /// The standard library cannot remove trees with ten thousand levels.
    fn drop(&mut self) {
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(&self.0).output();
        let _ = Command::new("rm").arg("-rf").arg(&self.0).status();
    }
}

pub(crate) fn both_ways() -> [DestOptions; 2] {
    [Resolution::Best, Resolution::ByName].map(|resolution| DestOptions {
        resolution,
        owners: owners_to_set(),
        ..DestOptions::default()
    })
}

/// Root may change owners, other users may not.
pub(crate) fn owners_to_set() -> fstree::OwnerPolicy {
    let policy = fstree::OwnerPolicy::for_this_process(false);
    assert_eq!(matches!(policy, fstree::OwnerPolicy::Numbers), is_root());
    policy
}

const AGAIN: &str = "ARCHIVIST_TEST_AGAIN";

/// Runs the named test of this program again as an unprivileged user. Returns true in
/// that run, and if this user is unprivileged anyway.
pub(crate) fn is_unprivileged(test: &str) -> bool {
    if !is_root() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    // The user may not be able to read the build directory.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("test");
    // Let another process copy it. If this process had it open for writing, a child process
    // started by another test at the same time would inherit the descriptor, and the
    // program could not be executed.
    let copied = Command::new("cp").arg(program).arg(&copy).status().unwrap();
    assert!(copied.success());
    set_mode(dir.path(), 0o755);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(copy).args(["--exact", test, "--nocapture"]).env("TMPDIR", "/tmp");
    command.current_dir("/");
    check(test, command);
    false
}

/// Runs the named test of this program again in a separate mount namespace, after the
/// shell command `mount`, in which `$DIR` is a new directory. Returns that directory in
/// the inner run and `None` in the outer one.
pub(crate) fn with_mount(test: &str, mount: &str) -> Option<PathBuf> {
    if let Ok(dir) = std::env::var(AGAIN) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "export DIR='{0}' {AGAIN}='{0}'; {mount} && exec '{1}' --exact {test} --nocapture",
        dir.path().display(),
        std::env::current_exe().unwrap().display(),
    );
    let mut command = Command::new("unshare");
    command.arg(if is_root() { "-m" } else { "-rm" }).args(["sh", "-c", &script]);
    check(test, command);
    None
}

fn check(test: &str, mut command: Command) {
    let output = command.output().expect("util-linux (unshare, setpriv) is needed");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}, run again:\n{out}{err}");
    assert!(out.contains("1 passed"), "{test} was not run again:\n{out}{err}");
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Calls `race` repeatedly in a thread while `work` runs.
pub(crate) fn while_racing<T>(race: impl Fn() + Send + Sync, work: impl FnOnce() -> T) -> T {
    struct SetOnDrop<'a>(&'a AtomicBool);
    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A panic of the work must end the race, too.
        let _end = SetOnDrop(&is_done);
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                race();
            }
        });
        work()
    })
}

/// Returns the names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
