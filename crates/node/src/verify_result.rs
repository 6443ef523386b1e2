//! The result of a verification in the form of the API.

use api::{VerifyProblem, VerifyResult};
use snapshots::VerifyReport;
use store::RootsRead;

use crate::roots;

/// Returns the CID in the name of the root of a data item, or the name of any other root.
fn item(root: impl AsRef<str>) -> String {
    let root = root.as_ref();
    root.strip_prefix(roots::DATA).unwrap_or(root).to_owned()
}

/// Returns the result of a verification of `store` in the form of the API.
pub fn verify_result(
    store: &dyn RootsRead,
    roots_incomplete: bool,
    report: &VerifyReport,
    repaired: u64,
) -> VerifyResult {
    VerifyResult {
        checked: report.snapshots + report.items,
        blocks: report.blocks,
        read_bytes: report.read_bytes,
        problems: verify_problems(store, report),
        newer: report.newer.iter().map(item).collect(),
        repaired,
        roots_incomplete,
    }
}

/// Returns the bad blocks in the report of a verification of `store`, with the snapshots and data
/// items that need them.
pub(crate) fn verify_problems(store: &dyn RootsRead, report: &VerifyReport) -> Vec<VerifyProblem> {
    let blocks = report.problems.iter().map(|problem| {
        let snapshots = problem.snapshots.iter().map(ToString::to_string);
        VerifyProblem {
            cid: problem.cid,
            reason: problem.reason.clone(),
            concerns: snapshots.chain(problem.paths.iter().map(item)).collect(),
        }
    });
    let records = report.damaged.iter().filter_map(|damaged| {
        Some(VerifyProblem {
            cid: store.root(&damaged.root)?.cid,
            reason: damaged.reason.clone(),
            concerns: vec![damaged.root.clone()],
        })
    });
    blocks.chain(records).collect()
}
