//! A history: random events for a while, then peace, in which the backup server must catch up.

mod events;
mod processes;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::disk::sim::{Power, SimDisk};
use net::sim::{SimNet, Simulation};
use net::{Keypair, PeerId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::check::after_power_cut;
use crate::clock::SimClock;
use crate::log::Log;
use crate::model::Model;
use crate::panics;
use crate::server::{CurrentRouter, Server, ServerSetup};
use crate::source::{Source, SourceSetup};
use crate::tree::Tree;

/// Interval at which the ends of processes are noticed.
const TICK: Duration = Duration::from_millis(100);
/// Maximum time for the backup server to catch up after the last fault. The longest waiting
/// times of both sides are 5 minutes each.
const CATCH_UP_MAX: Duration = Duration::from_secs(15 * 60);

/// Options of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// True if the log has each change of a disk and the messages of the program. Two logs of
    /// a seed may then differ in random names.
    pub is_detailed: bool,
    /// Number of random events.
    pub events: u32,
}

impl Options {
    /// Returns the options of a normal run.
    pub fn new(seed: u64) -> Self {
        Self { seed, is_detailed: false, events: 30 }
    }
}

/// Result of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The log, one line for each event.
    pub log: String,
    /// The fault that the simulation found, if there is one.
    pub fault: Option<String>,
}

/// Runs one history twice. Two different logs are a fault of the simulation.
pub fn simulate_twice(options: Options) -> Outcome {
    let [first, second] = [(); 2].map(|()| simulate(options));
    let difference = first.log.lines().zip(second.log.lines()).find(|(a, b)| a != b);
    let fault = match difference {
        Some((a, b)) => Some(format!("two runs differ: {a:?} and {b:?}")),
        None if first.log != second.log => Some("one of two runs is longer".to_owned()),
        None => first.fault.clone(),
    };
    Outcome { fault, ..first }
}

/// Runs one history on this thread.
pub fn simulate(options: Options) -> Outcome {
    let base = Base::create(options.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can be built");
    let _simulation = Simulation::start(options.seed);
    panics::start();
    let log = runtime.block_on(async { Log::new() });
    let _messages = options.is_detailed.then(|| log.add_messages());
    let running = AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut history = History::new(options, &base.0, log.clone());
            history.run().await
        })
    });
    let result = std::panic::catch_unwind(running);
    drop(runtime);
    let panic = panics::stop();
    let fault = result.unwrap_or(None).or(panic);
    Outcome { seed: options.seed, log: log.text(), fault }
}

