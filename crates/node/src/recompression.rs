//! Compressing what was stored as it came, while nobody wants the machine.
//!
//! Once a minute it is looked at what goes on. When nothing has for a while,
//! the store works through one pack after the other, until there is nothing
//! left to do, or until something else wants the machine: then it lets go
//! within a few blocks.

use std::sync::Arc;
use std::time::Duration;

use store::{PackStore, RecompressEnd, RecompressReport};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::with_causes;

use crate::services::Services;

/// How often it is looked at what goes on: a look costs next to nothing.
const LOOK: Duration = Duration::from_secs(60);
/// A machine that has been left alone for so long is idle: who works saves
/// again within minutes, and a backup of many folders pauses for seconds.
const QUIET: Duration = Duration::from_secs(5 * 60);
/// What is read before it is looked again, in bytes of packs: one pack, which
/// takes a second or two.
const STEP: u64 = 1;
/// Everything else comes first (`nice`).
#[cfg(target_os = "linux")]
const PRIORITY: i32 = 19;

/// What goes on, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// A pull, a restore or a job is under way.
    is_busy: bool,
    /// Bytes of blocks that were sent and received since the start: another
    /// machine restores from here, or fills what it lacks.
    moved: u64,
    /// What the packs take, in bytes.
    used: u64,
}

/// Tells whether nothing has happened for a while.
#[derive(Debug)]
struct Idleness {
    since: Instant,
    last: Seen,
}

impl Idleness {
    fn look(&mut self, now: Instant, seen: Seen) -> bool {
        if seen.is_busy || seen != self.last {
            self.since = now;
        }
        self.last = seen;
        now.duration_since(self.since) >= QUIET
    }
}

/// Makes steps while nothing else happens, until `stop`. `step` tells whether
/// there may be more to do.
async fn run_while_idle<F: Future<Output = bool>>(
    look: impl Fn() -> Seen,
    mut step: impl FnMut() -> F,
    stop: CancellationToken,
) {
    let mut idleness = Idleness { since: Instant::now(), last: look() };
    // What the packs took when nothing was left to do: as long as that is so,
    // there is nothing new.
    let mut done_at = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        loop {
            let seen = look();
            let is_idle = idleness.look(Instant::now(), seen);
            if stop.is_cancelled() || !is_idle || done_at == Some(seen.used) {
                break;
            }
            let has_more = step().await;
            // That the packs are shorter now is its own doing.
            idleness.last.used = look().used;
            if !has_more {
                done_at = Some(idleness.last.used);
                break;
            }
        }
    }
}

fn look(services: &Services) -> Seen {
    let net = services.net.metrics();
    Seen {
        is_busy: is_busy(services),
        moved: net.block_bytes_sent + net.block_bytes_received,
        used: services.store.used_bytes(),
    }
}

fn is_busy(services: &Services) -> bool {
    services.restores.is_any_running()
        || services.jobs.is_any_running()
        || services.backup_daemon.sources().iter().any(|source| !source.pulls.is_empty())
}

/// Compresses while the instance is idle, until it stops.
pub(crate) async fn run(services: Services) {
    let stop = services.stop_token();
    let step = || {
        let (services, stop) = (services.clone(), stop.clone());
        async move {
            let store = services.store.clone();
            let must_stop = move || stop.is_cancelled() || is_busy(&services);
            match recompress(store, STEP, must_stop).await {
                Ok(report) => {
                    log(&report);
                    matches!(report.end, RecompressEnd::Budget | RecompressEnd::Stopped)
                }
                Err(error) => {
                    tracing::warn!(error, "cannot compress stored packs");
                    false
                }
            }
        }
    };
    run_while_idle(|| look(&services), step, stop.clone()).await;
}

/// Compresses on a thread of its own, which gives way to every other; see
/// [`PackStore::recompress`].
///
/// # Errors
///
/// Those of the store, in words.
pub(crate) async fn recompress(
    store: Arc<PackStore>,
    budget: u64,
    stop: impl Fn() -> bool + Send + 'static,
) -> Result<RecompressReport, String> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        give_way();
        let result = store.recompress(budget, &stop);
        // Before it is told: whoever was waiting may be the last to hold it.
        drop(store);
        let _ = sender.send(result);
    };
    let started = std::thread::Builder::new().name("recompress".into()).spawn(work);
    started.map_err(|error| error.to_string())?;
    match receiver.await {
        Ok(result) => result.map_err(|error| with_causes(&error)),
        Err(_) => Err("it broke off; the log tells why".into()),
    }
}

