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
use crate::lives;
use crate::log::Log;
use crate::model::Model;
use crate::panics;
use crate::remote;
use crate::server::{CurrentRouter, KnownSource, Server, ServerSetup, directory};
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
    lives::start();
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
    let left = lives::stop();
    let fault = result.unwrap_or(None).or(panic).or(left);
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

/// A source: its computer, what the user saves there, and what the model knows of it.
struct Side {
    slot: Slot<Source>,
    setup: SourceSetup,
    model: Model,
    /// Its manifest server.
    router: CurrentRouter,
    /// The newest confirmed manifest at the last check.
    checked: Option<u64>,
}

struct History {
    rng: StdRng,
    events: u32,
    log: Log,
    net: SimNet,
    sides: Vec<Side>,
    server_setup: ServerSetup,
    server: Slot<Server>,
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
        let server_key = key(&mut rng);
        let server = server_key.public().to_peer_id();
        let started = Instant::now();
        let data_dir = base.join("server");
        std::fs::create_dir(&data_dir).expect("the temporary directory is writable");
        // One of four histories has two sources; in one of four, only triggers announce changes.
        let count = if rng.random_bool(0.25) { 2 } else { 1 };
        let has_polls = rng.random_bool(0.75);
        let mut sides = Vec::new();
        for (name, number) in [("A", 1), ("A2", 2)].into_iter().take(count) {
            let source_key = key(&mut rng);
            let clock = SimClock::new(started);
            let tree = ["tree", "tree 2"][number - 1];
            let tree = Tree::new(base, tree, clock.clone());
            let tree = tree.expect("the temporary directory is writable");
            let source = source_key.public().to_peer_id();
            let model = Model::new(name, source, tree, log.clone());
            let setup = SourceSetup {
                net: net.clone(),
                key: source_key,
                server,
                clock,
                model: model.clone(),
                started,
                trigger: CurrentRouter::default(),
            };
            let router = CurrentRouter::default();
            sides.push(Side { slot: Slot::new(), setup, model, router, checked: None });
        }
        let known = |side: &Side| KnownSource {
            peer: side.model.source,
            router: side.router.clone(),
            model: side.model.clone(),
        };
        let server_setup = ServerSetup {
            net: net.clone(),
            key: server_key,
            sources: sides.iter().map(known).collect(),
            has_polls,
            clock: SimClock::new(started),
            log: log.clone(),
            data_dir,
        };
        log.line("sim", format_args!("{count} sources, polls: {has_polls}"));
        Self {
            rng,
            events: options.events,
            log,
            net,
            sides,
            server_setup,
            server: Slot::new(),
            is_stormy: true,
            is_detailed: options.is_detailed,
            base: base.to_owned(),
            restores: 0,
        }
    }

    /// Returns the peer ids of all sources, and of the backup server.
    fn peers(&self) -> (Vec<PeerId>, PeerId) {
        let server = self.sides[0].setup.server;
        (self.sides.iter().map(|side| side.model.source).collect(), server)
    }

    /// Fails the seed.
    fn fail(&self, text: impl Into<String>) {
        self.sides[0].model.fail(text);
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
        self.sides.iter().find_map(|side| side.model.failure()).or_else(panics::first)
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
            let mut is_new = false;
            for side in &mut self.sides {
                let newest = side.model.newest_confirmed();
                is_new |= newest != side.checked;
                side.checked = newest;
            }
            if is_new {
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
        let models = self.server_setup.models();
        if let Err(error) = after_power_cut(&disk, Power::Dropped, &models) {
            self.fail(format!("after a power cut of B: {error}"));
        }
    }

    /// Returns the disk of a running process.
    fn disk(&self, which: Which) -> Option<SimDisk> {
        match which {
            Which::Source(at) => self.sides[at].slot.process.as_ref().map(|p| p.disk.sim().clone()),
            Which::Server => self.server.process.as_ref().map(|p| p.disk.sim().clone()),
        }
    }

    fn any(&mut self) -> Which {
        if self.rng.random() { Which::Source(self.any_source()) } else { Which::Server }
    }

    fn any_source(&mut self) -> usize {
        self.rng.random_range(0..self.sides.len())
    }

    /// Returns all sides.
    fn all(&self) -> Vec<Which> {
        (0..self.sides.len()).map(Which::Source).chain([Which::Server]).collect()
    }

    /// Ends all faults.
    fn calm(&mut self) {
        self.is_stormy = false;
        self.log.line("sim", "all faults end");
        self.heal_network();
        for which in self.all() {
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
        for at in 0..self.sides.len() {
            self.mend_reads(at);
            if self.rng.random() {
                self.sides[at].slot.power = Power::Kept;
                self.end_source(at);
            }
        }
        if self.rng.random() {
            self.server.power = Power::Kept;
            self.end_server();
        }
        if !self.server_setup.has_polls {
            // The repeated triggers for the last change may be used up; the next change has new
            // ones.
            for side in &self.sides {
                let saved = side.model.tree(Tree::save_last);
                saved.expect("the temporary directory is writable");
                if let Some(source) = &side.slot.process {
                    source.hint("");
                }
            }
        }
    }

    /// Waits until the backup server has confirmed the current tree.
    async fn catch_up(&mut self) {
        let end = Instant::now() + CATCH_UP_MAX;
        while Instant::now() < end {
            if !self.pass(Duration::from_secs(1)).await {
                return;
            }
            if self.sides.iter().all(Side::has_caught_up) {
                self.log.line("sim", "the backup server has caught up");
                return;
            }
        }
        let status = |side: &Side| side.slot.process.as_ref().map(Source::status);
        let sources: Vec<_> = self.sides.iter().map(status).collect();
        let server = self.server.process.as_ref().map_or_else(String::new, Server::status);
        self.fail(format!("B has not caught up. Sources: {sources:?}. B: {server}"));
    }

    /// Loses the disks of all sources, and restores each source from the backup server: its own
    /// list names the newest snapshot, and the restored tree is the one that was saved last.
    async fn lose_sources(&mut self) {
        for at in 0..self.sides.len() {
            self.sides[at].slot.power = Power::Dropped;
            self.end_source(at);
            self.sides[at].slot.image = SimDisk::new();
            let Side { setup, model, .. } = &self.sides[at];
            let node = setup.bare_node();
            let (net, server) = (node.handle(), setup.server);
            let target = self.base.join(format!("restored-of-{}", model.name));
            let restored = match remote::list(&net, server, model).await {
                Ok(listed) => match listed.last() {
                    Some(newest) => remote::restore(&net, server, model, newest, &target).await,
                    None => Err("the list is empty".to_owned()),
                },
                Err(error) => Err(error),
            };
            let is_current = |tree| model.tree(|saved| saved.now() == tree);
            match restored.and_then(|()| directory(&target)) {
                Ok(tree) if is_current(&tree) => self.log.line(model.name, "restored through B"),
                Ok(_) => model.fail("the tree that was saved last is not the restored one"),
                Err(error) => model.fail(format!("not restored after the loss: {error}")),
            }
        }
    }

    /// Restores the last snapshot, cuts the power once more, and compares everything.
    async fn last_check(&mut self) {
        // It may be about to start.
        while self.server.process.is_none() {
            if !self.pass(Duration::from_secs(1)).await {
                return;
            }
        }
        if let Some(server) = &self.server.process {
            let target = self.base.join("restored-last");
            let result = server
                .check(&self.server_setup)
                .and_then(|()| server.restore(&self.server_setup, &target, u32::MAX));
            if let Err(error) = result {
                self.fail(format!("at the end: {error}"));
            }
        }
        self.lose_sources().await;
        let seed = self.rng.random();
        for power in [Power::Kept, Power::Dropped, Power::Torn, Power::Reordered(seed)] {
            let Some(disk) = self.disk(Which::Server) else { continue };
            if let Err(error) = after_power_cut(&disk, power, &self.server_setup.models()) {
                self.fail(format!("after the last power cut, {power:?}: {error}"));
            }
        }
        self.set_power(Which::Server, Power::Dropped);
        self.end_server();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// A source, by its index.
    Source(usize),
    Server,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Source(0) => "A",
            Self::Source(_) => "A2",
            Self::Server => "B",
        }
    }
}

impl Side {
    /// Reports whether the backup server has confirmed the current tree, and all of it can be
    /// read.
    fn has_caught_up(&self) -> bool {
        let newest = self.model.newest_confirmed();
        let errors = self.slot.process.as_ref().map(Source::errors);
        errors == Some(0) && newest.is_some_and(|newest| self.model.is_current(newest))
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
