//! Threads that read files. For a few small files, none is started.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::chunks::Buffer;
use super::{FileReader, ReadJob, ReadResult, read_files};

/// Number of small files that a thread receives together.
const GROUP_LEN: usize = 64;
/// Number of bytes at which a group is complete earlier.
const GROUP_BYTES: u64 = 4 << 20;
/// Maximum number of groups that wait for each thread.
const GROUPS_WAITING: usize = 4;

/// Reads files, in threads of its own or in that of the caller.
#[derive(Debug)]
pub(crate) struct Pool {
    reader: Arc<FileReader>,
    threads_max: usize,
    group: Vec<ReadJob>,
    group_bytes: u64,
    threads: Option<Threads>,
    /// Results that the caller has not taken yet.
    ready: VecDeque<ReadResult>,
    buffer: Buffer,
}

#[derive(Debug)]
struct Threads {
    jobs: Sender<Vec<ReadJob>>,
    results: Receiver<Vec<ReadResult>>,
    handles: Vec<JoinHandle<()>>,
    /// Number of groups without results so far.
    unfinished: usize,
}

impl Pool {
    pub(crate) fn new(reader: Arc<FileReader>, threads_max: usize) -> Self {
        Self {
            reader,
            threads_max: threads_max.max(1),
            group: Vec::new(),
            group_bytes: 0,
            threads: None,
            ready: VecDeque::new(),
            buffer: Buffer::default(),
        }
    }

    /// Adds a job. The call blocks while too many groups wait.
    pub(crate) fn add(&mut self, job: ReadJob) {
        self.reader.monitor.add_job();
        self.group_bytes = self.group_bytes.saturating_add(job.found.stamp.size);
        self.group.push(job);
        if self.group.len() >= GROUP_LEN || self.group_bytes >= GROUP_BYTES {
            self.send_group();
        }
    }

    fn send_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if self.threads.is_none() {
            self.threads = Threads::start(&self.reader, self.threads_max);
        }
        let Some(threads) = &mut self.threads else {
            return self.read_here(group);
        };
        threads.unfinished += 1;
        // Sending fails only if all threads have panicked, which `finish_one` reports.
        let _ = threads.jobs.send(group);
    }

    fn read_here(&mut self, group: Vec<ReadJob>) {
        self.ready.extend(read_files(&self.reader, &mut self.buffer, group));
    }

    /// Returns a result, if there is one.
    pub(crate) fn take(&mut self) -> Option<ReadResult> {
        if self.ready.is_empty()
            && let Some(threads) = &mut self.threads
        {
            while let Ok(results) = threads.results.try_recv() {
                threads.unfinished -= 1;
                self.ready.extend(results);
            }
        }
        self.next_ready()
    }

    fn next_ready(&mut self) -> Option<ReadResult> {
        let read = self.ready.pop_front()?;
        self.reader.monitor.end_job();
        Some(read)
    }

    /// Waits for the next result, after all jobs were added; `None` after the last.
    pub(crate) fn finish_one(&mut self) -> Option<ReadResult> {
        if !self.group.is_empty() {
            if self.threads.is_some() {
                self.send_group();
            } else {
                let group = std::mem::take(&mut self.group);
                self.read_here(group);
            }
        }
        if self.ready.is_empty()
            && let Some(threads) = &mut self.threads
            && threads.unfinished > 0
            && let Ok(results) = threads.results.recv()
        {
            threads.unfinished -= 1;
            self.ready.extend(results);
        }
        let read = self.next_ready();
        if read.is_none() {
            self.end();
        }
        read
    }

    /// Ends the threads. Panics if one of them has panicked.
    fn end(&mut self) {
        let Some(Threads { jobs, results, handles, .. }) = self.threads.take() else { return };
        drop(jobs);
        drop(results);
        for handle in handles {
            if let Err(panic) = handle.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
        self.reader.monitor.end_all_jobs();
    }
}

impl Threads {
    /// Returns `None` if the system cannot start any thread.
    fn start(reader: &Arc<FileReader>, count: usize) -> Option<Self> {
        let (jobs, to_do) = bounded::<Vec<ReadJob>>(count * GROUPS_WAITING);
        let (done, results) = unbounded();
        let mut handles = Vec::new();
        for number in 0..count {
            let (reader, to_do, done) = (reader.clone(), to_do.clone(), done.clone());
            let work = move || {
                let mut buffer = Buffer::default();
                for group in to_do {
                    if done.send(read_files(&reader, &mut buffer, group)).is_err() {
                        return;
                    }
                }
            };
            let name = format!("sync-hash-{number}");
            // With fewer threads, reading is slower.
            if let Ok(handle) = std::thread::Builder::new().name(name).spawn(work) {
                handles.push(handle);
            }
        }
        (!handles.is_empty()).then_some(Self { jobs, results, handles, unfinished: 0 })
    }
}
