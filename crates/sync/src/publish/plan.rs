//! Which segments have to be cut anew.
//!
//! Where a segment begins is decided by the paths alone, except where one grew
//! over its limit. So a run of stale segments can be cut by itself if it begins
//! and ends where a segment would begin whatever was before it; the result is
//! the same as if everything were cut. A run is made longer until that holds.

use std::ops::Range;

use types::{BlockScheme, RelPath};

/// A segment as the plan sees it.
#[derive(Clone, Debug)]
pub(crate) struct OldSegment {
    /// Where it begins; the first begins with the folder.
    pub(crate) start: RelPath,
    /// Whether it no longer stands for the rows.
    pub(crate) is_stale: bool,
}

/// The runs to cut, as ranges of `segments`, in order. `first_row(from, to)`
/// is the first row from one path on and before the other.
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
        // A segment that begins where the one before was full begins elsewhere
        // when that one changes.
        while run.end < segments.len() && (segments[run.end].is_stale || !is_natural(run.end)) {
            run.end += 1;
        }
        while run.start > 0 {
            let start = &segments[run.start].start;
            if is_natural(run.start) {
                let end = segments.get(run.end).map(|segment| &segment.start);
                // Where the path that a segment began with is gone, what is
                // left of it belongs to the segment before.
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

    /// The first paths of the segments of these lines.
    fn cut<'a>(lines: impl Iterator<Item = (&'a RelPath, &'a Vec<u8>)>) -> Vec<RelPath> {
        let mut writer = SegmentWriter::new(BlockScheme::plain());
        let mut starts = Vec::new();
        for (path, line) in lines {
            starts.extend(writer.push_line(path, line).map(|segment| segment.first_path));
        }
        starts.extend(writer.finish().map(|segment| segment.first_path));
        starts
    }

    /// Changes lines, cuts anew what the plan says, and compares with cutting
    /// everything. Tells how many segments were cut.
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
    fn nothing_becomes_something_and_nothing_again() {
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
        fn the_result_is_that_of_cutting_everything(
            changes in changes(),
            removed in 0_u32..19_000,
            count in 0_u32..3000,
            // Long lines, so that segments end by their length, too.
            long in 100_usize..3000,
        ) {
            let lines = lines(|number| if number % 7000 < 3500 { 100 } else { long });
            let mut changes = changes;
            changes.extend((removed..removed + count).map(|number| (number, None)));
            check(&lines, &changes);
        }
    }
}