/// A real directory for the tree of the source, in memory if the system has such a directory.
/// Its path follows from the seed, because manifests contain it.
struct Base(PathBuf, #[expect(dead_code, reason = "locked until it is dropped")] std::fs::File);

impl Base {
    fn create(seed: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let parent = parent.join("archivist-sim");
        std::fs::create_dir_all(&parent).expect("the temporary directory is writable");
        let lock = parent.join(format!("{seed:016x}.lock"));
        let lock = std::fs::File::create(lock).expect("the temporary directory is writable");
        // Another process may run the same seed.
        lock.lock().expect("files can be locked");
        let base = parent.join(format!("{seed:016x}"));
        let _ = std::fs::remove_dir_all(&base);
        std::fs::create_dir(&base).expect("the temporary directory is writable");
        Self(base, lock)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One of the two processes: its disk, and when it starts again.
struct Slot<P> {
    process: Option<P>,
    /// The disk while no process runs.
    image: SimDisk,
    /// Power model of the next death.
    power: Power,
    restart_at: Instant,
}

impl<P> Slot<P> {
    fn new() -> Self {
        let (image, power) = (SimDisk::new(), Power::Kept);
        Self { process: None, image, power, restart_at: Instant::now() }
    }
}

struct History {
    rng: StdRng,
    events: u32,
    log: Log,
    net: SimNet,
    model: Model,
    router: CurrentRouter,
    source_setup: SourceSetup,
    server_setup: ServerSetup,
    source: Slot<Source>,
    server: Slot<Server>,
    /// The newest confirmed manifest at the last check.
    checked: Option<u64>,
    /// True while faults are injected.
    is_stormy: bool,
    is_detailed: bool,
    base: PathBuf,
    restores: u32,
}

fn key(rng: &mut StdRng) -> Keypair {
    Keypair::ed25519_from_bytes(rng.random::<[u8; 32]>()).expect("any 32 bytes are a key")
}

impl History {
    fn new(options: Options, base: &Path, log: Log) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed);
        let net = SimNet::new(rng.random());
        let (source_key, server_key) = (key(&mut rng), key(&mut rng));
        let (source, server) = (source_key.public().to_peer_id(), server_key.public().to_peer_id());
        let started = Instant::now();
        let clock = SimClock::new(started);
        let tree = Tree::new(base, clock.clone()).expect("the temporary directory is writable");
        let model = Model::new(tree, log.clone());
        let router = CurrentRouter::default();
        let data_dir = base.join("server");
        std::fs::create_dir(&data_dir).expect("the temporary directory is writable");
        let source_setup = SourceSetup {
            net: net.clone(),
            key: source_key,
            server,
            clock,
            model: model.clone(),
            started,
        };
        let server_setup = ServerSetup {
            net: net.clone(),
            key: server_key,
            source,
            router: router.clone(),
            clock: SimClock::new(started),
            model: model.clone(),
            log: log.clone(),
            data_dir,
        };
        Self {
            rng,
            events: options.events,
            log,
            net,
            model,
            router,
            source_setup,
            server_setup,
            source: Slot::new(),
            server: Slot::new(),
            checked: None,
            is_stormy: true,
            is_detailed: options.is_detailed,
            base: base.to_owned(),
            restores: 0,
        }
    }

    fn peers(&self) -> (PeerId, PeerId) {
        (self.server_setup.source, self.source_setup.server)
    }

    /// Runs the history, and returns the fault if there is one.
    async fn run(&mut self) -> Option<String> {
        self.storm().await;
        self.calm();
        self.catch_up().await;
        if self.fault().is_none() {
            self.last_check().await;
        }
        self.fault()
    }

    fn fault(&self) -> Option<String> {
        self.model.failure().or_else(panics::first)
    }

    async fn storm(&mut self) {
        for _ in 0..self.events {
            let pause = Duration::from_millis(self.rng.random_range(1..4000));
            if !self.pass(pause).await {
                return;
            }
            self.event();
        }
    }

    /// Lets time pass, starts processes again, and checks receipts. Returns `false` after a
    /// fault.
    async fn pass(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            self.supervise().await;
            if self.fault().is_some() {
                return false;
            }
            if self.model.newest_confirmed() != self.checked {
                self.checked = self.model.newest_confirmed();
                self.check_power_cut();
            }
            let now = Instant::now();
            if now >= end {
                return true;
            }
            tokio::time::sleep(TICK.min(end - now)).await;
        }
    }

    /// Checks that confirmed snapshots survive a power cut at this moment.
    fn check_power_cut(&self) {
        let disk = match &self.server.process {
            Some(server) => server.disk.sim().clone(),
            None => self.server.image.clone(),
        };
        if let Err(error) = after_power_cut(&disk, Power::Dropped, &self.model) {
            self.model.fail(format!("after a power cut of B: {error}"));
        }
    }

    /// Returns the disk of a running process.
    fn disk(&self, which: Which) -> Option<SimDisk> {
        match which {
            Which::Source => self.source.process.as_ref().map(|p| p.disk.sim().clone()),
            Which::Server => self.server.process.as_ref().map(|p| p.disk.sim().clone()),
        }
    }

    fn any(&mut self) -> Which {
        if self.rng.random() { Which::Source } else { Which::Server }
    }

    /// Ends all faults.
    fn calm(&mut self) {
        self.is_stormy = false;
        self.log.line("sim", "all faults end");
        self.heal_network();
        for which in [Which::Source, Which::Server] {
            if let Some(disk) = self.disk(which) {
                disk.clear_fault();
                disk.clear_fault_rules();
                disk.set_capacity(None);
            }
            let image = self.slot_image(which);
            image.clear_fault();
            image.clear_fault_rules();
            image.set_capacity(None);
        }
        // A process that has seen errors of its disk is restarted, as its user would do.
        if self.rng.random() {
            self.source.power = Power::Kept;
            self.end_source();
        }
        if self.rng.random() {
            self.server.power = Power::Kept;
            self.end_server();
        }
    }

    /// Waits until the backup server has confirmed the current tree.
    async fn catch_up(&mut self) {
        let end = Instant::now() + CATCH_UP_MAX;
        while Instant::now() < end {
            if !self.pass(Duration::from_secs(1)).await {
                return;
            }
            if self.model.newest_confirmed().is_some_and(|newest| self.model.is_current(newest)) {
                self.log.line("sim", "the backup server has caught up");
                return;
            }
        }
        let source = self.source.process.as_ref().map_or_else(String::new, Source::status);
        let server = self.server.process.as_ref().map_or_else(String::new, Server::status);
        self.model.fail(format!("B has not caught up. A: {source}. B: {server}"));
    }

    /// Restores the last snapshot, cuts the power once more, and compares everything.
    async fn last_check(&mut self) {
        if let Some(server) = &self.server.process {
            let target = self.base.join("restored-last");
            let result = server
                .check(&self.model)
                .and_then(|()| server.restore(&self.server_setup, &target, u32::MAX));
            if let Err(error) = result {
                self.model.fail(format!("at the end: {error}"));
            }
        }
        let seed = self.rng.random();
        for power in [Power::Kept, Power::Dropped, Power::Torn, Power::Reordered(seed)] {
            let Some(disk) = self.disk(Which::Server) else { continue };
            if let Err(error) = after_power_cut(&disk, power, &self.model) {
                self.model.fail(format!("after the last power cut, {power:?}: {error}"));
            }
        }
        for which in [Which::Source, Which::Server] {
            self.set_power(which, Power::Dropped);
        }
        self.end_source();
        self.end_server();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Source,
    Server,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "A",
            Self::Server => "B",
        }
    }
}

/// Returns a random way in which a process ends: killed, or with the power of its computer.
fn power(rng: &mut StdRng) -> Power {
    match rng.random_range(0..4) {
        0 => Power::Kept,
        1 => Power::Dropped,
        2 => Power::Torn,
        _ => Power::Reordered(rng.random()),
    }
}
