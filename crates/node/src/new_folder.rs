//! Checks of a folder before it is added.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use config::{Config, FolderConfig};
use sync::{PreviewRules, is_left_out};
use types::RelPath;

/// The reason why a folder cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum NewFolderError {
    /// The files would belong to two folders.
    #[error(
        "{inner} is inside the folder {outer}, which backs it up already; a file cannot belong \
         to two folders"
    )]
    Nested {
        /// The path of the inner folder.
        inner: String,
        /// The path of the outer folder.
        outer: String,
    },
}

/// Returns the settings of a folder that decide which entries are left out.
pub fn preview_rules(folder: &FolderConfig) -> PreviewRules {
    PreviewRules {
        exclude: folder.exclude.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        one_file_system: folder.one_file_system,
        exclude_caches: folder.exclude_caches,
    }
}

/// Checks that no file would belong to two folders if `new` was added. A folder may be inside
/// another one if the outer one leaves it out: a file system mounted there, a subvolume, or a
/// cache. The call blocks on the disk.
///
/// # Errors
///
/// Returns [`NewFolderError::Nested`] if a file would.
pub fn check_new_folder(config: &Config, new: &FolderConfig) -> Result<(), NewFolderError> {
    for known in &config.sync.folders {
        let pair = if known.path.contains(&new.path) {
            (known, new)
        } else if new.path.contains(&known.path) {
            (new, known)
        } else {
            continue;
        };
        let (outer, inner) = pair;
        if known.path != new.path && !is_disjoint(outer, inner.path.as_path()) {
            return Err(NewFolderError::Nested {
                inner: inner.path.to_string(),
                outer: outer.path.to_string(),
            });
        }
    }
    Ok(())
}

fn is_disjoint(outer: &FolderConfig, inner: &Path) -> bool {
    let root = outer.path.as_path();
    let Ok(below) = inner.strip_prefix(root) else { return false };
    let Ok(below) = RelPath::new(below.as_os_str().as_bytes()) else { return false };
    is_left_out(root, &below, &preview_rules(outer)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use types::FolderId;

    use super::*;

    fn folder(path: &Path) -> FolderConfig {
        FolderConfig {
            id: FolderId::from_random([7; 16]),
            path: path.to_str().unwrap().parse().unwrap(),
            name: None,
            exclude: Vec::new(),
            paused: false,
            one_file_system: true,
            exclude_caches: false,
            before_publish: Vec::new(),
            after_publish: Vec::new(),
        }
    }

    #[test]
    fn a_folder_may_be_in_another_one_only_if_that_leaves_it_out() {
        let dir = tempfile::tempdir().unwrap();
        let [cache, plain, beside] = ["a/cache", "a/plain", "ab"].map(|name| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        });
        let tag = "Signature: 8a477f597d28d172789f06886806bc55";
        std::fs::write(cache.join("CACHEDIR.TAG"), tag).unwrap();
        let mut outer = folder(&dir.path().join("a"));
        let check = |known: &FolderConfig, new: &FolderConfig| {
            let mut config = Config::default();
            config.sync.folders.push(known.clone());
            check_new_folder(&config, new).map_err(|error| error.to_string())
        };
        let inner = folder(&cache);
        for (known, new) in [(&outer, &inner), (&inner, &outer)] {
            let refused = check(known, new).unwrap_err();
            assert!(refused.contains(&*inner.path.to_string()), "{refused}");
        }
        outer.exclude_caches = true;
        assert_eq!(check(&outer, &inner), Ok(()));
        assert_eq!(check(&inner, &outer), Ok(()));
        check(&outer, &folder(&plain)).unwrap_err();
        assert_eq!(check(&outer, &folder(&beside)), Ok(()));
        // The configuration reports a folder that is added twice.
        assert_eq!(check(&outer, &outer), Ok(()));
    }
}
