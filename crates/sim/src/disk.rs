//! [`ProcessDisk`]: the simulated disk as one life of a process uses it.

use std::ffi::OsString;
use std::hash::Hasher as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::sim::{FaultRule, SimDisk};
use disk::{Disk, DiskFile, Space};
use parking_lot::Mutex;

use crate::log::Log;

/// A [`SimDisk`] that reports the death of the process to a function, once, and summarises
/// the changes of the disk, so that the log shows the first difference between two runs.
#[derive(Clone)]
pub(crate) struct ProcessDisk(Arc<Inner>);

struct Inner {
    disk: SimDisk,
    on_death: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    trace: Mutex<Trace>,
    fails_reads: AtomicBool,
    /// The log and the name of the side, if each change is logged.
    log: Option<(Log, &'static str)>,
}

#[derive(Default)]
struct Trace {
    hasher: std::hash::DefaultHasher,
    operations: u64,
}

impl std::fmt::Debug for ProcessDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessDisk").finish_non_exhaustive()
    }
}

impl ProcessDisk {
    /// Wraps a disk. `log` gets each change, if there is one.
    pub(crate) fn new(
        disk: SimDisk,
        log: Option<(Log, &'static str)>,
        on_death: impl FnOnce() + Send + 'static,
    ) -> Self {
        let on_death = Mutex::new(Some(Box::new(on_death) as Box<dyn FnOnce() + Send>));
        Self(Arc::new(Inner {
            disk,
            on_death,
            trace: Mutex::default(),
            fails_reads: AtomicBool::new(false),
            log,
        }))
    }

    /// Returns the simulated disk.
    pub(crate) fn sim(&self) -> &SimDisk {
        &self.0.disk
    }

    /// Lets reads of the disk fail.
    pub(crate) fn fail_reads(&self, rule: FaultRule) {
        self.0.fails_reads.store(true, Ordering::Relaxed);
        self.0.disk.add_fault(rule);
    }

    /// Reports whether reads may have failed since the process started.
    pub(crate) fn fails_reads(&self) -> bool {
        self.0.fails_reads.load(Ordering::Relaxed)
    }

    /// Returns the number of changes so far and a hash of their kinds, names and lengths.
    pub(crate) fn trace(&self) -> String {
        let trace = self.0.trace.lock();
        format!("{} changes, {:016x}", trace.operations, trace.hasher.finish())
    }

    /// Notes a change, and the death of the process during it.
    fn note(&self, what: &str, path: &Path, numbers: [u64; 2]) {
        {
            let mut trace = self.0.trace.lock();
            trace.operations += 1;
            trace.hasher.write(what.as_bytes());
            trace.hasher.write(path.as_os_str().as_encoded_bytes());
            numbers.into_iter().for_each(|number| trace.hasher.write_u64(number));
        }
        if let Some((log, side)) = &self.0.log {
            log.line(side, format_args!("{what} {} {numbers:?}", path.display()));
        }
        if self.0.disk.is_dead()
            && let Some(on_death) = self.0.on_death.lock().take()
        {
            on_death();
        }
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(ProcessFile { disk: self.clone(), path: path.to_owned(), file })
    }
}

impl Disk for ProcessDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.disk.create_dir(path)
    }

    fn create_with_mode(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.disk.create_with_mode(path, mode);
        self.note("create", path, [0; 2]);
        Ok(self.wrap(path, file?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.0.disk.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.0.disk.open_read(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let result = self.0.disk.rename(from, to);
        self.note("rename", to, [0; 2]);
        result
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let result = self.0.disk.rename_new(from, to);
        self.note("rename", to, [1, 0]);
        result
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let result = self.0.disk.remove(path);
        self.note("remove", path, [0; 2]);
        result
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.0.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let result = self.0.disk.sync_dir(dir);
        self.note("sync", dir, [0; 2]);
        result
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.0.disk.space(dir)
    }
}

#[derive(Debug)]
struct ProcessFile {
    disk: ProcessDisk,
    path: std::path::PathBuf,
    file: Box<dyn DiskFile>,
}

impl DiskFile for ProcessFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let result = self.file.write_at(parts, offset);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.disk.note("write", &self.path, [offset, len as u64]);
        result
    }

    fn sync(&self) -> io::Result<()> {
        let result = self.file.sync();
        self.disk.note("sync", &self.path, [0; 2]);
        result
    }

    fn drop_cache(&self, len: u64) {
        self.file.drop_cache(len);
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let result = self.file.truncate(len);
        self.disk.note("truncate", &self.path, [len, 0]);
        result
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let result = self.file.allocate(len);
        self.disk.note("allocate", &self.path, [len, 0]);
        result
    }

    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.file.lock_shared()
    }

    fn copy_permissions(&self, path: &Path) -> io::Result<()> {
        self.file.copy_permissions(path)
    }
}
