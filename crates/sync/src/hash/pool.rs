//! Threads that read files. None is started for a few small ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::chunks::Buffer;
use super::{Job, Read, Reading, read_files};

/// Small files are handed over together: this many …
const GROUP_LEN: usize = 64;
/// … or of so many bytes.
const GROUP_BYTES: u64 = 4 << 20;
/// How many groups wait for each thread.
const GROUPS_WAITING: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    reading: Arc<Reading>,
    threads_max: usize,
    group: Vec<Job>,
    group_bytes: u64,
    threads: Option<Threads>,
    /// Results that wait to be taken.
    ready: VecDeque<Read>,
    buffer: Buffer,
}

#[derive(Debug)]
struct Threads {
    jobs: Sender<Vec<Job>>,
    results: Receiver<Vec<Read>>,
    handles: Vec<JoinHandle<()>>,
    /// Groups whose results have not come.
    open: usize,
}

impl Pool {
    pub(crate) fn new(reading: Arc<Reading>, threads_max: usize) -> Self {
        Self {
            reading,
            threads_max: threads_max.max(1),
            group: Vec::new(),
            group_bytes: 0,
            threads: None,
            ready: VecDeque::new(),
            buffer: Buffer::default(),
        }
    }

    /// Takes a job. It waits while there are too many.
    pub(crate) fn add(&mut self, job: Job) {
        self.reading.monitor.add_job();
        self.group_bytes = self.group_bytes.saturating_add(job.found.stamp.size);
        self.group.push(job);
        if self.group.len() >= GROUP_LEN || self.group_bytes >= GROUP_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if self.threads.is_none() {
            self.threads = Threads::start(&self.reading, self.threads_max);
        }
        let Some(threads) = &mut self.threads else {
            return self.read_here(group);
        };
        threads.open += 1;
        // It fails only when all threads have died, which `finish` tells.
        let _ = threads.jobs.send(group);
    }

    fn read_here(&mut self, group: Vec<Job>) {
        self.ready.extend(read_files(&self.reading, &mut self.buffer, group));
    }

    /// A result that is there.
    pub(crate) fn take(&mut self) -> Option<Read> {
        if self.ready.is_empty()
            && let Some(threads) = &mut self.threads
        {
            while let Ok(results) = threads.results.try_recv() {
                threads.open -= 1;
                self.ready.extend(results);
            }
        }
        self.next_ready()
    }

    fn next_ready(&mut self) -> Option<Read> {
        let read = self.ready.pop_front()?;
        self.reading.monitor.end_job();
        Some(read)
    }

    /// The next result, after all jobs were given; `None`: there are no more.
    pub(crate) fn finish_one(&mut self) -> Option<Read> {
        if !self.group.is_empty() {
            if self.threads.is_some() {
                self.hand_over();
            } else {
                let group = std::mem::take(&mut self.group);
                self.read_here(group);
            }
        }
        if self.ready.is_empty()
            && let Some(threads) = &mut self.threads
            && threads.open > 0
            && let Ok(results) = threads.results.recv()
        {
            threads.open -= 1;
            self.ready.extend(results);
        }
        let read = self.next_ready();
        if read.is_none() {
            self.end();
        }
        read
    }

    /// Ends the threads. Where one panicked, so does this.
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
        self.reading.monitor.end_all_jobs();
    }
}

impl Threads {
    /// `None` where the system has no thread to give.
    fn start(reading: &Arc<Reading>, count: usize) -> Option<Self> {
        let (jobs, to_do) = bounded::<Vec<Job>>(count * GROUPS_WAITING);
        let (done, results) = unbounded();
        let mut handles = Vec::new();
        for number in 0..count {
            let (reading, to_do, done) = (reading.clone(), to_do.clone(), done.clone());
            let work = move || {
                let mut buffer = Buffer::default();
                for group in to_do {
                    if done.send(read_files(&reading, &mut buffer, group)).is_err() {
                        return;
                    }
                }
            };
            let name = format!("sync-hash-{number}");
            // With fewer threads it is slower.
            if let Ok(handle) = std::thread::Builder::new().name(name).spawn(work) {
                handles.push(handle);
            }
        }
        (!handles.is_empty()).then_some(Self { jobs, results, handles, open: 0 })
    }
}
