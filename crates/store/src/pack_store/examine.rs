//! Examines the file of a pack when a store is opened. Changes nothing: a store that
//! is opened for writing mends afterwards what can be mended.

use std::path::Path;

use super::OpenReport;
use super::catalog::CatalogPack;
use crate::error::{IoContext, StoreError};
use crate::pack::{
    HEADER_BYTES, HEADER_LEN, HeaderError, PackHeader, PackKind, Walk, read_footer, read_trailer,
    walk,
};
use crate::record::Entry;
use disk::DiskFile;

/// A pack to examine: the names in the directory and in the catalog.
#[derive(Clone, Copy)]
pub(super) struct PackName<'a> {
    pub(super) path: &'a Path,
    pub(super) kind: PackKind,
    pub(super) number: u32,
    /// The entry of the catalog, if there is one.
    pub(super) known: Option<&'a CatalogPack>,
    /// Minimum number of its records; 0 if it may have none.
    pub(super) expected: u32,
}

/// State of the file of a pack.
pub(super) enum PackFile {
    /// A collection has emptied the pack.
    Retired,
    /// The pack has no records.
    Empty,
    /// The file was cut, and all records are lost; with a description.
    Cut(String),
    /// The trailer is valid, and the catalog or the footer names all records.
    Sealed {
        header: PackHeader,
        records: u32,
        /// The entries in the footer; `None` if the index covers all records.
        entries: Option<Vec<Entry>>,
    },
    /// The records must be found by [`walk_pack`]. The header is `None` if it is damaged.
    Unsealed(Option<PackHeader>),
}

/// Examines the header and the footer of a pack with `len` bytes.
///
/// # Errors
///
/// Returns [`StoreError::Unusable`] if the pack was written by a newer version, and
/// [`StoreError::Io`] if it cannot be read.
pub(super) fn examine_pack(
    file: &dyn DiskFile,
    len: u64,
    pack: PackName<'_>,
) -> Result<PackFile, StoreError> {
    let PackName { path, kind, number, known, expected } = pack;
    let mut head = [0; HEADER_BYTES];
    file.read_at(&mut head, 0).context("read", path)?;
    let header = match PackHeader::decode(&head) {
        Ok(header) if header.kind == kind && header.number == number => Some(header),
        Ok(_) | Err(HeaderError::Damaged) => None,
        Err(HeaderError::Retired) => return Ok(PackFile::Retired),
        Err(HeaderError::Version) => {
            let reason = HeaderError::Version.to_string();
            return Err(StoreError::Unusable { path: path.to_owned(), reason });
        }
    };
    if let Some(header) = header
        && let Some(trailer) = read_trailer(file, &header).context("read", path)?
    {
        let records = trailer.records;
        let is_indexed =
            known.is_some_and(|known| known.uuid == header.uuid && known.indexed == records);
        if is_indexed {
            return Ok(PackFile::Sealed { header, records, entries: None });
        }
        if let Some(entries) = read_footer(file, &header).context("read", path)? {
            return Ok(PackFile::Sealed { header, records, entries: Some(entries) });
        }
    }
    if len > HEADER_LEN {
        return Ok(PackFile::Unsealed(header));
    }
    if expected == 0 {
        return Ok(PackFile::Empty);
    }
    Ok(PackFile::Cut(format!(
        "{}: the file was cut to {len} bytes, and its blocks are lost",
        path.display()
    )))
}

/// Adds a description to the report if a pack with this number of records should have
/// more.
pub(super) fn report_lost_records(records: u32, pack: PackName<'_>, report: &mut OpenReport) {
    if records < pack.expected {
        report.damage.push(format!("{}: some records are lost", pack.path.display()));
    }
}

/// Walks a pack for which [`examine_pack`] has returned [`PackFile::Unsealed`] with
/// `header`. Adds all damage to the report.
///
/// # Errors
///
/// Returns [`StoreError::Io`] if the pack cannot be read.
pub(super) fn walk_pack(
    file: &dyn DiskFile,
    header: Option<PackHeader>,
    pack: PackName<'_>,
    report: &mut OpenReport,
) -> Result<Walk, StoreError> {
    let found = walk(file).context("read", pack.path)?;
    report.walked_packs += 1;
    let path = pack.path.display();
    for gap in &found.gaps {
        let damage = format!("{path}: unreadable from byte {} to byte {}", gap.start, gap.end);
        report.damage.push(damage);
    }
    if header.is_none() {
        report.damage.push(format!("{path}: the header is damaged"));
    }
    Ok(found)
}
