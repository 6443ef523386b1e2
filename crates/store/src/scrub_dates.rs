//! The dates at which packs were scrubbed, and the schedule of the next ones.
//!
//! The schedule is a function of the dates, the time and the period. Each pack has a
//! slot in a cycle, which its random bytes decide, so that the packs are spread
//! evenly over the cycle, however and whenever they were written. A pack is due when
//! its slot has passed since it was scrubbed, or since it was seen first. The cycle
//! is a little shorter than the period, which leaves time for the reading.
//!
//! The dates survive a restart in a small file. It is a cache: without it, every pack
//! is new, and is scrubbed once within the next period.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use disk::{AtomicWrite, Disk, FileError, Parsed, read_cache, write_atomic};

/// Maximum length of the file in bytes: more than 200,000 packs, or 25 TB of full ones.
const MAX_LEN: u64 = 32 << 20;
/// Number of seconds that a date may lie in the future before it is not believed.
const FUTURE_MAX: i64 = 24 * 3600;
/// Share of the period that a cycle takes, in percent.
const CYCLE_PERCENT: i64 = 90;

/// Identifies a pack. A number is used once in a store; the random bytes tell a pack
/// of another store, or of an older state of this one, from this pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId {
    /// Number of the pack.
    pub number: u32,
    /// Random bytes of the pack.
    pub uuid: [u8; 16],
}

/// A pack and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLen {
    /// The pack.
    pub id: PackId,
    /// Length of the file in bytes.
    pub len: u64,
}

/// The date of a pack, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackDate {
    /// Time of the last scrub. Of a pack that was never scrubbed: the time at which the
    /// pack was seen first.
    since: i64,
    is_scrubbed: bool,
}

/// The dates of all packs of a store; see the module.
#[derive(Debug)]
pub struct ScrubDates {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    dates: BTreeMap<PackId, PackDate>,
    is_changed: bool,
}

/// Summary of the dates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubSummary {
    /// Number of packs.
    pub packs: u64,
    /// Length of all packs in bytes.
    pub bytes: u64,
    /// Length in bytes of the packs that were scrubbed within the period.
    pub scrubbed_bytes: u64,
    /// Number of packs that were never scrubbed.
    pub never_scrubbed: u64,
    /// Oldest date of a scrub, in seconds since 1970; `None` if no pack was scrubbed.
    pub oldest: Option<i64>,
}

/// The pack that is scrubbed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextScrub {
    /// The pack.
    pub pack: PackId,
    /// Time from which on it is due, in seconds since 1970.
    pub due_at: i64,
}

