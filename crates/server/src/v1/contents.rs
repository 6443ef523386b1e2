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
        .map(|char| {
            if char.is_control() || is_direction(char) || "/\\".contains(char) { '_' } else { char }
        })
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

/// Returns the name of an entry in the zip: text that no program unpacks to another place, nor to
/// a device of Windows. Characters and bytes that are not allowed in a file name of Windows or
/// that control a terminal are written as `%XX`, and so is a `%` before two hexadecimal digits,
/// so that different names stay different.
fn zip_name(path: &[u8]) -> String {
    let parts = path.split(|byte| *byte == b'/').map(zip_component);
    parts.collect::<Vec<_>>().join("/")
}

/// Returns one component of [`zip_name`].
fn zip_component(name: &[u8]) -> String {
    let mut safe = String::with_capacity(name.len());
    let is_device = is_device_of_windows(name);
    for part in name.utf8_chunks() {
        let valid = part.valid();
        for (at, char) in valid.char_indices() {
            let is_first = safe.is_empty();
            let is_last = part.invalid().is_empty() && at + char.len_utf8() == valid.len();
            let is_code = |rest: &str| {
                let two = rest.as_bytes().get(1..3);
                two.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
            };
            let is_unsafe = char.is_control()
                || is_direction(char)
                || "\\:*?\"<>|".contains(char)
                || (char == '%' && is_code(&valid[at..]))
                || (is_first && is_device)
                // Windows drops these at the end of a name.
                || (is_last && ". ".contains(char));
            if is_unsafe {
                let mut bytes = [0; 4];
                add_bytes(&mut safe, char.encode_utf8(&mut bytes).as_bytes());
            } else {
                safe.push(char);
            }
        }
        add_bytes(&mut safe, part.invalid());
    }
    safe
}

fn add_bytes(name: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(name, "%{byte:02X}");
    }
}

/// Reports whether a character changes the direction of the text around it (UAX #9).
fn is_direction(char: char) -> bool {
    let is_mark = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}');
    is_mark || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Reports whether Windows takes a file name for a device, with any extension ("Naming Files,
/// Paths, and Namespaces", learn.microsoft.com).
fn is_device_of_windows(name: &[u8]) -> bool {
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    let stem = String::from_utf8_lossy(stem).trim_end().to_ascii_uppercase();
    let numbered = |prefix: &str| {
        let number = stem.strip_prefix(prefix);
        number.is_some_and(|number| {
            matches!(number, "\u{b9}" | "\u{b2}" | "\u{b3}")
                || (number.len() == 1 && number.as_bytes()[0].is_ascii_digit())
        })
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered("COM")
        || numbered("LPT")
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
        for (name, safe) in [
            ("C:evil", "C%3Aevil"),
            ("a/con", "a/%63on"),
            ("NUL.tar.gz", "%4EUL.tar.gz"),
            ("lpt1 .txt", "%6Cpt1 .txt"),
            ("COM\u{b9}", "%43OM\u{b9}"),
            ("console", "console"),
            ("com10", "com10"),
            ("a./b ", "a%2E/b%20"),
            ("a.b c", "a.b c"),
            ("red\u{1b}[31m", "red%1B[31m"),
            ("exe\u{202e}txt.", "exe%E2%80%AEtxt%2E"),
            ("what? <this> | \"that\" *", "what%3F %3Cthis%3E %7C %22that%22 %2A"),
        ] {
            assert_eq!(zip_name(name.as_bytes()), safe);
        }
    }
}
