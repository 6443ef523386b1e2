//! The part of a snapshot to restore.

use types::{RelPath, SegmentRef};

/// The selected paths, each with everything below it. Without paths, everything is
/// selected.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    paths: Vec<RelPath>,
}

/// Relation of an entry to a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The entry is selected.
    Selected,
    /// The entry is above a selected path.
    Parent,
    /// Neither.
    None,
}

impl Selection {
    /// Selects these paths and everything below them.
    pub fn new(paths: Vec<RelPath>) -> Self {
        Self { paths }
    }

    /// Reports whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.paths.is_empty() || self.paths.iter().any(RelPath::is_root)
    }

    /// Returns the selected paths.
    pub fn paths(&self) -> &[RelPath] {
        &self.paths
    }

    /// Returns the relation of an entry to the selection.
    pub(crate) fn matches(&self, path: &RelPath) -> Match {
        if self.is_all() || self.paths.iter().any(|wanted| path.is_within(wanted)) {
            Match::Selected
        } else if self.paths.iter().any(|wanted| wanted.is_within(path)) {
            Match::Parent
        } else {
            Match::None
        }
    }

    /// Reports whether a segment, which ends before `next`, can contain a selected
    /// entry or a parent of one.
    pub(crate) fn wants(&self, segment: &SegmentRef, next: Option<&SegmentRef>) -> bool {
        let first = &segment.first_path;
        let is_before_next = |path: &RelPath| next.is_none_or(|next| *path < next.first_path);
        self.is_all()
            || self.paths.iter().any(|wanted| {
                // Entries at or below `wanted` sort from `wanted` on, without a gap.
                let has_wanted =
                    is_before_next(wanted) && (first <= wanted || first.is_within(wanted));
                let mut parent = wanted.parent();
                let mut has_parent = false;
                while let Some(path) = parent {
                    has_parent |= *first <= path && is_before_next(&path);
                    parent = path.parent();
                }
                has_wanted || has_parent
            })
    }
}

#[cfg(test)]
mod tests {
    use types::{Cid, Codec};

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn what_is_below_is_wanted_and_what_is_above_is_on_the_way() {
        let selection = Selection::new(vec![path("a/b"), path("z")]);
        for (at, expected) in [
            ("a", Match::Parent),
            ("a/b", Match::Selected),
            ("a/b/c", Match::Selected),
            ("a/bc", Match::None),
            ("z", Match::Selected),
            ("q", Match::None),
        ] {
            assert_eq!(selection.matches(&path(at)), expected, "{at}");
        }
        assert_eq!(Selection::default().matches(&path("q")), Match::Selected);
    }

    #[test]
    fn segments_that_cannot_have_it_are_not_read() {
        let firsts = ["a", "a/b/m", "a/b/x", "c", "d/e"];
        let segments: Vec<_> = firsts
            .iter()
            .map(|first| SegmentRef {
                first_path: path(first),
                cid: Cid::of(Codec::Json, b""),
                entries: 1,
                bytes: 1,
            })
            .collect();
        let read = |wanted: &str| -> Vec<&str> {
            let selection = Selection::new(vec![path(wanted)]);
            (0..firsts.len())
                .filter(|n| selection.wants(&segments[*n], segments.get(n + 1)))
                .map(|n| firsts[n])
                .collect()
        };
        assert_eq!(read("a/b"), ["a", "a/b/m", "a/b/x"]);
        // The directories on the way are in the first segment.
        assert_eq!(read("a/b/q"), ["a", "a/b/m"]);
        assert_eq!(read("d/e/f"), ["c", "d/e"]);
        assert_eq!(read("c"), ["c"]);
    }
}
