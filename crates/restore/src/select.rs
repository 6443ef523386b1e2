//! Which part of a snapshot is wanted.

use types::{RelPath, SegmentRef};

/// Paths that are wanted, with everything below them; everything, where none
/// is named.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    paths: Vec<RelPath>,
}

/// What an entry is to a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It is wanted.
    Wanted,
    /// It is a directory on the way to what is wanted.
    OnTheWay,
    /// Neither.
    Not,
}

impl Selection {
    /// What is at these paths, and below them.
    pub fn new(paths: Vec<RelPath>) -> Self {
        Self { paths }
    }

    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.paths.is_empty() || self.paths.iter().any(RelPath::is_root)
    }

    /// The paths that were named.
    pub fn paths(&self) -> &[RelPath] {
        &self.paths
    }

    pub(crate) fn part(&self, path: &RelPath) -> Part {
        if self.is_all() || self.paths.iter().any(|wanted| path.is_within(wanted)) {
            Part::Wanted
        } else if self.paths.iter().any(|wanted| wanted.is_within(path)) {
            Part::OnTheWay
        } else {
            Part::Not
        }
    }

    /// Whether a segment, which ends where `next` begins, can have something
    /// that is wanted, or on the way to it.
    pub(crate) fn wants(&self, segment: &SegmentRef, next: Option<&SegmentRef>) -> bool {
        let first = &segment.first_path;
        let is_before_next = |path: &RelPath| next.is_none_or(|next| *path < next.first_path);
        self.is_all()
            || self.paths.iter().any(|wanted| {
                // Something at or below `wanted`: it sorts from `wanted` on, and
                // stops with the first path that is not within it.
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
        for (at, part) in [
            ("a", Part::OnTheWay),
            ("a/b", Part::Wanted),
            ("a/b/c", Part::Wanted),
            ("a/bc", Part::Not),
            ("z", Part::Wanted),
            ("q", Part::Not),
        ] {
            assert_eq!(selection.part(&path(at)), part, "{at}");
        }
        assert_eq!(Selection::default().part(&path("q")), Part::Wanted);
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
