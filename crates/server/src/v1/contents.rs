//! Downloads from snapshots: a file, or a directory as a zip.
//!
//! A zip is made while it is sent, in memory that does not grow with it. After a
//! read error the connection is closed in the middle, so that no client mistakes
//! an incomplete download for a complete one.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use ::snapshots::{Depth, SnapshotTree, TreeError};
use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, DateTime, ZipWriter};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use node::{Services, snapshot_source};
use serde::Deserialize;
use store::{BlockRead, FileReader, StoreError, resolve};
use types::{Entry, EntryKind, RelPath};
use utoipa::IntoParams;

use super::extract::{Path, Query};
use super::snapshots::{self, Choice, rel_path};
use super::ui::Owner;
use super::{Problem, blocking};
use crate::body_stream;
use crate::disposition::attachment;

/// The entry of a snapshot to download.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntryQuery {
    /// The path in the folder; without a path, the folder itself.
    path: Option<String>,
    /// The path in base64, for a path that is not UTF-8.
    path_base64: Option<String>,
    /// True to read the snapshot from the backup server.
    #[serde(default)]
    from_backup_server: bool,
}

/// The entry to download, and the blocks to read it from.
struct FoundEntry {
    tree: SnapshotTree,
    blocks: Arc<dyn BlockRead>,
    entry: Entry,
    folder: String,
}

async fn find_entry(
    services: &Services,
    id: &str,
    query: &EntryQuery,
) -> Result<FoundEntry, Problem> {
    let path = rel_path(query.path.as_deref(), query.path_base64.as_deref())?;
    let path = path.unwrap_or_else(RelPath::root);
    let choice = Choice { from_backup_server: query.from_backup_server, ..Choice::default() };
    let snapshot = snapshots::find(services, &choice, Some(id), None).await?;
    let blocks = snapshot_source::blocks(services, query.from_backup_server)?;
    let folder = snapshot.folder_name.clone();
    blocking(move || {
        let tree = SnapshotTree::open(blocks.clone(), snapshot.manifest_cid)?;
        let entry = tree
            .lookup(&path)?
            .ok_or_else(|| Problem::not_found(format!("the snapshot has nothing at {path:?}")))?;
        Ok(FoundEntry { tree, blocks, entry, folder })
    })
    .await
}

/// Returns the file name of a download: the last name of the path, without
/// characters that a file name must not contain.
fn file_name(path: &RelPath, otherwise: &str, extension: &str) -> String {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(last);
    let name = if name.is_empty() { otherwise } else { &name };
    let clean: String = name
        .chars()
        .map(|char| if char.is_control() || "/\\".contains(char) { '_' } else { char })
        .take(200)
        .collect();
    format!("{clean}{extension}")
}

fn headers(name: &str, mime: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    // A browser must not run the content on this origin.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("sandbox; default-src 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(disposition) = HeaderValue::from_str(&attachment(Some(name))) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    headers
}

/// Downloads a file of a snapshot.
#[utoipa::path(
    get,
    path = "/snapshots/{id}/file",
    params(("id" = String, Path, description = "The id of the snapshot, or the beginning of it"), EntryQuery),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 400, description = "The id or the path is malformed, or the entry is not a file",
            body = api::ApiProblem),
        (status = 404, description = "No such snapshot, or no such path in it", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn file(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(query): Query<EntryQuery>,
) -> Result<Response, Problem> {
    let FoundEntry { blocks, entry, folder, .. } = find_entry(&services, &id, &query).await?;
    let EntryKind::File { cid, size, .. } = entry.kind else {
        return Err(Problem::bad(format!("{:?} is not a file; download it as a zip", entry.path)));
    };
    let name = file_name(&entry.path, &folder, "");
    let mut reader = blocking(move || {
        let content = resolve(&*blocks, cid).map_err(|error| Problem::internal(&error))?;
        let content = content.ok_or_else(|| {
            Problem::not_found(format!(
                "the content {cid} is missing; run `archivist verify` for details"
            ))
        })?;
        Ok(FileReader::new(blocks, &content))
    })
    .await?;
    let body = body_stream::body("a download", move |out| {
        while let Some(bytes) = reader.read().map_err(io::Error::other)? {
            out.write_all(&bytes)?;
        }
        io::Result::Ok(())
    });
    let mut headers = headers(&name, "application/octet-stream");
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok((headers, body).into_response())
}

/// Downloads a directory of a snapshot as a zip with files, directories and links. A
/// zip has no other entries; a restore to a directory has all of them.
#[utoipa::path(
    get,
    path = "/snapshots/{id}/zip",
    params(("id" = String, Path, description = "The id of the snapshot, or the beginning of it"), EntryQuery),
    responses(
        (status = 200, content_type = "application/zip", body = Vec<u8>),
        (status = 401, description = "The request has neither the token nor a session", body = api::ApiProblem),
        (status = 400, description = "The id or the path is malformed", body = api::ApiProblem),
        (status = 404, description = "No such snapshot, or no such path in it", body = api::ApiProblem),
        (status = 409, description = "No backup server is configured", body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be reached, or did not answer", body = api::ApiProblem),
    )
)]
pub(crate) async fn zip(
    _: Owner,
    State(services): State<Services>,
    Path(id): Path<String>,
    Query(query): Query<EntryQuery>,
) -> Result<Response, Problem> {
    let found = find_entry(&services, &id, &query).await?;
    let name = file_name(&found.entry.path, &found.folder, ".zip");
    let body = body_stream::body("a zip", move |out| write_zip(&found, out));
    Ok((headers(&name, "application/zip"), body).into_response())
}