impl ScrubDates {
    /// Reads the dates. A file that cannot be used is kept under another name; its valid
    /// lines are used.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let consequence = "packs without a date are scrubbed again within the period";
        let dates = read_cache(&*disk, &path, MAX_LEN, consequence, parse).unwrap_or_default();
        Self { disk, path, dates, is_changed: false }
    }

    /// Adds new packs, with the date `now`, and drops the packs that no longer exist.
    /// A date that lies more than a day in the future becomes `now`: the clock was
    /// wrong when it was written, or is wrong now.
    pub fn observe(&mut self, packs: &[PackLen], now: i64) {
        let mut before = std::mem::take(&mut self.dates);
        for pack in packs {
            let new = PackDate { since: now, is_scrubbed: false };
            let known = before.remove(&pack.id);
            let mut date = known.unwrap_or(new);
            if date.since > now.saturating_add(FUTURE_MAX) {
                date.since = now;
            }
            self.is_changed |= known != Some(date);
            self.dates.insert(pack.id, date);
        }
        self.is_changed |= !before.is_empty();
    }

    /// Returns the pack that is due first, given a period in seconds, of the packs for
    /// which `skip` is false. `None` if there are none.
    pub fn next(&self, period: i64, skip: impl Fn(PackId) -> bool) -> Option<NextScrub> {
        let next = |(pack, date): (&PackId, &PackDate)| NextScrub {
            pack: *pack,
            due_at: due_at(*pack, date.since, period),
        };
        let dates = self.dates.iter().filter(|(pack, _)| !skip(**pack));
        dates.map(next).min_by_key(|next| next.due_at)
    }

    /// Records that a pack was scrubbed.
    pub fn set_scrubbed(&mut self, pack: PackId, now: i64) {
        if let Some(date) = self.dates.get_mut(&pack) {
            *date = PackDate { since: now, is_scrubbed: true };
            self.is_changed = true;
        }
    }

    /// Summarises the dates.
    pub fn summary(&self, packs: &[PackLen], now: i64, period: i64) -> ScrubSummary {
        let mut summary = ScrubSummary { packs: packs.len() as u64, ..ScrubSummary::default() };
        for pack in packs {
            summary.bytes += pack.len;
            match self.dates.get(&pack.id) {
                Some(date) if date.is_scrubbed => {
                    if now.saturating_sub(date.since) <= period {
                        summary.scrubbed_bytes += pack.len;
                    }
                    summary.oldest =
                        Some(summary.oldest.map_or(date.since, |old| old.min(date.since)));
                }
                _ => summary.never_scrubbed += 1,
            }
        }
        summary
    }

    /// Saves the dates if they have changed. Blocks while the disk writes.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::Io`] if the file cannot be written. The dates stay in
    /// memory, and the next call writes them.
    pub fn save(&mut self) -> Result<(), FileError> {
        if !self.is_changed {
            return Ok(());
        }
        let text = encode(&self.dates);
        write_atomic(&*self.disk, &self.path, text.as_bytes(), &AtomicWrite::PRIVATE)?;
        self.is_changed = false;
        Ok(())
    }
}

/// Returns the time at which the slot of a pack passes for the first time after
/// `since`.
fn due_at(pack: PackId, since: i64, period: i64) -> i64 {
    let cycle = (period.max(1).saturating_mul(CYCLE_PERCENT) / 100).max(1);
    let mut random = [0; 8];
    random.copy_from_slice(&pack.uuid[..8]);
    #[expect(clippy::cast_possible_wrap, reason = "less than a cycle")]
    let slot = (u64::from_le_bytes(random) % cycle.unsigned_abs()) as i64;
    let passed = since.saturating_sub(slot).rem_euclid(cycle);
    since.saturating_add(cycle - passed)
}

fn encode(dates: &BTreeMap<PackId, PackDate>) -> String {
    dates.iter().map(line).collect()
}

fn line((pack, date): (&PackId, &PackDate)) -> String {
    let uuid = u128::from_be_bytes(pack.uuid);
    let word = if date.is_scrubbed { "scrubbed" } else { "new" };
    format!("{} {uuid:032x} {word} {}\n", pack.number, date.since)
}

fn parse(bytes: &[u8]) -> Parsed<BTreeMap<PackId, PackDate>> {
    Parsed::of_lines(bytes, parse_line)
}