/// Gives this thread the lowest priority. Where threads have none of their own,
/// the system shares its time evenly.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        tracing::debug!(%error, "could not lower the priority of a thread");
    }
}

pub(crate) fn log(report: &RecompressReport) {
    for damaged in &report.damaged {
        tracing::warn!(damaged, "a pack is damaged and is not compressed");
    }
    if report.rewritten_packs > 0 {
        let (packs, before, after) =
            (report.rewritten_packs, report.before_bytes, report.after_bytes);
        tracing::info!(packs, before, after, "what was stored as it came is compressed");
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn idle_is_who_was_left_alone_for_long_enough() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let still = Seen { is_busy: false, moved: 7, used: 100 };
        let mut idleness = Idleness { since: start, last: still };
        assert!(!idleness.look(at(299), still));
        assert!(idleness.look(at(300), still));
        // A restore runs, blocks travel, something is stored: each begins anew.
        let busy = Seen { is_busy: true, ..still };
        let moved = Seen { moved: 8, ..still };
        let stored = Seen { used: 101, ..moved };
        for (from, seen, after) in [(400, busy, still), (800, moved, moved), (1200, stored, stored)]
        {
            assert!(!idleness.look(at(from), seen));
            assert!(!idleness.look(at(from + 1), after));
            assert!(!idleness.look(at(from + 299), after), "{seen:?}");
            assert!(idleness.look(at(from + 301), after), "{seen:?}");
        }
        // What goes on for long is not idle at its end.
        assert!(!idleness.look(at(2000), Seen { is_busy: true, ..stored }));
        assert!(!idleness.look(at(9000), Seen { is_busy: true, ..stored }));
        assert!(!idleness.look(at(9001), stored));
    }

    /// A store of a few steps, and what is seen of it.
    #[derive(Default)]
    struct Fake {
        seen: Seen,
        left: u32,
        steps: Vec<u64>,
    }

    #[tokio::test(start_paused = true)]
    async fn it_works_while_idle_until_nothing_is_left_and_again_when_there_is_more() {
        let fake = Arc::new(Mutex::new(Fake { left: 3, ..Fake::default() }));
        fake.lock().seen.used = 1000;
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let (seen, done) = (fake.clone(), fake.clone());
        let step = move || {
            let mut fake = done.lock();
            fake.steps.push(begun.elapsed().as_secs());
            fake.seen.used -= 10;
            fake.left = fake.left.saturating_sub(1);
            std::future::ready(fake.left > 0)
        };
        let look = move || seen.lock().seen;
        let running = tokio::spawn(run_while_idle(look, step, stop.clone()));
        let wait = |secs| tokio::time::sleep(Duration::from_secs(secs));
        // Busy for ten minutes, then left alone.
        fake.lock().seen.is_busy = true;
        wait(610).await;
        fake.lock().seen.is_busy = false;
        wait(3600).await;
        // It was seen after eleven minutes that nothing goes on any more.
        assert_eq!(fake.lock().steps, [960, 960, 960], "all at once, and then no more");
        {
            let mut fake = fake.lock();
            fake.seen.used += 500;
            fake.left = 1;
            fake.steps.clear();
        }
        wait(3600).await;
        assert_eq!(fake.lock().steps.len(), 1, "{:?}", fake.lock().steps);
        // Between two steps it is looked again.
        {
            let mut fake = fake.lock();
            (fake.seen.used, fake.seen.moved, fake.left) = (5000, 1, 10);
            fake.steps.clear();
        }
        wait(60).await;
        fake.lock().seen.is_busy = true;
        wait(3600).await;
        assert_eq!(fake.lock().steps, Vec::<u64>::new());
        stop.cancel();
        running.await.unwrap();
    }
}