/// Why a zip broke off.
#[derive(Debug, thiserror::Error)]
enum ZipFailure {
    #[error("the snapshot cannot be read")]
    Tree(#[from] TreeError),
    #[error("a file of the snapshot cannot be read")]
    Store(#[from] StoreError),
    #[error("the zip cannot be written")]
    Zip(#[from] ::zip::result::ZipError),
    #[error("the zip cannot be sent")]
    Io(#[from] io::Error),
}

fn write_zip(found: &FoundEntry, out: impl Write) -> Result<(), ZipFailure> {
    let mut zip = ZipWriter::new_stream(out);
    let base = &found.entry.path;
    if found.entry.kind != EntryKind::Dir {
        add(&mut zip, found, &found.entry, &file_name(base, &found.folder, ""))?;
    } else {
        let skipped = if base.is_root() { 0 } else { base.as_bytes().len() + 1 };
        let mut failure = None;
        found.tree.list(base, Depth::All, |entry| {
            let name = &entry.path.as_bytes()[skipped..];
            match add(&mut zip, found, &entry, &zip_name(name)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
    }
    zip.finish()?.into_inner().flush()?;
    Ok(())
}

/// Returns the name of an entry in the zip: text that no program unpacks to another
/// place. Bytes that are not allowed in it are written as `%XX`, and so is a `%`
/// before two hexadecimal digits, so that different names stay different.
fn zip_name(path: &[u8]) -> String {
    let mut name = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        for (at, char) in part.valid().char_indices() {
            let is_code = |rest: &str| {
                let two = rest.as_bytes().get(1..3);
                two.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
            };
            match char {
                '\\' => name.push_str("%5C"),
                '%' if is_code(&part.valid()[at..]) => name.push_str("%25"),
                _ => name.push(char),
            }
        }
        for byte in part.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

fn add<W: Write + io::Seek>(
    zip: &mut ZipWriter<W>,
    found: &FoundEntry,
    entry: &Entry,
    name: &str,
) -> Result<(), ZipFailure> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(modified(entry.metadata.mtime_ns))
        .unix_permissions(entry.metadata.mode & 0o777);
    match &entry.kind {
        EntryKind::Dir => zip.add_directory(name, options)?,
        EntryKind::Symlink { target } => {
            zip.add_symlink(name, String::from_utf8_lossy(target), options)?;
        }
        EntryKind::File { cid, size, .. } => {
            zip.start_file(name, options.large_file(*size >= u64::from(u32::MAX)))?;
            let mut reader =
                FileReader::open(found.blocks.clone(), *cid)?.ok_or(StoreError::Missing(*cid))?;
            while let Some(bytes) = reader.read()? {
                zip.write_all(&bytes)?;
            }
        }
        // A zip cannot contain these.
        EntryKind::Fifo
        | EntryKind::Socket
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. } => {}
    }
    Ok(())
}

/// Returns a time in the form of a zip: from 1980 to 2107, in steps of two seconds,
/// in UTC.
fn modified(mtime_ns: i128) -> DateTime {
    let read = || -> Option<DateTime> {
        let at = jiff::Timestamp::from_nanosecond(mtime_ns).ok()?;
        let at = at.to_zoned(jiff::tz::TimeZone::UTC);
        let part = |value: i8| u8::try_from(value).ok();
        DateTime::from_date_and_time(
            u16::try_from(at.year()).ok()?,
            part(at.month())?,
            part(at.day())?,
            part(at.hour())?,
            part(at.minute())?,
            part(at.second())?,
        )
        .ok()
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_stay_different_in_a_zip_and_lead_nowhere() {
        let names: [&[u8]; 12] = [
            b"a_b",
            b"a\\b",
            b"a%5Cb",
            b"a%255Cb",
            b"a%\\b",
            b"a%%5Cb",
            b"a\xffb",
            b"a\xfeb",
            b"a%FFb",
            "a\u{fffd}b".as_bytes(),
            b"100%.txt",
            b"100%",
        ];
        let zipped: Vec<String> = names.iter().map(|name| zip_name(name)).collect();
        let different: std::collections::HashSet<&String> = zipped.iter().collect();
        assert_eq!(different.len(), names.len(), "{zipped:?}");
        assert!(zipped.iter().all(|name| !name.contains('\\')), "{zipped:?}");
        assert_eq!(zip_name("Grüße/100%.txt".as_bytes()), "Grüße/100%.txt");
        assert_eq!(zip_name(b"..\\..\\x\xff"), "..%5C..%5Cx%FF");
    }
}
