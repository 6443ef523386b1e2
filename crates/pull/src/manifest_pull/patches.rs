//! Fetches parts of a manifest as patches to the parts of the last snapshot.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use protocols::{PATCH_BASES_MAX, PATCH_WANTS_MAX, PatchError, PatchWant, blocking, fetch_patches};
use types::{Cid, MAX_BLOCK_LEN, ManifestHeader, SegmentRef};

use super::{Attempt, ManifestPullError};
use crate::plan::Plan;

/// Maximum number of segments that are requested as patches. If more have changed, making patches
/// costs the source more than it saves.
const PATCHED_MAX: usize = 4 * PATCH_WANTS_MAX;

impl Attempt<'_> {
    /// Fetches blocks as patches. Blocks that do not arrive this way are left to the block
    /// protocol, which also reports the reason.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestPullError::Store`] if the local store fails, and
    /// [`ManifestPullError::Stopped`] if the pull is stopped.
    pub(super) async fn patch(&self, wants: Vec<PatchWant>) -> Result<(), ManifestPullError> {
        let Some(peer) = self.job.peers.first() else { return Ok(()) };
        let store = self.store.clone();
        let missing = blocking(move || {
            let mut missing = Vec::new();
            for want in wants {
                if !store.has(&want.cid)? {
                    missing.push(want);
                }
            }
            Ok::<_, ManifestPullError>(missing)
        });
        for wants in missing.await?.chunks(PATCH_WANTS_MAX) {
            let fetching =
                fetch_patches(self.shared.pool.net(), *peer, self.store.clone(), wants.to_vec());
            let patched = tokio::select! {
                biased;
                patched = fetching => patched,
                () = self.job.stop.cancelled() => return Err(ManifestPullError::Stopped),
            };
            match patched {
                Ok(patched) => self.job.progress.blocks().fetched(patched.blocks, patched.bytes),
                Err(PatchError::Store(error)) => return Err(error.into()),
                Err(PatchError::Panicked(panicked)) => return Err(panicked.into()),
                Err(PatchError::Exchange(error)) => {
                    tracing::debug!(%peer, %error, "cannot fetch patches; the blocks are fetched complete");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Returns the new segments to request as patches, with their bases: the old segments of the same
/// range of paths and, if the range has more entries now, removed segments, whose entries may have
/// moved into it. The removed segments are sorted by position: moved entries keep their order, so
/// the best one is as many entries behind the first removed one as the new segment is behind the
/// first of its range.
pub(super) fn segment_patches(
    plan: &Plan,
    header: &ManifestHeader,
    base: &ManifestHeader,
) -> Vec<PatchWant> {
    let present: HashSet<Cid> = header.segments.iter().map(|segment| segment.cid).collect();
    let removed: Vec<_> =
        places(base.segments.iter().filter(|s| !present.contains(&s.cid))).collect();
    let old: HashSet<Cid> = base.segments.iter().map(|segment| segment.cid).collect();
    let new = || plan.new_segments().filter(|step| !old.contains(&step.segment.cid));
    let mut grown: HashMap<usize, u64> = HashMap::new();
    for step in new() {
        *grown.entry(step.overlaps.start).or_default() += step.segment.entries;
    }
    let mut before: HashMap<usize, u64> = HashMap::new();
    let wants = new().filter_map(|step| {
        let overlaps = base.segments.get(step.overlaps.clone()).unwrap_or_default();
        let old_entries: u64 = overlaps.iter().map(|segment| segment.entries).sum();
        let end = before.entry(step.overlaps.start).or_default();
        let place = *end..*end + step.segment.entries;
        *end = place.end;
        let is_more = grown
            .get(&step.overlaps.start)
            .is_some_and(|grown| *grown > old_entries.saturating_add(old_entries / 16));
        // Most of so many segments were removed: the rest comes from the first and the last one.
        let is_rest = overlaps.len() > PATCH_BASES_MAX;
        let in_place = overlaps.iter().step_by(if is_rest { overlaps.len() - 1 } else { 1 });
        let others = (is_more || is_rest).then(|| nearest(&removed, &place)).into_iter().flatten();
        let bases = bounded(in_place.chain(others));
        (!bases.is_empty()).then_some(PatchWant { cid: step.segment.cid, bases })
    });
    wants.take(PATCHED_MAX).collect()
}

/// Returns the segments with their ranges in the sequence of all entries.
fn places<'a>(
    segments: impl Iterator<Item = &'a SegmentRef>,
) -> impl Iterator<Item = (Range<u64>, &'a SegmentRef)> {
    segments.scan(0, |end, segment| {
        let start = *end;
        *end += segment.entries;
        Some((start..*end, segment))
    })
}

/// Returns the segments, sorted by distance from a range of entries.
fn nearest<'a>(
    removed: &[(Range<u64>, &'a SegmentRef)],
    place: &Range<u64>,
) -> impl Iterator<Item = &'a SegmentRef> {
    let mut removed = removed.to_vec();
    let middle = |place: &Range<u64>| place.start.midpoint(place.end);
    removed.sort_by_key(|(other, _)| {
        let gap = place.start.max(other.start).saturating_sub(place.end.min(other.end));
        (gap, middle(other).abs_diff(middle(place)))
    });
    removed.into_iter().map(|(_, segment)| segment)
}

/// Returns the CIDs of as many segments as a request may contain, each once.
fn bounded<'a>(segments: impl Iterator<Item = &'a SegmentRef>) -> Vec<Cid> {
    let (mut bases, mut len) = (Vec::new(), 0);
    for segment in segments {
        len += segment.bytes;
        if bases.len() == PATCH_BASES_MAX || len > MAX_BLOCK_LEN as u64 {
            break;
        }
        if !bases.contains(&segment.cid) {
            bases.push(segment.cid);
        }
    }
    bases
}

#[cfg(test)]
mod tests {
    use types::{Codec, Entry, EntryKind, ManifestStats, Metadata, RelPath, SequenceNumber};

    use super::*;
    use crate::plan::diff;

    fn header(segments: &[(&str, u64, &str)]) -> ManifestHeader {
        let segments = segments.iter().map(|(path, entries, content)| SegmentRef {
            first_path: RelPath::new(*path).unwrap(),
            entries: *entries,
            bytes: 300 * entries,
            cid: cid(content),
        });
        let root = Entry {
            path: RelPath::root(),
            kind: EntryKind::Dir,
            metadata: Metadata::default(),
            error: None,
        };
        ManifestHeader {
            segments: segments.collect(),
            source_peer_id: "source".into(),
            folder_id: "docs".parse().unwrap(),
            folder_name: "docs".into(),
            folder_path: "/docs".into(),
            sequence_number: SequenceNumber(1),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            previous: None,
            held: None,
            root,
            stats: ManifestStats::default(),
        }
    }

    fn cid(content: &str) -> Cid {
        Cid::of(Codec::Json, content.as_bytes())
    }

    fn patches(base: &ManifestHeader, new: &ManifestHeader) -> Vec<(Cid, Vec<Cid>)> {
        let plan = diff(new, Some(base), &HashMap::new());
        let patches = segment_patches(&plan, new, base);
        patches.into_iter().map(|want| (want.cid, want.bases)).collect()
    }

    #[test]
    fn a_segment_is_like_the_one_that_was_in_its_place() {
        let base = header(&[("a", 1000, "a"), ("k", 1000, "k"), ("t", 1000, "t")]);
        let edited = header(&[("a", 1000, "a"), ("k", 1000, "k2"), ("t", 1000, "t")]);
        assert_eq!(patches(&base, &edited), [(cid("k2"), vec![cid("k")])]);
        let cut = header(&[("a", 400, "a1"), ("f", 600, "f"), ("k", 1000, "k"), ("t", 1000, "t")]);
        let from_a = vec![cid("a")];
        assert_eq!(patches(&base, &cut), [(cid("a1"), from_a.clone()), (cid("f"), from_a)]);
        assert_eq!(patches(&base, &base), []);
        assert_eq!(patches(&header(&[]), &edited), []);
    }

    #[test]
    fn what_has_moved_is_like_what_is_no_more() {
        let base = header(&[("a", 1000, "a"), ("k", 1000, "k"), ("t", 1000, "t")]);
        let moved = header(&[("k", 1000, "k"), ("t", 900, "t1"), ("x", 1100, "x")]);
        let both = vec![cid("t"), cid("a")];
        assert_eq!(patches(&base, &moved), [(cid("t1"), both.clone()), (cid("x"), both)]);
    }

    #[test]
    fn what_has_moved_is_in_its_old_order() {
        let path = |dir: &str, number: u64| format!("{dir}/{number:02}");
        let of = |segments: Vec<(String, u64)>| {
            let segments: Vec<_> = segments
                .iter()
                .map(|(path, entries)| (path.as_str(), *entries, path.as_str()))
                .collect();
            header(&segments)
        };
        let dir = |dir: &str| (0..40).map(|n| (path(dir, n), 100 + n)).collect::<Vec<_>>();
        let base = of([dir("b"), dir("k")].concat());
        for (dir_now, moved) in
            [("t", of([dir("k"), dir("t")].concat())), ("a", of([dir("a"), dir("k")].concat()))]
        {
            let patches = patches(&base, &moved);
            assert_eq!(patches.len(), 40);
            for (number, (cid_now, bases)) in patches.into_iter().enumerate() {
                assert_eq!(cid_now, cid(&path(dir_now, number as u64)));
                let old = bases.iter().position(|base| *base == cid(&path("b", number as u64)));
                // The first removed segment, behind the one in the same place.
                assert!(old.is_some_and(|at| at <= 1), "{dir_now} {number} {bases:?}");
            }
        }
    }

    #[test]
    fn where_much_is_gone_what_is_left_is_like_both_ends() {
        let names: Vec<String> = (0..30).map(|n| format!("{n:02}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1000, name.as_str())).collect();
        let left = [&all[..5], &[("05", 900, "both")], &all[25..]].concat();
        let patches = patches(&header(&all), &header(&left));
        let [(_, bases)] = &patches[..] else { panic!("{patches:?}") };
        assert_eq!(bases[..2], [cid("05"), cid("24")]);
    }

    #[test]
    fn a_question_has_a_bound() {
        let names: Vec<String> = (0..3000).map(|n| format!("{n:05}")).collect();
        let of = |content: &str, entries| {
            let contents: Vec<String> = names.iter().map(|n| format!("{content}{n}")).collect();
            let all: Vec<_> = names
                .iter()
                .zip(&contents)
                .map(|(n, c)| (n.as_str(), entries, c.as_str()))
                .collect();
            header(&all)
        };
        let asked = patches(&of("old", 1000), &of("new", 5000));
        assert_eq!(asked.len(), PATCHED_MAX);
        assert!(asked.iter().all(|(_, bases)| bases.len() == PATCH_BASES_MAX));
        assert!(serde_json::to_vec(&asked[..PATCH_WANTS_MAX]).unwrap().len() < 60_000);
        let long = patches(&of("old", 10_000), &of("new", 90_000));
        assert!(long.iter().all(|(_, bases)| bases.len() == 1));
    }
}
