//! Faults chosen by operation, path and number: a [`FaultRule`].
//!
//! [`super::Fault`] counts the operations that change the disk and is the means to
//! fail "the Nth write". A rule chooses by the kind of operation, reads included,
//! and by the path, for once, for a while or for good:
//!
//! ```
//! use disk::sim::{EACCES, EIO, EMFILE, FaultRule, Op, SimDisk};
//!
//! let disk = SimDisk::new();
//! // The two logs of roots belong to another user.
//! disk.add_fault(FaultRule::new(Op::Open, EACCES).on("/roots/"));
//! // The process has no descriptors left for its next three files.
//! disk.add_fault(FaultRule::new(Op::Open, EMFILE).times(3));
//! // The 8th operation that reads meets a bad sector.
//! let armed = disk.add_fault(FaultRule::reads(EIO).after(7).times(1));
//! assert_eq!(armed.failures(), 0);
//! // Bytes 4096 to 4607 of a file are on a bad sector.
//! disk.add_fault(FaultRule::new(Op::Read, EIO).on("/file").bytes(4096..4608));
//! disk.clear_fault_rules();
//! ```

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

/// Error number of a failed device or a bad sector.
pub const EIO: DiskError = DiskError::Errno(Errno::IO.raw_os_error());
/// Error number of a missing permission.
pub const EACCES: DiskError = DiskError::Errno(Errno::ACCESS.raw_os_error());
/// Error number of a process that has too many open files.
pub const EMFILE: DiskError = DiskError::Errno(Errno::MFILE.raw_os_error());
/// Error number of a read-only file system.
pub const EROFS: DiskError = DiskError::Errno(Errno::ROFS.raw_os_error());

/// An operation on a simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`crate::Disk::open`] and [`crate::Disk::open_read`].
    Open,
    /// [`crate::DiskFile::read_at`] and [`crate::DiskFile::read_vec_at`].
    Read,
    /// [`crate::DiskFile::len`].
    Len,
    /// [`crate::Disk::list`].
    List,
    /// [`crate::Disk::space`].
    Space,
    /// [`crate::DiskFile::lock`] and [`crate::DiskFile::lock_shared`].
    Lock,
    /// [`crate::Disk::create_dir`].
    CreateDir,
    /// [`crate::Disk::create`] and [`crate::Disk::create_with_mode`].
    Create,
    /// [`crate::DiskFile::write_at`] and [`crate::DiskFile::allocate`].
    Write,
    /// [`crate::DiskFile::truncate`].
    Truncate,
    /// [`crate::DiskFile::sync`].
    Sync,
    /// [`crate::Disk::sync_dir`].
    SyncDir,
    /// [`crate::Disk::rename`] and [`crate::Disk::rename_new`]. The path is the old
    /// name.
    Rename,
    /// [`crate::Disk::remove`].
    Remove,
    /// [`crate::DiskFile::copy_permissions`].
    SetPermissions,
}

impl Op {
    /// The operations that read files, lengths and directories.
    pub const READS: [Self; 4] = [Self::Open, Self::Read, Self::Len, Self::List];

    /// The operations that change the disk: all of them fail on a read-only file
    /// system.
    pub const CHANGES: [Self; 7] = [
        Self::CreateDir,
        Self::Create,
        Self::Write,
        Self::Truncate,
        Self::Rename,
        Self::Remove,
        Self::SetPermissions,
    ];
}

impl From<Op> for Vec<Op> {
    fn from(op: Op) -> Self {
        vec![op]
    }
}

/// The error of an operation that a rule makes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// An error of this kind without an error number.
    Kind(io::ErrorKind),
    /// The error with this number of the operating system.
    Errno(i32),
}

impl From<io::ErrorKind> for DiskError {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Kind(kind)
    }
}

impl DiskError {
    pub(super) fn to_io(self) -> io::Error {
        match self {
            Self::Kind(kind) => kind.into(),
            Self::Errno(number) => io::Error::from_raw_os_error(number),
        }
    }
}

/// A rule that makes operations fail; see the module for examples.
///
/// A failed read has no effect. A failed change has the effect that
/// [`super::Fault::Fail`] has: half of a write may have happened, and the unsynced
/// bytes of a failed sync are lost.
#[derive(Clone, Debug)]
pub struct FaultRule {
    ops: Vec<Op>,
    path: String,
    bytes: Option<Range<u64>>,
    after: u64,
    times: u64,
    error: DiskError,
}

impl FaultRule {
    /// Creates a rule by which these operations fail on every path, always.
    pub fn new(ops: impl Into<Vec<Op>>, error: impl Into<DiskError>) -> Self {
        let (ops, error) = (ops.into(), error.into());
        Self { ops, path: String::new(), bytes: None, after: 0, times: u64::MAX, error }
    }

    /// Creates a rule for [`Op::READS`].
    pub fn reads(error: impl Into<DiskError>) -> Self {
        Self::new(Op::READS, error)
    }

    /// Restricts the rule to paths that contain `part`.
    pub fn on(self, part: &str) -> Self {
        Self { path: part.to_owned(), ..self }
    }

    /// Restricts the rule to reads and writes of any of these bytes of a file.
    pub fn bytes(self, bytes: Range<u64>) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// Lets the first `count` operations succeed that the rule matches.
    pub fn after(self, count: u64) -> Self {
        Self { after: count, ..self }
    }

    /// Ends the rule after `count` failures.
    pub fn times(self, count: u64) -> Self {
        Self { times: count, ..self }
    }
}

/// Counts the effects of a rule; see [`super::SimDisk::add_fault`].
#[derive(Clone, Debug, Default)]
pub struct ArmedFault {
    matches: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
}

impl ArmedFault {
    /// Returns the number of operations that the rule has matched, failed or not.
    pub fn matches(&self) -> u64 {
        self.matches.load(Ordering::SeqCst)
    }

    /// Returns the number of operations that the rule has made fail.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }
}

/// The rules of a disk. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultRules(Vec<(FaultRule, ArmedFault)>);

impl FaultRules {
    pub(super) fn add(&mut self, rule: FaultRule) -> ArmedFault {
        let armed = ArmedFault::default();
        self.0.push((rule, armed.clone()));
        armed
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the error of the first rule by which this operation fails. A read or a
    /// write is of `bytes`; other operations are of none.
    pub(super) fn error(&self, op: Op, path: &Path, bytes: Range<u64>) -> Option<DiskError> {
        let path = path.to_string_lossy();
        let mut error = None;
        for (rule, armed) in &self.0 {
            let has_bytes = rule
                .bytes
                .as_ref()
                .is_none_or(|bad| bytes.start < bad.end && bad.start < bytes.end);
            if !rule.ops.contains(&op) || !path.contains(&rule.path) || !has_bytes {
                continue;
            }
            let number = armed.matches.fetch_add(1, Ordering::SeqCst);
            if number >= rule.after && armed.failures() < rule.times && error.is_none() {
                armed.failures.fetch_add(1, Ordering::SeqCst);
                error = Some(rule.error);
            }
        }
        error
    }
}
