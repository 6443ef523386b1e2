//! Runs a program under many schedules.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use disk::sim::{Power, SimDisk};
use disk::{Call, ObservedDisk, Observer};
use plain::BlockRead as _;
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Scheduler,
    UncontrolledNondeterminismCheckScheduler,
};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{Config, MaxSteps, Runner};
use store::{PackStore, StoreOptions};
use types::EncodedBlock;

use crate::common::{DIR, Tree, chunk, options, tree_of};
use crate::turns::Turns;

/// Length at which a pack is full: some three blocks of [`file`].
pub(crate) const PACK_LEN: u64 = 600;
/// Number of schedules of a program, unless `ARCHIVIST_SCHEDULES` says otherwise: half of
/// them of [`Turns`], which finds most faults, and a quarter of each other scheduler.
const SCHEDULES: usize = 3000;
/// Number of schedules that run twice, to see that they are the same.
const REPEATED: usize = 50;
/// Number of switches of a PCT schedule, plus one.
const DEPTH: usize = 4;
/// Seed of the schedules, unless `ARCHIVIST_SEED` says otherwise.
const SEED: u64 = 16;
/// Length of the stack of a thread, in machine words.
const STACK_LEN: usize = 64 << 10;
/// Number of steps after which a program counts as endless.
const STEPS_MAX: usize = 200_000;

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}

/// Returns a file of small blocks, each made from a number.
pub(crate) fn file(seeds: &[u64]) -> Tree {
    tree_of(seeds.iter().map(|seed| chunk(*seed, 150)).collect())
}

/// Runs a program under many schedules, or under the one in `ARCHIVIST_SCHEDULE`. A
/// failure prints its schedule.
pub(crate) fn explore(program: impl Fn() + Send + Sync + 'static) {
    let program = Arc::new(program);
    if let Ok(schedule) = std::env::var("ARCHIVIST_SCHEDULE") {
        run(ReplayScheduler::new_from_encoded(schedule.trim()), program);
        return;
    }
    // A schedule runs again only if nothing else decides what the threads do.
    let random = RandomScheduler::new_from_seed(SEED, REPEATED);
    run(UncontrolledNondeterminismCheckScheduler::new(random), program.clone());
    let quarter = number("ARCHIVIST_SCHEDULES", SCHEDULES).div_ceil(4);
    let seed = number("ARCHIVIST_SEED", SEED);
    run(RandomScheduler::new_from_seed(seed, quarter), program.clone());
    run(PctScheduler::new_from_seed(seed, DEPTH, quarter), program.clone());
    run(Turns::new(seed, 2 * quarter), program);
}

/// Runs a program under one schedule, and returns its result.
pub(crate) fn once<T: Send + 'static>(program: impl Fn() -> T + Send + Sync + 'static) -> T {
    let result = Arc::new(Mutex::new(None));
    let place = result.clone();
    run(
        RandomScheduler::new_from_seed(SEED, 1),
        Arc::new(move || {
            *place.lock().unwrap() = Some(program());
        }),
    );
    let result = result.lock().unwrap().take();
    result.unwrap()
}

fn run(scheduler: impl Scheduler + 'static, program: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = STACK_LEN;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    // The store does not depend on relaxed orderings, which shuttle does not simulate.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || program());
}

/// Lets other threads run before each operation of a disk.
struct Switches(AtomicBool);

impl Observer for Switches {
    fn before(&self, _: &Call<'_>) -> io::Result<()> {
        // Any use of an atomic is a moment at which shuttle may switch.
        self.0.load(Ordering::SeqCst);
        Ok(())
    }
}

/// Opens the store on a disk with packs of this length.
pub(crate) fn open(disk: &SimDisk, pack_len: u64, background: bool) -> Arc<PackStore> {
    let options = StoreOptions { pack_len, background, ..options() };
    let disk = ObservedDisk::over(Arc::new(disk.clone()), Switches(AtomicBool::new(true)));
    Arc::new(PackStore::open_on(Arc::new(disk), Path::new(DIR), &options).unwrap().0)
}

/// Waits until a block is visible.
pub(crate) fn wait_for(store: &PackStore, block: &EncodedBlock) {
    use store::BlockRead as _;
    while !store.has(&block.cid()).unwrap() {
        shuttle::thread::yield_now();
    }
}

/// Returns the store that a power cut would leave at this moment.
pub(crate) fn after_power_cut(disk: &SimDisk) -> plain::PackStore {
    let StoreOptions { max_storage, disk_reserve, pack_len, background } = options();
    let options = plain::StoreOptions { max_storage, disk_reserve, pack_len, background };
    let image = Arc::new(disk.crash(Power::Dropped));
    let (store, report) = plain::PackStore::open_on(image, Path::new(DIR), &options).unwrap();
    assert_eq!((report.damage, report.lost_packs), (vec![], vec![]), "after a power cut");
    store
}

/// Asserts that a power cut at this moment would leave the blocks.
pub(crate) fn assert_durable(disk: &SimDisk, blocks: &[EncodedBlock], context: &str) {
    let store = after_power_cut(disk);
    for block in blocks {
        let found = store.get(&block.cid()).unwrap();
        assert_eq!(found, Some(block.decode().unwrap()), "{context}: after a power cut");
    }
}

/// Asserts that a block reads back as it was put.
pub(crate) fn assert_readable(store: &PackStore, block: &EncodedBlock, context: &str) {
    use store::BlockRead as _;
    let found = store.get(&block.cid());
    assert_eq!(found.unwrap(), Some(block.decode().unwrap()), "{context}");
}
