//! Compresses blocks that were stored uncompressed, while the instance is idle.
//!
//! Once a minute the task checks whether the instance is busy. After a while
//! without activity, it recompresses one pack after the other, until nothing is
//! left or the instance is busy again; then it stops within a few blocks.

use std::sync::Arc;
use std::time::Duration;

use store::{PackStore, RecompressEnd, RecompressReport};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::with_causes;

use crate::services::Services;

/// Interval of the checks for activity. A check costs next to nothing.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Time without activity after which the instance is idle: a person at work
/// saves files within minutes, and a backup of many folders pauses for seconds.
const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);
/// Bytes of packs that are read between two checks for activity: one pack, which
/// takes a second or two.
const STEP: u64 = 1;
/// Niceness of the thread, so that everything else comes first.
#[cfg(target_os = "linux")]
const PRIORITY: i32 = 19;

/// The activity at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Activity {
    /// True if a pull, a restore or a job is running.
    is_busy: bool,
    /// Bytes of blocks that were sent and received since the start. They grow
    /// while another computer restores or pulls from this one.
    transferred: u64,
    /// Size of the packs in bytes.
    used: u64,
}

/// Decides whether the instance is idle.
#[derive(Debug)]
struct Idleness {
    since: Instant,
    last: Activity,
}

impl Idleness {
    /// Reports whether the instance is idle, after another check.
    fn check(&mut self, now: Instant, activity: Activity) -> bool {
        if activity.is_busy || activity != self.last {
            self.since = now;
        }
        self.last = activity;
        now.duration_since(self.since) >= IDLE_AFTER
    }
}

/// Runs steps while the instance is idle, until `stop`. `step` reports whether
/// more may be left to do.
async fn run_while_idle<F: Future<Output = bool>>(
    activity: impl Fn() -> Activity,
    mut step: impl FnMut() -> F,
    stop: CancellationToken,
) {
    let mut idleness = Idleness { since: Instant::now(), last: activity() };
    // Size of the packs when nothing was left to do. While it is the same, no
    // block is new.
    let mut done_at = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        loop {
            let current = activity();
            let is_idle = idleness.check(Instant::now(), current);
            if stop.is_cancelled() || !is_idle || done_at == Some(current.used) {
                break;
            }
            let has_more = step().await;
            // The step itself has made the packs smaller.
            idleness.last.used = activity().used;
            if !has_more {
                done_at = Some(idleness.last.used);
                break;
            }
        }
    }
}

fn activity(services: &Services) -> Activity {
    let net = services.net.metrics();
    Activity {
        is_busy: is_busy(services),
        transferred: net.block_bytes_sent + net.block_bytes_received,
        used: services.store.used_bytes(),
    }
}

/// Reports whether a pull, a restore or a job is running.
pub(crate) fn is_busy(services: &Services) -> bool {
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
    run_while_idle(|| activity(&services), step, stop.clone()).await;
}

/// Compresses on a thread of its own with the lowest priority; see
/// [`PackStore::recompress`].
///
/// # Errors
///
/// Returns the error of the store as text.
pub(crate) async fn recompress(
    store: Arc<PackStore>,
    budget: u64,
    stop: impl Fn() -> bool + Send + 'static,
) -> Result<RecompressReport, String> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        lower_priority();
        let result = store.recompress(budget, &stop);
        // Before the result is sent: the receiver may expect to have the last
        // handle of the store.
        drop(store);
        let _ = sender.send(result);
    };
    let started = std::thread::Builder::new().name("recompress".into()).spawn(work);
    started.map_err(|error| error.to_string())?;
    match receiver.await {
        Ok(result) => result.map_err(|error| with_causes(&error)),
        Err(_) => Err("the recompression ended unexpectedly; see the log".into()),
    }
}

/// Gives this thread the lowest priority, on systems that support priorities of
/// threads.
pub(crate) fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        tracing::debug!(%error, "cannot lower the priority of a thread");
    }
}

pub(crate) fn log(report: &RecompressReport) {
    for damaged in &report.damaged {
        tracing::warn!(damaged, "a damaged pack was not compressed");
    }
    if report.rewritten_packs > 0 {
        let (packs, before, after) =
            (report.rewritten_packs, report.before_bytes, report.after_bytes);
        tracing::info!(packs, before, after, "compressed stored packs");
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
        let still = Activity { is_busy: false, transferred: 7, used: 100 };
        let mut idleness = Idleness { since: start, last: still };
        assert!(!idleness.check(at(299), still));
        assert!(idleness.check(at(300), still));
        // A restore, a transfer and a new block each end the idle time.
        let busy = Activity { is_busy: true, ..still };
        let moved = Activity { transferred: 8, ..still };
        let stored = Activity { used: 101, ..moved };
        for (from, seen, after) in [(400, busy, still), (800, moved, moved), (1200, stored, stored)]
        {
            assert!(!idleness.check(at(from), seen));
            assert!(!idleness.check(at(from + 1), after));
            assert!(!idleness.check(at(from + 299), after), "{seen:?}");
            assert!(idleness.check(at(from + 301), after), "{seen:?}");
        }
        // The end of long activity is not idle yet.
        assert!(!idleness.check(at(2000), Activity { is_busy: true, ..stored }));
        assert!(!idleness.check(at(9000), Activity { is_busy: true, ..stored }));
        assert!(!idleness.check(at(9001), stored));
    }

    /// A store that needs a few steps.
    #[derive(Default)]
    struct Fake {
        activity: Activity,
        left: u32,
        steps: Vec<u64>,
    }

    #[tokio::test(start_paused = true)]
    async fn it_works_while_idle_until_nothing_is_left_and_again_when_there_is_more() {
        let fake = Arc::new(Mutex::new(Fake { left: 3, ..Fake::default() }));
        fake.lock().activity.used = 1000;
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let (seen, done) = (fake.clone(), fake.clone());
        let step = move || {
            let mut fake = done.lock();
            fake.steps.push(begun.elapsed().as_secs());
            fake.activity.used -= 10;
            fake.left = fake.left.saturating_sub(1);
            std::future::ready(fake.left > 0)
        };
        let activity = move || seen.lock().activity;
        let running = tokio::spawn(run_while_idle(activity, step, stop.clone()));
        let wait = |secs| tokio::time::sleep(Duration::from_secs(secs));
        // Busy for ten minutes, then left alone.
        fake.lock().activity.is_busy = true;
        wait(610).await;
        fake.lock().activity.is_busy = false;
        wait(3600).await;
        // The check after eleven minutes found no activity.
        assert_eq!(fake.lock().steps, [960, 960, 960], "all at once, and then no more");
        {
            let mut fake = fake.lock();
            fake.activity.used += 500;
            fake.left = 1;
            fake.steps.clear();
        }
        wait(3600).await;
        assert_eq!(fake.lock().steps.len(), 1, "{:?}", fake.lock().steps);
        // Activity between two steps is found.
        {
            let mut fake = fake.lock();
            (fake.activity.used, fake.activity.transferred, fake.left) = (5000, 1, 10);
            fake.steps.clear();
        }
        wait(60).await;
        fake.lock().activity.is_busy = true;
        wait(3600).await;
        assert_eq!(fake.lock().steps, Vec::<u64>::new());
        stop.cancel();
        running.await.unwrap();
    }
}
