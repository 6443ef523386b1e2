//! Reads every node in the packs; see [`NodeScan`](crate::NodeScan).
//!
//! The index is not used: the entries of each pack of nodes are read from its footer,
//! or by a walk. A record that cannot be read is reported and not quarantined.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use types::{Cid, Codec};

use super::packs::{Pack, Packs};
use crate::node_scan::NodeScanReport;
use crate::pack::PackKind;
use crate::record::{Entry, Form, ReadError, Record, read_record};
use disk::DiskFile;

/// Passes every node in the packs to `each`, until it breaks.
pub(super) fn scan_nodes(
    packs: &Packs,
    each: &mut dyn FnMut(Cid, Bytes) -> ControlFlow<()>,
) -> NodeScanReport {
    let mut report = NodeScanReport::default();
    for pack in packs.all() {
        if pack.header.kind == PackKind::Meta
            && scan_pack(packs, &pack, each, &mut report).is_break()
        {
            break;
        }
    }
    report
}

fn scan_pack(
    packs: &Packs,
    pack: &Pack,
    each: &mut dyn FnMut(Cid, Bytes) -> ControlFlow<()>,
    report: &mut NodeScanReport,
) -> ControlFlow<()> {
    let opened = packs.entries(pack).and_then(|entries| Ok((entries, packs.file(pack)?)));
    let (entries, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report.unreadable.add(types::with_causes(&error));
            return ControlFlow::Continue(());
        }
    };
    if entries.len() < pack.records() as usize {
        report.damaged.add(format!("{}: some of its records are lost", pack.path.display()));
    }
    let usable = pack.usable_records.load(Ordering::SeqCst);
    for (_, entry) in (0..usable).zip(&entries) {
        match entry.form {
            Form::Block { codec: Codec::DagCbor, .. } | Form::Newer(_) => {}
            Form::Block { .. } => continue,
        }
        if let Some((cid, bytes)) = read_node(&*file, pack, entry, report) {
            report.nodes += 1;
            report.read_bytes += bytes.len() as u64;
            each(cid, bytes)?;
        }
    }
    ControlFlow::Continue(())
}

fn read_node(
    file: &dyn DiskFile,
    pack: &Pack,
    entry: &Entry,
    report: &mut NodeScanReport,
) -> Option<(Cid, Bytes)> {
    let place = |reason: &dyn std::fmt::Display| {
        format!("block {} in {} at {}: {reason}", entry.hash, pack.path.display(), entry.offset)
    };
    match read_record(file, entry) {
        Ok(Record::Block(block)) => match block.decode() {
            Ok(bytes) => return Some((block.cid(), bytes)),
            Err(error) => report.unreadable.add(place(&error)),
        },
        Ok(Record::Newer(_)) => report.newer += 1,
        Err(ReadError::Io(error)) => report.unreadable.add(place(&error)),
        Err(ReadError::Damaged(reason)) => report.damaged.add(place(&reason)),
    }
    None
}
