//! Choosing a folder: the directories of this computer, and a preview of exclude
//! patterns.
//!
//! Both are for the owner only: they show names that the instance may read and other
//! users of this computer may not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::to_text;
use axum::extract::State;
use axum::http::StatusCode;
use node::Services;
use serde::{Deserialize, Serialize};
use sync::PreviewLimits;
use utoipa::{IntoParams, ToSchema};

use super::extract::{Json, Query};
use super::ui::Owner;
use super::{ApiResult, Problem, blocking};
use types::with_causes;

/// Maximum number of directories in an answer.
const LISTED_MAX: usize = 1000;
/// Maximum number of names that are read for an answer.
const READ_MAX: usize = 100_000;
/// The limits of a preview, for which a person waits.
const PREVIEW: PreviewLimits =
    PreviewLimits { time: Duration::from_secs(4), entries: 300_000, named: 50 };

/// The directory to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DirectoryQuery {
    /// An absolute path or the beginning of one; if empty, the home directory.
    #[serde(default)]
    path: String,
}

/// A directory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Directory {
    /// The last name of its path.
    name: String,
    /// The absolute path.
    path: String,
}

/// The subdirectories of a directory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Directories {
    /// The path of the directory.
    path: String,
    /// The path of its parent directory.
    parent: Option<String>,
    /// The subdirectories by name, hidden ones last.
    directories: Vec<Directory>,
    /// True if there are more.
    is_cut_short: bool,
}

/// Lists the subdirectories of a directory of this computer. If the path is not a
/// directory, lists the subdirectories of its parent whose names begin with its last
/// name.
#[utoipa::path(
    get,
    path = "/directories",
    params(DirectoryQuery),
    responses(
        (status = 200, body = Directories),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 422, description = "No such directory, or it cannot be read",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn list(
    _: Owner,
    State(services): State<Services>,
    Query(query): Query<DirectoryQuery>,
) -> ApiResult<Directories> {
    let start = start(&services);
    blocking(move || {
        let wanted = if query.path.is_empty() { start } else { PathBuf::from(&query.path) };
        if !wanted.is_absolute() {
            return Err(bad(format!("{} is not an absolute path", wanted.display())));
        }
        if wanted.is_dir() {
            return read(&wanted, "").map(Json);
        }
        let begins = wanted.file_name().map(|name| name.to_string_lossy().into_owned());
        match (wanted.parent(), begins) {
            (Some(parent), Some(begins)) if parent.is_dir() => read(parent, &begins).map(Json),
            _ => Err(bad(format!("{} is not a directory of this computer", wanted.display()))),
        }
    })
    .await
}

/// Returns the first directory to show: the home directory that contains the data
/// directory, or the root.
fn start(services: &Services) -> PathBuf {
    let data = services.data_dir.to_path_buf();
    let mut above = data.ancestors().skip(1);
    let home = above.find(|dir| dir.parent() == Some(Path::new("/home")));
    home.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

fn bad(message: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message)
}

fn read(dir: &Path, begins: &str) -> Result<Directories, Problem> {
    let failed = |error: std::io::Error| bad(format!("cannot read {}: {error}", dir.display()));
    let mut directories = Vec::new();
    let mut is_cut_short = false;
    for (read, entry) in std::fs::read_dir(dir).map_err(failed)?.enumerate() {
        if read >= READ_MAX {
            is_cut_short = true;
            break;
        }
        // A directory that vanishes or cannot be read cannot be chosen.
        let Ok(entry) = entry else { continue };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // The configuration can only contain paths in UTF-8.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with(begins) {
            continue;
        }
        let path = dir.join(&name).display().to_string();
        directories.push(Directory { name, path });
    }
    directories.sort_by(|a, b| {
        let key = |dir: &Directory| (dir.name.starts_with('.'), dir.name.to_lowercase());
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    is_cut_short |= directories.len() > LISTED_MAX;
    directories.truncate(LISTED_MAX);
    Ok(Directories {
        path: dir.display().to_string(),
        parent: dir.parent().map(|parent| parent.display().to_string()),
        directories,
        is_cut_short,
    })
}

/// The directory and the patterns of a preview.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PreviewRequest {
    /// The absolute path of the directory.
    path: String,
    /// Exclude patterns in the syntax of .gitignore.
    #[serde(default)]
    exclude: Vec<String>,
    /// True if other file systems in the directory are left out. The default is true.
    #[serde(default)]
    one_file_system: Option<bool>,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out. The
    /// default is false.
    #[serde(default)]
    exclude_caches: Option<bool>,
}

/// An excluded file, or an excluded directory with everything in it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LeftOut {
    /// The path in the directory.
    path: String,
    /// True if it is a directory.
    is_dir: bool,
    /// Number of files in it, or 1 for a file.
    files: u64,
    /// Total length of these files in bytes.
    bytes: u64,
}

/// The content of a folder with exclude patterns.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ExcludePreview {
    /// Number of files that would be backed up.
    files: u64,
    /// Total length of these files in bytes.
    bytes: u64,
    /// Number of files that would be excluded.
    excluded_files: u64,
    /// Total length of these files in bytes.
    excluded_bytes: u64,
    /// The largest excluded files and directories.
    excluded: Vec<LeftOut>,
    /// True if only a part of the directory was scanned.
    is_cut_short: bool,
}

/// Shows which files patterns would exclude from a directory. Changes nothing.
#[utoipa::path(
    post,
    path = "/exclude-preview",
    request_body = PreviewRequest,
    responses(
        (status = 200, body = ExcludePreview),
        (status = 401, description = "The request has no token", body = api::ApiProblem),
        (status = 422, description = "No such directory, or a pattern is malformed",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn preview(
    _: Owner,
    Json(request): Json<PreviewRequest>,
) -> ApiResult<ExcludePreview> {
    blocking(move || {
        let path = PathBuf::from(&request.path);
        if !path.is_absolute() {
            return Err(bad(format!("{} is not an absolute path", request.path)));
        }
        // A pattern is valid here if it is valid in the configuration.
        for pattern in &request.exclude {
            let parsed: Result<config::Pattern, _> = pattern.parse();
            parsed.map_err(|error| bad(format!("{pattern}: {error}")))?;
        }
        let rules = sync::PreviewRules {
            exclude: request.exclude,
            one_file_system: request.one_file_system.unwrap_or(true),
            exclude_caches: request.exclude_caches.unwrap_or(false),
        };
        let found =
            sync::preview(&path, &rules, PREVIEW).map_err(|error| bad(with_causes(&error)))?;
        let excluded = found.excluded.into_iter().map(|excluded| LeftOut {
            path: to_text(excluded.path.as_bytes()).0,
            is_dir: excluded.is_dir,
            files: excluded.files,
            bytes: excluded.bytes,
        });
        Ok(Json(ExcludePreview {
            files: found.files,
            bytes: found.bytes,
            excluded_files: found.excluded_files,
            excluded_bytes: found.excluded_bytes,
            excluded: excluded.collect(),
            is_cut_short: found.is_cut_short,
        }))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_by_name_and_hidden_ones_last() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "A", ".hidden", "ab"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let names = |begins: &str| -> Vec<String> {
            let found = read(dir.path(), begins).unwrap();
            found.directories.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(""), ["A", "ab", "b", ".hidden"]);
        assert_eq!(names("a"), ["ab"]);
        assert!(read(&dir.path().join("file"), "").is_err());
    }
}
