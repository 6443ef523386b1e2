//! The configuration file: changing it whole or not at all.
//!
//! How a change is written: under a lock (`.config.toml.lock` beside the file,
//! `flock`, which dies with its process) the file is read afresh, changed in
//! memory and checked as a whole; the result goes to a temporary file in the
//! same directory, with the mode and the owner of the old one, is synced, and
//! takes the old one's name by a rename; then the directory is synced. A crash
//! leaves the old file or the new one. An editor knows nothing of the lock, so
//! the file is compared with what was read right before the rename, and the
//! change is made again where it differs.
//!
//! A symlink is followed first: the file that it leads to is replaced, and the
//! lock and the temporary file lie beside that one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk::{AtomicWrite, Permissions, RealDisk, Writers, write_atomic};
use serde::Serialize;

use crate::MAX_FILE_LEN;
use crate::check;
use crate::config::{Config, FolderConfig, SourcePeer};
use crate::draft::{Draft, FolderUpdate, SourceUpdate, no_such_key};
use crate::error::{ConfigError, Problem};
use crate::load::{LoadedConfig, decode, read};
use types::FolderId;

/// How long a change waits for another process's change.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// How often a change is made again where another program was faster.
const WRITE_TRIES_MAX: usize = 10;

/// How many symlinks are followed, as the kernel does.
const SYMLINKS_MAX: usize = 40;

/// What became of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edited {
    /// The configuration as the file now has it. What a running instance does
    /// about it, [`crate::diff`] tells.
    pub config: Config,
    /// Whether the file was written; not, where it said the same already.
    pub written: bool,
}

/// The value of one key, for a person or a program.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// The path of the key.
    pub key: String,
    /// The value.
    pub value: serde_json::Value,
    /// The value as the file would have it.
    pub toml: String,
    /// Whether the file says so; else it is the default.
    pub is_given: bool,
}

