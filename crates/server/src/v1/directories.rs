//! Choosing a folder: the directories of this machine, and what patterns leave
//! out of one.
//!
//! Both are for the owner alone: they show names that the instance may read
//! and others on this machine may not.

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
use super::{Answer, Problem, blocking};
use types::with_causes;

/// Directories in one answer, at most.
const LISTED_MAX: usize = 1000;
/// Names that are looked at for it, at most.
const SEEN_MAX: usize = 100_000;
/// A preview takes a person's time.
const PREVIEW: PreviewLimits =
    PreviewLimits { time: Duration::from_secs(4), entries: 300_000, named: 50 };

/// Which directory.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Where {
    /// An absolute path, or its beginning; the home directory where it is
    /// empty.
    #[serde(default)]
    path: String,
}

/// A directory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Directory {
    /// Its last name.
    name: String,
    /// Where it is.
    path: String,
}

/// The directories in a directory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Directories {
    /// The one that they are in.
    path: String,
    /// The one above it.
    parent: Option<String>,
    /// They, by name; hidden ones last.
    directories: Vec<Directory>,
    /// Whether there are more.
    is_cut_short: bool,
}

/// The directories in a directory of this machine. Where the path names none,
/// those of the directory above it whose names begin as it ends.
#[utoipa::path(
    get,
    path = "/directories",
    params(Where),
    responses(
        (status = 200, body = Directories),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 422, description = "No such directory, or it cannot be read",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn list(
    _: Owner,
    State(services): State<Services>,
    Query(query): Query<Where>,
) -> Answer<Directories> {
    let start = start(&services);
    blocking(move || {
        let wanted = if query.path.is_empty() { start } else { PathBuf::from(&query.path) };
        if !wanted.is_absolute() {
            return Err(bad(format!("{} does not begin with /", wanted.display())));
        }
        if wanted.is_dir() {
            return read(&wanted, "").map(Json);
        }
        let begins = wanted.file_name().map(|name| name.to_string_lossy().into_owned());
        match (wanted.parent(), begins) {
            (Some(parent), Some(begins)) if parent.is_dir() => read(parent, &begins).map(Json),
            _ => Err(bad(format!("{} is no directory of this machine", wanted.display()))),
        }
    })
    .await
}

/// Where to begin: in the home that the data directory is in, as a rule.
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
    let failed = |error: std::io::Error| bad(format!("{} cannot be read: {error}", dir.display()));
    let mut directories = Vec::new();
    let mut is_cut_short = false;
    for (seen, entry) in std::fs::read_dir(dir).map_err(failed)?.enumerate() {
        if seen >= SEEN_MAX {
            is_cut_short = true;
            break;
        }
        // One that vanishes, or cannot be looked at, is none to choose.
        let Ok(entry) = entry else { continue };
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // The configuration carries paths that are UTF-8.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with(begins) {
            continue;
        }
        let path = dir.join(&name).display().to_string();
        directories.push(Directory { name, path });
    }
    directories.sort_by(|a, b| {
        let key = |one: &Directory| (one.name.starts_with('.'), one.name.to_lowercase());
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

/// What would be left out of which directory.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PreviewRequest {
    /// An absolute path.
    path: String,
    /// Patterns, in the syntax of .gitignore.
    #[serde(default)]
    exclude: Vec<String>,
}

/// A file that is left out, or a directory with all that is in it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LeftOut {
    /// Where it is in the folder.
    path: String,
    /// Whether it is a directory.
    is_dir: bool,
    /// Files in it, or itself.
    files: u64,
    /// Their lengths together.
    bytes: u64,
}

/// What a folder would come to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ExcludePreview {
    /// Files that would be backed up.
    files: u64,
    /// Their lengths together.
    bytes: u64,
    /// Files that would be left out.
    excluded_files: u64,
    /// Their lengths together.
    excluded_bytes: u64,
    /// The largest that are left out.
    excluded: Vec<LeftOut>,
    /// Whether only a part of the folder was looked at.
    is_cut_short: bool,
}

/// Tells what patterns would leave out of a directory, without changing
/// anything.
#[utoipa::path(
    post,
    path = "/exclude-preview",
    request_body = PreviewRequest,
    responses(
        (status = 200, body = ExcludePreview),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 422, description = "No such directory, or no such pattern",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn preview(
    _: Owner,
    Json(request): Json<PreviewRequest>,
) -> Answer<ExcludePreview> {
    blocking(move || {
        let path = PathBuf::from(&request.path);
        if !path.is_absolute() {
            return Err(bad(format!("{} does not begin with /", request.path)));
        }
        // What a folder takes is what counts here.
        for pattern in &request.exclude {
            let parsed: Result<config::Pattern, _> = pattern.parse();
            parsed.map_err(|error| bad(format!("{pattern}: {error}")))?;
        }
        let found = sync::preview(&path, &request.exclude, PREVIEW)
            .map_err(|error| bad(with_causes(&error)))?;
        let excluded = found.excluded.into_iter().map(|one| LeftOut {
            path: to_text(one.path.as_bytes()).0,
            is_dir: one.is_dir,
            files: one.files,
            bytes: one.bytes,
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
