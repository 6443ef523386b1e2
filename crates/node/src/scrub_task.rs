//! Reads every pack of the store again within `[backup_server] scrub_days`, so that
//! damage is found while good copies exist elsewhere.
//!
//! The dates of the packs decide which pack is due (`store::ScrubDates`). A due pack is
//! read on a thread with the lowest priority, at a limited speed, and only while no
//! backup, restore or other job is running, unless the pack is long overdue. The store
//! reports damage to the healing.
//!
//! An I/O error is not damage: the pack is read again later, and only if the same
//! blocks stay unreadable over hours while the rest of the pack can be read, they are
//! set aside and fetched again.

use std::time::{Duration, Instant};

use store::{FaultyBlock, NextScrub, PackId, ScrubDates, ScrubEnd, ScrubReport};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use types::with_causes;

use crate::recompression::{is_busy, lower_priority};
use crate::scrub_state::{Deferrals, pause, rate};
use crate::services::Services;

/// Pause before the first check for due packs: the start has other work.
const FIRST: Duration = Duration::from_secs(5);
/// Interval of the checks for due packs.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time that a waiting scrub does not notice a stop.
const SLICE: Duration = Duration::from_millis(100);
/// Time without a transfer after which no other computer is restoring or pulling.
const TRANSFER_END: Duration = Duration::from_secs(2);
/// Share of the period (1/10) after whose end an overdue pack does not wait for other
/// work any more.
const OVERDUE_SHARE: i64 = 10;
const DAY: i64 = 24 * 3600;

struct ScrubTask {
    services: Services,
    stop: CancellationToken,
    deferred: Deferrals,
}

/// Scrubs until the instance stops.
pub(crate) async fn run(services: Services) {
    let store = services.store.clone();
    let Ok(mut dates) = tokio::task::spawn_blocking(move || store.scrub_dates()).await else {
        return;
    };
    let stop = services.stop_token();
    let mut task = ScrubTask { services, stop: stop.clone(), deferred: Deferrals::default() };
    let mut changes = task.services.settings.subscribe();
    let mut wait = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
        wait = CHECK_INTERVAL;
        while let Some(next) = task.next(&mut dates) {
            let is_stopped = !task.scrub(next, &mut dates).await;
            task.show();
            match save(dates).await {
                Some(saved) => dates = saved,
                None => return,
            }
            if is_stopped {
                return;
            }
        }
        // New packs and packs that no longer exist.
        match save(dates).await {
            Some(saved) => dates = saved,
            None => return,
        }
    }
}