fn parse_line(line: &str) -> Option<(PackId, PackDate)> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let uuid = words.next().filter(|uuid| uuid.len() == 32)?;
    let uuid = u128::from_str_radix(uuid, 16).ok()?.to_be_bytes();
    let is_scrubbed = match words.next()? {
        "scrubbed" => true,
        "new" => false,
        _ => return None,
    };
    let since = words.next()?.parse().ok()?;
    let date = PackDate { since, is_scrubbed };
    words.next().is_none().then_some((PackId { number, uuid }, date))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use disk::sim::{Fault, SimDisk};

    use super::*;

    const DAY: i64 = 24 * 3600;
    const PERIOD: i64 = 30 * DAY;
    /// Some time in 2026.
    const START: i64 = 1_790_000_000;

    fn packs(count: u32) -> Vec<PackLen> {
        let pack = |number: u32| {
            let mut uuid = [0; 16];
            uuid.copy_from_slice(&types::Hash::of(&number.to_le_bytes()).as_bytes()[..16]);
            PackLen { id: PackId { number, uuid }, len: 100 }
        };
        (1..=count).map(pack).collect()
    }

    fn dates(disk: &SimDisk) -> ScrubDates {
        disk.create_dir(Path::new("/store")).unwrap();
        ScrubDates::open(Arc::new(disk.clone()), PathBuf::from("/store/scrub"))
    }

    /// Scrubs every due pack once an hour, from `from` to `to`. Returns the scrubs.
    fn run(dates: &mut ScrubDates, packs: &[PackLen], from: i64, to: i64) -> Vec<(i64, PackId)> {
        let mut scrubs = Vec::new();
        for time in (from..to).step_by(3600) {
            dates.observe(packs, time);
            while let Some(next) = dates.next(PERIOD, |_| false).filter(|next| next.due_at <= time)
            {
                dates.set_scrubbed(next.pack, time);
                scrubs.push((time, next.pack));
            }
        }
        scrubs
    }

    /// Returns the largest number of scrubs on one day.
    fn most_on_a_day(scrubs: &[(i64, PackId)]) -> usize {
        let mut days: BTreeMap<i64, usize> = BTreeMap::new();
        for (at, _) in scrubs {
            *days.entry(at / DAY).or_default() += 1;
        }
        days.into_values().max().unwrap_or(0)
    }

    /// Returns the longest time between two scrubs of a pack, or from `from` to its first.
    fn longest_pause(scrubs: &[(i64, PackId)], packs: &[PackLen], from: i64) -> i64 {
        let of = |id: PackId| scrubs.iter().filter(move |(_, pack)| *pack == id).map(|(at, _)| *at);
        let pause = |id| {
            let mut last = from;
            of(id).map(|at| at - std::mem::replace(&mut last, at)).max().unwrap_or(i64::MAX)
        };
        packs.iter().map(|pack| pause(pack.id)).max().unwrap()
    }

    #[test]
    fn every_pack_is_scrubbed_within_the_period_and_evenly() {
        let (disk, packs) = (SimDisk::new(), packs(3000));
        let mut dates = dates(&disk);
        let scrubs = run(&mut dates, &packs, START, START + 4 * PERIOD);
        assert!(longest_pause(&scrubs, &packs, START) <= PERIOD);
        // 3000 packs in 27 days are 111 a day.
        assert!(most_on_a_day(&scrubs) < 160, "{}", most_on_a_day(&scrubs));
        assert!(scrubs.len() < 3000 * 5, "{}", scrubs.len());
    }

    #[test]
    fn a_computer_that_was_off_catches_up_and_the_packs_stay_spread() {
        let (disk, packs) = (SimDisk::new(), packs(1000));
        let mut dates = dates(&disk);
        run(&mut dates, &packs, START, START + PERIOD);
        let on = START + 5 * PERIOD;
        let late = run(&mut dates, &packs, on, on + 3600);
        assert_eq!(late.len(), 1000, "everything is overdue");
        let later = run(&mut dates, &packs, on + 3600, on + 3 * PERIOD);
        assert!(longest_pause(&later, &packs, on) <= PERIOD);
        assert!(most_on_a_day(&later) < 70, "{}", most_on_a_day(&later));
    }

    #[test]
    fn a_clock_that_jumps_neither_ends_nor_bunches_the_scrubs() {
        for jump in [-10 * 365 * DAY, -PERIOD, -DAY / 2, DAY, 50 * 365 * DAY] {
            let (disk, packs) = (SimDisk::new(), packs(1000));
            let mut dates = dates(&disk);
            run(&mut dates, &packs, START, START + PERIOD);
            let moved = START + PERIOD + jump;
            let scrubs = run(&mut dates, &packs, moved, moved + 3 * PERIOD);
            // The first scrubs after a jump ahead are late already.
            let scrubs: Vec<_> = scrubs.into_iter().filter(|(at, _)| *at > moved).collect();
            assert!(longest_pause(&scrubs, &packs, moved) <= PERIOD + DAY, "{jump}");
            assert!(most_on_a_day(&scrubs) < 70, "{jump}: {}", most_on_a_day(&scrubs));
            // And back to the right time.
            let back = START + 3 * PERIOD;
            let scrubs = run(&mut dates, &packs, back, back + 3 * PERIOD);
            let scrubs: Vec<_> = scrubs.into_iter().filter(|(at, _)| *at > back).collect();
            assert!(longest_pause(&scrubs, &packs, back) <= PERIOD + DAY, "{jump}, back");
            assert!(most_on_a_day(&scrubs) < 70, "{jump}, back: {}", most_on_a_day(&scrubs));
        }
    }

    #[test]
    fn dates_survive_a_restart_and_a_lost_file_costs_one_pass() {
        let (disk, packs) = (SimDisk::new(), packs(50));
        let mut first = dates(&disk);
        run(&mut first, &packs, START, START + PERIOD / 2);
        first.save().unwrap();
        let mut second = dates(&disk);
        assert_eq!(second.dates, first.dates);
        let now = START + PERIOD / 2;
        let summary = second.summary(&packs, now, PERIOD);
        assert_eq!((summary.packs, summary.bytes), (50, 5000));
        assert_eq!(summary.scrubbed_bytes + summary.never_scrubbed * 100, 5000);
        assert!(summary.never_scrubbed > 10 && summary.oldest.is_some(), "{summary:?}");
        // A pack with the same number and other bytes is another pack.
        let mut others = packs.clone();
        others[0].id.uuid = [7; 16];
        second.observe(&others, now);
        assert!(second.dates[&others[0].id] == PackDate { since: now, is_scrubbed: false });
        assert_eq!(second.dates.len(), 50);
        // Damaged lines are ignored.
        disk.damage(Path::new("/store/scrub"), |bytes| {
            bytes[0] = b'x';
            bytes.extend_from_slice(b"\n1 2 3\n\xff\n");
        });
        assert_eq!(dates(&disk).dates.len(), 49);
        disk.lose(Path::new("/store/scrub"));
        let mut lost = dates(&disk);
        let scrubs = run(&mut lost, &packs, now, now + PERIOD);
        assert!(longest_pause(&scrubs, &packs, now) <= PERIOD);
        assert!(most_on_a_day(&scrubs) < 12, "{}", most_on_a_day(&scrubs));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_written_later() {
        let (disk, packs) = (SimDisk::new(), packs(3));
        let mut all = dates(&disk);
        all.observe(&packs, START);
        disk.set_fault(disk.operations(), Fault::Fail(std::io::ErrorKind::StorageFull));
        assert!(all.save().is_err());
        all.save().unwrap();
        let operations = disk.operations();
        all.observe(&packs, START + 100);
        all.save().unwrap();
        assert_eq!(disk.operations(), operations, "nothing has changed");
        assert_eq!(dates(&disk).dates, all.dates);
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        for pack in packs(20) {
            for since in [i64::MIN, -1, 0, i64::MAX] {
                for period in [0, 1, PERIOD, i64::MAX] {
                    assert!(due_at(pack.id, since, period) >= since);
                }
            }
        }
    }

    #[test]
    fn fuzz_scrub_dates() {
        let date = |number: u32, is_scrubbed| {
            let id = PackId { number, uuid: [number.to_le_bytes()[0]; 16] };
            (id, PackDate { since: START, is_scrubbed })
        };
        let dates = BTreeMap::from([date(1, false), date(2, true), date(u32::MAX, true)]);
        fuzzing::target!(&[encode(&dates)], |bytes: &[u8]| {
            let found = parse(bytes).usable().unwrap_or_default();
            assert_eq!(parse(encode(&found).as_bytes()), Parsed::Valid(found.clone()));
            for (pack, date) in found {
                assert!(due_at(pack, date.since, PERIOD) >= date.since);
            }
        });
    }
}
