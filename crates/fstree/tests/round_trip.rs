//! A tree that was read and created again is the same.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{Dirs, awkward, both_ways, copy};
use fstree::{CompareOptions, DestError, DifferenceKind, compare};

#[test]
fn the_awkward_tree() {
    for options in both_ways() {
        let dirs = Dirs::new();
        awkward::make(&dirs.source());
        let report = copy(&dirs.source(), &dirs.target(), &options);
        assert!(report.is_clean(), "{report:#?}");
        let differences =
            compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
        assert_eq!(report.same, 0);
        // Restored again, everything already exists.
        let again = copy(&dirs.source(), &dirs.target(), &options);
        assert!(again.is_clean(), "{again:#?}");
        assert_eq!((again.made, again.same), (0, report.made));
        let differences =
            compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
    }
}

#[test]
fn the_awkward_tree_of_a_user_without_rights() {
    if common::is_unprivileged("the_awkward_tree_of_a_user_without_rights") {
        the_awkward_tree();
    }
}

#[test]
fn a_socket_is_recorded_and_reported() {
    let dirs = Dirs::new();
    awkward::make_socket(&dirs.source().join("socket"));
    fs::write(dirs.source().join("file"), b"x").unwrap();
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    assert!(
        matches!(
            &report.errors[..],
            [DestError::CannotCreate { kind: fstree::FileKind::Socket, .. }]
        ),
        "{report:#?}"
    );
    let differences = compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
    assert!(
        matches!(&differences[..], [difference] if matches!(difference.kind, DifferenceKind::OnlyInFirst)),
        "{differences:#?}"
    );
}
