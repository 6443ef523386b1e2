//! Reads every node in the packs; see [`NodeScan`].
//!
//! The index is not used: the entries of each pack of nodes are read from its footer,
//! or by a walk. A record that cannot be read is reported and not quarantined.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use types::{Cid, Codec, with_causes};

use super::PackStore;
use super::read_only::ReadOnlyPackStore;
use crate::error::StoreError;
use crate::node_scan::{NodeScan, NodeScanReport};
use crate::pack::{HEADER_BYTES, HEADER_LEN, PackHeader, PackKind, read_footer, walk};
use crate::record::{Entry, Form, ReadError, Record, read_record};
use crate::sync::atomic::Ordering;
use disk::DiskFile;

type Each<'a> = dyn FnMut(Cid, Bytes) -> ControlFlow<()> + 'a;

impl NodeScan for PackStore {
    fn scan_nodes(&self, each: &mut Each<'_>) -> Result<NodeScanReport, StoreError> {
        // Neither a collection nor a recompression moves records meanwhile.
        let _nobody_moves = self.inner.collecting.lock();
        let packs = &self.inner.packs;
        let mut report = NodeScanReport::default();
        let records_of = |number| {
            let pack = packs.get(number)?;
            Some(if pack.header.kind == PackKind::Meta { pack.records() } else { u32::MAX })
        };
        for loss in self.inner.pack_list.losses(records_of) {
            report.damaged.add(loss);
        }
        for pack in packs.all() {
            if pack.header.kind != PackKind::Meta {
                continue;
            }
            let opened = packs.entries(&pack).and_then(|entries| Ok((entries, packs.file(&pack)?)));
            let (mut entries, file) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    report.unreadable.add(with_causes(&error));
                    continue;
                }
            };
            if entries.len() < pack.records() as usize {
                report.damaged.add(format!("{}: some records are lost", pack.path.display()));
            }
            entries.truncate(pack.usable_records.load(Ordering::SeqCst) as usize);
            if scan_pack(&pack.path, &*file, &entries, each, &mut report).is_break() {
                break;
            }
        }
        Ok(report)
    }

    fn was_removed(&self, cid: &Cid) -> bool {
        self.inner.removed_roots.contains(cid.hash())
    }
}

impl NodeScan for ReadOnlyPackStore {
    fn scan_nodes(&self, each: &mut Each<'_>) -> Result<NodeScanReport, StoreError> {
        let mut report = NodeScanReport::default();
        let view = self.view();
        for loss in &view.losses {
            report.damaged.add(loss.clone());
        }
        for pack in view.packs.values() {
            if let Some(reason) = &pack.unreadable {
                report.unreadable.add(reason.clone());
                continue;
            }
            if pack.kind != PackKind::Meta {
                continue;
            }
            let path = &*pack.path;
            let opened = self.disk.open_read(path).and_then(|file| Ok((entries(&*file)?, file)));
            let (entries, file) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    report.unreadable.add(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            if entries.len() < pack.records as usize {
                report.damaged.add(format!("{}: some records are lost", path.display()));
            }
            if scan_pack(path, &*file, &entries, each, &mut report).is_break() {
                break;
            }
        }
        Ok(report)
    }

    fn failed_reads(&self) -> u64 {
        self.failed_reads.load(Ordering::SeqCst)
    }

    fn was_removed(&self, cid: &Cid) -> bool {
        self.removed_roots.contains(cid.hash())
    }
}

/// Returns the entries in the footer of a pack, or those that a walk finds.
fn entries(file: &dyn DiskFile) -> io::Result<Vec<Entry>> {
    let mut head = [0; HEADER_BYTES];
    file.read_at(&mut head, 0)?;
    let footer = match PackHeader::decode(&head) {
        Ok(header) => read_footer(file, &header)?,
        Err(_) => None,
    };
    footer.map_or_else(|| Ok(walk(file)?.entries), Ok)
}

fn scan_pack(
    path: &Path,
    file: &dyn DiskFile,
    entries: &[Entry],
    each: &mut Each<'_>,
    report: &mut NodeScanReport,
) -> ControlFlow<()> {
    let mut end = HEADER_LEN;
    for entry in entries {
        let start = u64::from(entry.offset);
        if start > end {
            // A walk has skipped bytes that are no record.
            let gap = format!("{}: unreadable from byte {end} to byte {start}", path.display());
            report.damaged.add(gap);
        }
        end = entry.end();
        match entry.form {
            Form::Block { codec: Codec::DagCbor, .. } | Form::Newer(_) => {}
            Form::Block { .. } => continue,
        }
        if let Some((cid, bytes)) = read_node(path, file, entry, report) {
            report.nodes += 1;
            report.read_bytes += bytes.len() as u64;
            each(cid, bytes)?;
        }
    }
    ControlFlow::Continue(())
}

fn read_node(
    path: &Path,
    file: &dyn DiskFile,
    entry: &Entry,
    report: &mut NodeScanReport,
) -> Option<(Cid, Bytes)> {
    let place = |reason: &dyn std::fmt::Display| {
        format!("block {} in {} at {}: {reason}", entry.hash, path.display(), entry.offset)
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
