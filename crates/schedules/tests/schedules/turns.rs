//! [`Turns`]: a scheduler for faults that need one thread to pause at one moment.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

/// Mean lengths of a turn in steps; each schedule has one of them.
const TURNS: [f64; 3] = [4.0, 16.0, 64.0];

/// Lets each thread run for a random number of steps before another one runs. A thread
/// that pauses in the middle of an operation then sees the other threads do much work,
/// which hardly ever happens if each step is of a random thread.
#[derive(Debug)]
pub(crate) struct Turns {
    random: StdRng,
    left: usize,
    /// Probability that a turn ends with a step.
    end: f64,
}

impl Turns {
    /// Creates a scheduler of `count` schedules.
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        Self { random: StdRng::seed_from_u64(seed), left: count, end: 1.0 }
    }
}

impl Scheduler for Turns {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.left = self.left.checked_sub(1)?;
        self.end = 1.0 / TURNS[self.random.random_range(0..TURNS.len())];
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let goes_on = runnable.iter().map(|task| task.id()).find(|id| Some(*id) == current);
        match goes_on {
            Some(id) if !is_yielding && !self.random.random_bool(self.end) => Some(id),
            _ => Some(runnable[self.random.random_range(0..runnable.len())].id()),
        }
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("the programs use no random numbers of shuttle: a replay would need them")
    }
}