/// The configuration file of an instance, to read and to change.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    /// The file at `path`, whether it is there or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path that was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it: [`Config::load`].
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load(&self) -> Result<LoadedConfig, ConfigError> {
        Config::load(&self.path)
    }

    /// Writes [`Config::default_text`] where there is no file, with the
    /// directories that lead to it, and tells whether it did.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Io`], [`ConfigError::Locked`].
    pub fn create(&self) -> Result<bool, ConfigError> {
        let (target, _lock) = self.lock()?;
        if read(&target)?.is_some() {
            return Ok(false);
        }
        replace(&target, Config::default_text().as_bytes())?;
        Ok(true)
    }

    /// The value of a key or of a section, the default where the file does not
    /// say.
    ///
    /// # Errors
    ///
    /// As [`Config::load`]; [`ConfigError::NoSuchKey`].
    pub fn get(&self, key: &str) -> Result<Setting, ConfigError> {
        let loaded = self.load()?;
        let value = loaded.config.get(key).ok_or_else(|| no_such_key(key))?;
        let json = serde_json::to_value(&value).unwrap_or_default();
        let is_given = loaded.is_given(key);
        Ok(Setting { key: key.to_owned(), value: json, toml: value.to_string(), is_given })
    }

    /// Changes the file: `change` makes any number of changes in a draft, and
    /// they are written together, or not at all. A file that is not there
    /// begins as [`Config::default_text`].
    ///
    /// `change` may be called more than once, each time with a fresh draft.
    ///
    /// # Errors
    ///
    /// What `change` returns; [`ConfigError::Refused`] where the result is not
    /// valid; [`ConfigError::Invalid`] where the file was not, and the change
    /// does not mend it; [`ConfigError::Io`], [`ConfigError::Locked`],
    /// [`ConfigError::Busy`]. The file is as it was then.
    pub fn edit(
        &self,
        mut change: impl FnMut(&mut Draft) -> Result<(), ConfigError>,
    ) -> Result<Edited, ConfigError> {
        let (target, _lock) = self.lock()?;
        for _ in 0..WRITE_TRIES_MAX {
            let before = read(&target)?;
            let text = match &before {
                Some(bytes) => decode(&self.path, bytes.clone())?,
                None => Config::default_text(),
            };
            let problems_before = check::parse(&text).err();
            let is_toml = !problems_before.iter().flatten().any(Problem::is_syntax);
            let invalid = |problems| ConfigError::Invalid { path: self.path.clone(), problems };
            if let (Some(problems), false) = (&problems_before, is_toml) {
                return Err(invalid(problems.clone()));
            }
            let mut draft = Draft::new(&self.path, text.clone());
            change(&mut draft)?;
            let config = draft.finish().map_err(|problems| match problems_before {
                Some(before) => invalid(before),
                None => ConfigError::Refused { path: self.path.clone(), problems },
            })?;
            if draft.text().len() as u64 > MAX_FILE_LEN {
                let len = draft.text().len() as u64;
                return Err(ConfigError::TooLarge { path: self.path.clone(), len });
            }
            if draft.text() == text {
                return Ok(Edited { config, written: false });
            }
            if read(&target)? == before {
                replace(&target, draft.text().as_bytes())?;
                return Ok(Edited { config, written: true });
            }
        }
        Err(ConfigError::Busy(self.path.clone()))
    }

    /// [`Draft::set`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::set`] and [`ConfigFile::edit`].
    pub fn set(&self, key: &str, text: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.set(key, text))
    }

    /// [`Draft::reset`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::reset`] and [`ConfigFile::edit`].
    pub fn reset(&self, key: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.reset(key))
    }

    /// [`Draft::add_item`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::add_item`] and [`ConfigFile::edit`].
    pub fn add_item(&self, key: &str, item: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.add_item(key, item))
    }

    /// [`Draft::remove_item`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::remove_item`] and [`ConfigFile::edit`].
    pub fn remove_item(&self, key: &str, item: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.remove_item(key, item))
    }

    /// [`Draft::add_folder`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::add_folder`] and [`ConfigFile::edit`].
    pub fn add_folder(&self, folder: &FolderConfig) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.add_folder(folder))
    }

    /// [`Draft::update_folder`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::update_folder`] and [`ConfigFile::edit`].
    pub fn update_folder(
        &self,
        id: &FolderId,
        update: &FolderUpdate,
    ) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.update_folder(id, update))
    }

    /// [`Draft::remove_folder`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::remove_folder`] and [`ConfigFile::edit`].
    pub fn remove_folder(&self, id: &FolderId) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.remove_folder(id))
    }

    /// [`Draft::add_source`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::add_source`] and [`ConfigFile::edit`].
    pub fn add_source(&self, source: &SourcePeer) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.add_source(source))
    }

    /// [`Draft::update_source`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::update_source`] and [`ConfigFile::edit`].
    pub fn update_source(&self, name: &str, update: &SourceUpdate) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.update_source(name, update))
    }

    /// [`Draft::remove_source`] as one edit.
    ///
    /// # Errors
    ///
    /// As [`Draft::remove_source`] and [`ConfigFile::edit`].
    pub fn remove_source(&self, name: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.remove_source(name))
    }

    /// Takes the lock for a change: the file that is to be replaced, and what
    /// holds the lock until it is dropped.
    fn lock(&self) -> Result<(PathBuf, File), ConfigError> {
        let target = follow(&self.path)?;
        let dir = directory(&target);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| ConfigError::io("make the directory", dir, error))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = dir.join(format!(".{name}.lock"));
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| ConfigError::io("open the lock", &path, error))?;
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok((target, lock)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(ConfigError::Locked { path: self.path.clone(), lock: path });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(ConfigError::io("take the lock", &path, error));
                }
            }
        }
    }
}

/// The file that a path leads to, be it there or not.
fn follow(path: &Path) -> Result<PathBuf, ConfigError> {
    let mut target = path.to_owned();
    for _ in 0..SYMLINKS_MAX {
        match std::fs::read_link(&target) {
            Ok(next) => target = directory(&target).join(next),
            // Not a symlink, or nothing.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(target);
            }
            Err(error) => return Err(ConfigError::io("read", &target, error)),
        }
    }
    let error = io::Error::other("too many symlinks");
    Err(ConfigError::io("read", path, error))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Replaces the content of `target` atomically. Its permissions and its owner
/// stay; a new file is readable for its owner only.
fn replace(target: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    let options = AtomicWrite {
        permissions: Permissions::Inherit,
        // An editor takes no lock.
        writers: Writers::Several,
        ..AtomicWrite::PRIVATE
    };
    write_atomic(&RealDisk, target, bytes, &options)
        .map(drop)
        .map_err(|error| ConfigError::io("write", target, error.into()))
}
