//! Decides which segments have to be cut again.
//!
//! The first path of a segment depends on the paths alone, unless the segment before it was
//! full. So a run of stale segments can be cut separately if it begins and ends at paths that
//! always begin a segment, whatever precedes them: the result is the same as if all rows were
//! cut. A run is extended until that is the case.

use std::ops::Range;

use types::{BlockScheme, RelPath};

/// A segment of the last manifest.
#[derive(Clone, Debug)]
pub(crate) struct OldSegment {
    /// The first path; the first segment begins with the root.
    pub(crate) start: RelPath,
    /// True if it no longer matches the rows.
    pub(crate) is_stale: bool,
}

/// Returns the runs to cut, as ranges of `segments`, in order. `first_row(from, to)` returns
/// the first row at or after `from` and before `to`.
pub(crate) fn runs_to_cut<E>(
    scheme: &BlockScheme,
    segments: &[OldSegment],
    mut first_row: impl FnMut(&RelPath, Option<&RelPath>) -> Result<Option<RelPath>, E>,
) -> Result<Vec<Range<usize>>, E> {
    let is_natural = |at: usize| at == 0 || scheme.starts_segment(&segments[at].start);
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < segments.len() {
        if !segments[at].is_stale {
            at += 1;
            continue;
        }
        let mut run = at..at + 1;
        // A segment that begins because the one before it was full begins at another path when
        // that one changes.
        while run.end < segments.len() && (segments[run.end].is_stale || !is_natural(run.end)) {
            run.end += 1;
        }
        while run.start > 0 {
            let start = &segments[run.start].start;
            if is_natural(run.start) {
                let end = segments.get(run.end).map(|segment| &segment.start);
                // If the first path of a segment is gone, the remaining rows belong to the
                // segment before it.
                match first_row(start, end)? {
                    None => break,
                    Some(first) if first == *start || scheme.starts_segment(&first) => break,
                    Some(_) => {}
                }
            }
            run.start -= 1;
        }
        while let Some(last) = runs.last()
            && run.start < last.end
        {
            run.start = run.start.min(last.start);
            runs.pop();
        }
        at = run.end;
        runs.push(run);
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;
    use types::SegmentWriter;

    use super::*;

    type Lines = BTreeMap<RelPath, Vec<u8>>;

    fn path(number: u32) -> RelPath {
        RelPath::new(format!("{number:05}")).unwrap()
    }

    /// Returns the first paths of the segments of these lines.
    fn cut<'a>(lines: impl Iterator<Item = (&'a RelPath, &'a Vec<u8>)>) -> Vec<RelPath> {
        let mut writer = SegmentWriter::new(BlockScheme::plain());
        let mut starts = Vec::new();
        for (path, line) in lines {
            starts.extend(writer.push_line(path, line).map(|segment| segment.first_path));
        }
        starts.extend(writer.finish().map(|segment| segment.first_path));
        starts
    }

    /// Changes lines, cuts the runs of the plan, and compares the result with cutting all
    /// lines. Returns the number of segments that were cut.
    fn check(before: &Lines, changes: &BTreeMap<u32, Option<Vec<u8>>>) -> usize {
        let mut starts = cut(before.iter());
        if let Some(first) = starts.first_mut() {
            *first = RelPath::root();
        } else {
            starts.push(RelPath::root());
        }
        let mut after = before.clone();
        let mut segments: Vec<_> =
            starts.into_iter().map(|start| OldSegment { start, is_stale: false }).collect();
        for (number, line) in changes {
            let path = path(*number);
            let at = segments.partition_point(|segment| segment.start <= path) - 1;
            segments[at].is_stale = true;
            match line {
                Some(line) => after.insert(path, line.clone()),
                None => after.remove(&path),
            };
        }
        let first_row = |from: &RelPath, to: Option<&RelPath>| {
            let first = after.range(from.clone()..).next().map(|(path, _)| path.clone());
            Ok::<_, Infallible>(first.filter(|path| to.is_none_or(|to| path < to)))
        };
        let runs = runs_to_cut(&BlockScheme::plain(), &segments, first_row).unwrap();
        let mut result: Vec<RelPath> = Vec::new();
        let mut kept = 0;
        for run in &runs {
            result.extend(segments[kept..run.start].iter().map(|segment| segment.start.clone()));
            let from = &segments[run.start].start;
            let to = segments.get(run.end).map(|segment| &segment.start);
            let rows =
                after.iter().filter(|(path, _)| *path >= from && to.is_none_or(|to| *path < to));
            result.extend(cut(rows));
            kept = run.end;
        }
        result.extend(segments[kept..].iter().map(|segment| segment.start.clone()));
        let expected = cut(after.iter());
        if let (Some(first), Some(expected)) = (result.first_mut(), expected.first())
            && first.is_root()
        {
            *first = expected.clone();
        }
        assert_eq!(result, expected);
        runs.iter().map(ExactSizeIterator::len).sum()
    }

    fn lines(len: impl Fn(u32) -> usize) -> Lines {
        (0..20_000).step_by(2).map(|number| (path(number), vec![b'x'; len(number)])).collect()
    }

    #[test]
    fn one_change_cuts_one_segment() {
        let lines = lines(|_| 100);
        assert!(cut(lines.iter()).len() > 5);
        assert_eq!(check(&lines, &BTreeMap::new()), 0);
        assert_eq!(check(&lines, &BTreeMap::from([(5000, Some(vec![b'y'; 50]))])), 1);
        assert_eq!(check(&lines, &BTreeMap::from([(5001, Some(vec![b'y'; 50]))])), 1);
    }

    #[test]
    fn a_segment_whose_first_path_goes_joins_the_one_before() {
        let lines = lines(|_| 100);
        let starts = cut(lines.iter());
        let number: u32 = starts[2].to_string().parse().unwrap();
        assert_eq!(check(&lines, &BTreeMap::from([(number, None)])), 2);
    }

    #[test]
    fn an_empty_folder_gets_a_file_and_loses_it() {
        let empty = Lines::new();
        assert_eq!(check(&empty, &BTreeMap::from([(5, Some(vec![1]))])), 1);
        let one = Lines::from([(path(5), vec![1])]);
        check(&one, &BTreeMap::from([(5, None)]));
    }

    fn changes() -> impl Strategy<Value = BTreeMap<u32, Option<Vec<u8>>>> {
        let line = prop::option::of((1_usize..3000).prop_map(|len| vec![b'z'; len]));
        prop::collection::btree_map(0_u32..20_000, line, 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn the_result_equals_cutting_everything(
            changes in changes(),
            removed in 0_u32..19_000,
            count in 0_u32..3000,
            // Long lines, so that some segments end because they are full.
            long in 100_usize..3000,
        ) {
            let lines = lines(|number| if number % 7000 < 3500 { 100 } else { long });
            let mut changes = changes;
            changes.extend((removed..removed + count).map(|number| (number, None)));
            check(&lines, &changes);
        }
    }
}
