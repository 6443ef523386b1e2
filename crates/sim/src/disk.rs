//! [`ProcessDisk`]: the simulated disk as one life of a process uses it.

use std::hash::Hasher as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::sim::{FaultRule, Op, SimDisk};
use disk::{Call, Disk, ObservedDisk, Observer};
use parking_lot::Mutex;

use crate::log::Log;

/// A [`SimDisk`] that reports the death of the process to a function, once, and summarises
/// the changes of the disk, so that the log shows the first difference between two runs.
#[derive(Clone)]
pub(crate) struct ProcessDisk(ObservedDisk<Process>);

struct Process {
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

impl Observer for Process {
    fn after(&self, call: &Call<'_>) {
        if call.is_write && call.op != Op::Open {
            self.note(call.op, call.path, [call.offset, call.len]);
        }
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
        let process = Process {
            disk: disk.clone(),
            on_death,
            trace: Mutex::default(),
            fails_reads: AtomicBool::new(false),
            log,
        };
        Self(ObservedDisk::over(Arc::new(disk), process))
    }

    /// Returns the disk for the program.
    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.0.clone())
    }

    /// Returns the simulated disk.
    pub(crate) fn sim(&self) -> &SimDisk {
        &self.0.observer().disk
    }

    /// Lets reads of the disk fail.
    pub(crate) fn fail_reads(&self, rule: FaultRule) {
        self.0.observer().fails_reads.store(true, Ordering::Relaxed);
        self.sim().add_fault(rule);
    }

    /// Reports whether reads may have failed since the process started.
    pub(crate) fn fails_reads(&self) -> bool {
        self.0.observer().fails_reads.load(Ordering::Relaxed)
    }

    /// Returns the number of changes so far and a hash of their kinds, names and lengths.
    pub(crate) fn trace(&self) -> String {
        let trace = self.0.observer().trace.lock();
        format!("{} changes, {:016x}", trace.operations, trace.hasher.finish())
    }
}

impl Process {
    /// Notes a change, and the death of the process during it.
    fn note(&self, op: Op, path: &Path, numbers: [u64; 2]) {
        {
            let mut trace = self.trace.lock();
            trace.operations += 1;
            trace.hasher.write(format!("{op:?}").as_bytes());
            trace.hasher.write(path.as_os_str().as_encoded_bytes());
            numbers.into_iter().for_each(|number| trace.hasher.write_u64(number));
        }
        if let Some((log, side)) = &self.log {
            log.line(side, format_args!("{op:?} {} {numbers:?}", path.display()));
        }
        if self.disk.is_dead()
            && let Some(on_death) = self.on_death.lock().take()
        {
            on_death();
        }
    }
}
