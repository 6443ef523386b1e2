//! The configuration file: reads it and changes it atomically.
//!
//! A change takes a lock (`flock` on `.config.toml.lock` in the same directory,
//! released when its process ends), reads the file again, edits it in memory and
//! validates the complete result. The new text goes to a temporary file in the
//! same directory with the mode and the owner of the old file, is synced and
//! renamed over the old file; then the directory is synced. A crash leaves the
//! old or the new file. Editors ignore the lock, so the file is compared with
//! the text that was read directly before the rename, and the change is repeated
//! if they differ.
//!
//! Symlinks are followed first: the file at the end is replaced, and the lock and
//! the temporary file are in its directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk::{AtomicWrite, Permissions, RealDisk, Writers, write_atomic};
use serde::Serialize;

use crate::MAX_FILE_LEN;
use crate::config::Config;
use crate::draft::{Draft, no_such_key};
use crate::error::{ConfigError, Problem};
use crate::load::{LoadedConfig, decode, read};
use crate::parse::parse;

/// Maximum time that a change waits for the change of another process.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Maximum number of attempts if other programs keep changing the file.
const WRITE_TRIES_MAX: usize = 10;

/// Maximum number of symlinks to follow, the same as the kernel's.
const SYMLINKS_MAX: usize = 40;

/// The result of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edited {
    /// The configuration that the file now contains. Use [`crate::diff`] to find
    /// the changes that a running instance must apply.
    pub config: Config,
    /// True if the file was written; false if it already had this content.
    pub written: bool,
}

/// The value of one key, for a person or a program.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// Path of the key.
    pub key: String,
    /// The value.
    pub value: serde_json::Value,
    /// The value in TOML syntax.
    pub toml: String,
    /// True if the file sets the key, false if the value is the default.
    pub is_given: bool,
}

/// The configuration file of an instance.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    /// Creates a handle for the file at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the path given to [`ConfigFile::new`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the file with [`Config::load`].
    ///
    /// # Errors
    ///
    /// Same as [`Config::load`].
    pub fn load(&self) -> Result<LoadedConfig, ConfigError> {
        Config::load(&self.path)
    }

    /// Creates the file with [`Config::default_text`] and its missing parent
    /// directories. Returns false if the file already exists.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::Io`] and [`ConfigError::Locked`].
    pub fn create(&self) -> Result<bool, ConfigError> {
        let (target, _lock) = self.lock()?;
        if read(&target)?.is_some() {
            return Ok(false);
        }
        replace(&target, Config::default_text().as_bytes())?;
        Ok(true)
    }

    /// Returns the value of a key or section: from the file, or the default.
    ///
    /// # Errors
    ///
    /// Same as [`Config::load`], and [`ConfigError::NoSuchKey`].
    pub fn get(&self, key: &str) -> Result<Setting, ConfigError> {
        let loaded = self.load()?;
        let value = loaded.config.get(key).ok_or_else(|| no_such_key(key))?;
        let json = serde_json::to_value(&value).unwrap_or_default();
        let is_given = loaded.is_given(key);
        Ok(Setting { key: key.to_owned(), value: json, toml: value.to_string(), is_given })
    }

    /// Changes the file: `change` makes any number of changes in a draft, which
    /// are written together or not at all. If the file does not exist, the draft
    /// starts as [`Config::default_text`].
    ///
    /// `change` may be called more than once, each time with a new draft.
    ///
    /// # Errors
    ///
    /// Returns the error of `change`; [`ConfigError::Refused`] if the result is
    /// invalid; [`ConfigError::Invalid`] if the file already was invalid and the
    /// change does not correct it; [`ConfigError::Io`], [`ConfigError::Locked`],
    /// [`ConfigError::Busy`] and [`ConfigError::TooLarge`]. The file is unchanged
    /// after an error.
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
            let problems_before = parse(&text).err();
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

    /// Calls [`Draft::set`] as one edit.
    ///
    /// # Errors
    ///
    /// Same as [`Draft::set`] and [`ConfigFile::edit`].
    pub fn set(&self, key: &str, text: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.set(key, text))
    }

    /// Calls [`Draft::reset`] as one edit.
    ///
    /// # Errors
    ///
    /// Same as [`Draft::reset`] and [`ConfigFile::edit`].
    pub fn reset(&self, key: &str) -> Result<Edited, ConfigError> {
        self.edit(|draft| draft.reset(key))
    }

    /// Takes the lock for a change. Returns the path of the file to replace, and
    /// the lock, which is released when it is dropped.
    fn lock(&self) -> Result<(PathBuf, File), ConfigError> {
        let target = follow(&self.path)?;
        let dir = directory(&target);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| ConfigError::io("create the directory", dir, error))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = dir.join(format!(".{name}.lock"));
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| ConfigError::io("open the lock file", &path, error))?;
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
                    return Err(ConfigError::io("lock", &path, error));
                }
            }
        }
    }
}

/// Follows the symlinks of a path to a file, which need not exist.
fn follow(path: &Path) -> Result<PathBuf, ConfigError> {
    let mut target = path.to_owned();
    for _ in 0..SYMLINKS_MAX {
        match std::fs::read_link(&target) {
            Ok(next) => target = directory(&target).join(next),
            // Not a symlink, or nothing exists at this path.
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
    let error = io::Error::other("too many levels of symlinks");
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