/// Saves the dates. `None` if the thread panicked.
async fn save(mut dates: ScrubDates) -> Option<ScrubDates> {
    let saving = tokio::task::spawn_blocking(move || {
        if let Err(error) = dates.save() {
            // They stay in memory, and the next check writes them. A lost date costs one
            // reading.
            tracing::debug!(error = with_causes(&error), "cannot save the dates of the scrubs");
        }
        dates
    });
    saving.await.ok()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl ScrubTask {
    /// Returns the next pack if one is due, and updates the status.
    fn next(&mut self, dates: &mut ScrubDates) -> Option<NextScrub> {
        let days = self.services.settings.get().backup_server.scrub_days;
        let period = i64::from(days) * DAY;
        let (packs, now) = (self.services.store.packs(), now());
        dates.observe(&packs, now);
        self.services.scrub.set_summary(days, dates.summary(&packs, now, period));
        self.deferred.retain(|id| packs.iter().any(|pack| pack.id == id));
        if days == 0 || self.stop.is_cancelled() {
            return None;
        }
        let waits = |id: PackId| self.deferred.is_waiting(id, Instant::now());
        dates.next(period, waits).filter(|next| next.due_at <= now)
    }

    /// Scrubs one pack. Returns false if the instance stops.
    async fn scrub(&mut self, next: NextScrub, dates: &mut ScrubDates) -> bool {
        self.services.scrub.set_running(true);
        let result = self.read(next).await;
        self.services.scrub.set_running(false);
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(pack = next.pack.number, error, "cannot scrub a pack");
                self.defer(next.pack, 0, error);
                return true;
            }
        };
        self.services.scrub.add(report.blocks, report.bytes);
        for block in &report.damaged {
            tracing::error!(
                cid = %block.cid,
                pack = %block.pack.display(),
                reason = block.reason,
                "a scrub found a damaged block"
            );
        }
        if report.is_footer_damaged {
            let pack = next.pack.number;
            tracing::warn!(pack, "the footer of a pack is damaged; its records are walked instead");
        }
        match report.end {
            ScrubEnd::Stopped => return false,
            // The list of packs has changed.
            ScrubEnd::Gone | ScrubEnd::Lost => {}
            ScrubEnd::Complete if report.unreadable.is_empty() => {
                self.deferred.remove(next.pack);
                dates.set_scrubbed(next.pack, now());
            }
            ScrubEnd::Complete | ScrubEnd::Unreadable
                if self.deferred.is_last_attempt(next.pack) =>
            {
                let count = report.unreadable.len() as u64;
                match self.set_aside(report.unreadable).await {
                    Ok(()) => {
                        self.deferred.remove(next.pack);
                        // Otherwise the rest of the pack follows immediately.
                        if report.end == ScrubEnd::Complete {
                            dates.set_scrubbed(next.pack, now());
                        }
                    }
                    Err(error) => self.defer(next.pack, count, error),
                }
            }
            ScrubEnd::Complete | ScrubEnd::Unreadable => {
                let reason = report.unreadable.first().map(|block| block.reason.clone());
                let count = report.unreadable.len() as u64;
                self.defer(next.pack, count, reason.unwrap_or_default());
            }
        }
        true
    }

    /// Reads a pack on a thread of its own with the lowest priority.
    async fn read(&self, next: NextScrub) -> Result<ScrubReport, String> {
        let (sender, receiver) = oneshot::channel();
        let store = self.services.store.clone();
        let days = self.services.settings.get().backup_server.scrub_days;
        let period = i64::from(days) * DAY;
        let mut pacer = Pacer {
            rate: rate(store.used_bytes(), period.unsigned_abs()),
            urgent_from: next.due_at.saturating_add(period / OVERDUE_SHARE),
            last: Instant::now(),
            transferred: transferred(&self.services),
            last_transfer: None,
            services: self.services.clone(),
            stop: self.stop.clone(),
        };
        let work = move || {
            lower_priority();
            let result = store.scrub(next.pack, &mut |bytes| pacer.pace(bytes));
            // Before the result is sent: the receiver may expect to have the last
            // handle of the store.
            drop((store, pacer));
            let _ = sender.send(result);
        };
        let started = std::thread::Builder::new().name("scrub".into()).spawn(work);
        started.map_err(|error| error.to_string())?;
        match receiver.await {
            Ok(result) => result.map_err(|error| with_causes(&error)),
            Err(_) => Err("the scrub ended unexpectedly; see the log".into()),
        }
    }

    /// Reads a pack again later.
    fn defer(&mut self, pack: PackId, blocks: u64, reason: String) {
        if !self.deferred.contains(pack) {
            self.services.journal.note(
                api::NoticeLevel::Warning,
                format!("Stored data cannot be read: {reason}. Archivist tries again later."),
            );
        }
        self.deferred.add(pack, blocks, reason, Instant::now());
    }

    /// Gives up blocks that stayed unreadable, so that they are fetched again. Returns
    /// an error if the header of their pack cannot be read either: the disk has failed.
    async fn set_aside(&self, blocks: Vec<FaultyBlock>) -> Result<(), String> {
        let store = self.services.store.clone();
        let work = tokio::task::spawn_blocking(move || {
            blocks.iter().try_for_each(|block| store.set_aside_unreadable(&block.cid).map(drop))
        });
        let result = work.await.map_err(|error| error.to_string())?;
        result.map_err(|error| with_causes(&error))
    }

    /// Shows the packs that could not be read.
    fn show(&self) {
        self.services.scrub.set_unreadable(self.deferred.blocks());
        let problem = self.deferred.first_reason().map(|reason| {
            let packs = match self.deferred.packs() {
                1 => "1 pack is affected".to_owned(),
                packs => format!("{packs} packs are affected"),
            };
            format!(
                "the disk of the store cannot be read completely ({packs}): {reason}. Archivist \
                 tries again; check the disk"
            )
        });
        self.services.problems.set("scrub", problem);
    }
}

/// Sets the pace of the scrub of one pack.
struct Pacer {
    services: Services,
    stop: CancellationToken,
    /// Speed in bytes per second.
    rate: u64,
    /// Time from which on the scrub does not wait for other work, in seconds since 1970.
    urgent_from: i64,
    /// End of the last wait.
    last: Instant,
    transferred: u64,
    last_transfer: Option<Instant>,
}

fn transferred(services: &Services) -> u64 {
    let net = services.net.metrics();
    net.block_bytes_sent + net.block_bytes_received
}

impl Pacer {
    /// Waits after `bytes` were read. Returns false if the instance stops.
    fn pace(&mut self, bytes: u64) -> bool {
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            let left = if self.must_yield() {
                SLICE
            } else {
                pause(bytes, self.last.elapsed(), self.rate)
            };
            if left.is_zero() {
                self.last = Instant::now();
                return true;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    fn must_yield(&mut self) -> bool {
        let transferred = transferred(&self.services);
        if transferred != self.transferred {
            self.transferred = transferred;
            self.last_transfer = Some(Instant::now());
        }
        let is_transferring = self.last_transfer.is_some_and(|at| at.elapsed() < TRANSFER_END);
        (is_transferring || is_busy(&self.services)) && now() < self.urgent_from
    }
}
