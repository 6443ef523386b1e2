//! Paths of an instance's files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::ConfigError;

/// The files and directories of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    config_file: PathBuf,
    data_dir: PathBuf,
}

impl Paths {
    /// Returns the paths of the instance in `home` (`--home`), or else in
    /// `ARCHIVIST_HOME`, or else of the user by the XDG rules: a variable that is
    /// empty is ignored, and so is a relative path in an XDG variable or `HOME`.
    ///
    /// `env` returns the value of an environment variable.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoHome`] if no variable names a directory, and
    /// [`ConfigError::Io`] if `home` is relative and the current directory no
    /// longer exists.
    pub fn resolve(
        home: Option<&Path>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let given = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(home) = home.map(Path::to_owned).or_else(|| given("ARCHIVIST_HOME")) {
            return Self::of_home(&home);
        }
        let base = |name: &str, fallback: &str, wanted| {
            given(name)
                .filter(|path| path.is_absolute())
                .or_else(|| Some(given("HOME")?.join(fallback)))
                .filter(|path| path.is_absolute())
                .ok_or(ConfigError::NoHome { wanted })
        };
        let config = base("XDG_CONFIG_HOME", ".config", "configuration")?;
        let data = base("XDG_DATA_HOME", ".local/share", "data")?;
        Ok(Self {
            config_file: config.join("archivist/config.toml"),
            data_dir: data.join("archivist"),
        })
    }

    /// Returns the paths of an instance whose files are all in `home`.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::Io`] if `home` is empty, or if it is relative and
    /// the current directory no longer exists.
    pub fn of_home(home: &Path) -> Result<Self, ConfigError> {
        // A daemon may change its working directory.
        let home = std::path::absolute(home)
            .map_err(|error| ConfigError::io("find the home directory", home, error))?;
        Ok(Self { config_file: home.join("config.toml"), data_dir: home.join("data") })
    }

    /// Returns the configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Returns the directory of all other files.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Returns the file of the API token, which changes through the API require.
    pub fn api_token(&self) -> PathBuf {
        self.data_dir.join("api-token")
    }

    /// Returns the file of the secret key from which the peer id is derived.
    pub fn identity_key(&self) -> PathBuf {
        self.data_dir.join("identity.key")
    }

    /// Returns the state file of the backup daemon.
    pub fn daemon_state(&self) -> PathBuf {
        self.data_dir.join("backup-daemon-state.json")
    }

    /// Returns the directory of the block store.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(home: Option<&str>, env: &[(&str, &str)]) -> Result<Paths, ConfigError> {
        Paths::resolve(home.map(Path::new), |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    fn shown(paths: &Paths) -> (String, String) {
        (paths.config_file.display().to_string(), paths.data_dir.display().to_string())
    }

    #[test]
    fn a_home_holds_the_whole_instance() {
        let wanted = ("/srv/a/config.toml".to_owned(), "/srv/a/data".to_owned());
        let by_option = resolve(Some("/srv/a"), &[("ARCHIVIST_HOME", "/srv/b"), ("HOME", "/h")]);
        assert_eq!(shown(&by_option.unwrap()), wanted);
        let by_env = resolve(None, &[("ARCHIVIST_HOME", "/srv/a"), ("XDG_DATA_HOME", "/x")]);
        assert_eq!(shown(&by_env.unwrap()), wanted);
        let relative = resolve(Some("b"), &[]).unwrap();
        assert!(
            relative.config_file().is_absolute()
                && relative.config_file().ends_with("b/config.toml")
        );
        assert!(resolve(Some(""), &[("HOME", "/h")]).is_err());
    }

    #[test]
    fn the_xdg_rules() {
        let shown = |env: &[(&str, &str)]| shown(&resolve(None, env).unwrap());
        let fallback =
            ("/h/.config/archivist/config.toml".to_owned(), "/h/.local/share/archivist".to_owned());
        assert_eq!(shown(&[("HOME", "/h")]), fallback);
        assert_eq!(shown(&[("HOME", "/h"), ("ARCHIVIST_HOME", "")]), fallback);
        let unusable = [("HOME", "/h"), ("XDG_CONFIG_HOME", "rel"), ("XDG_DATA_HOME", "")];
        assert_eq!(shown(&unusable), fallback);
        let set = [("XDG_CONFIG_HOME", "/c"), ("XDG_DATA_HOME", "/d")];
        assert_eq!(shown(&set), ("/c/archivist/config.toml".to_owned(), "/d/archivist".to_owned()));
    }

    #[test]
    fn without_a_home_the_message_says_what_to_do() {
        let error = resolve(None, &[("XDG_DATA_HOME", "/d")]).unwrap_err();
        insta::assert_snapshot!(error, @"cannot find the configuration directory: HOME is not set; set it, or use --home DIR");
        let error = resolve(None, &[("XDG_CONFIG_HOME", "/c"), ("HOME", "relative")]).unwrap_err();
        insta::assert_snapshot!(error, @"cannot find the data directory: HOME is not set; set it, or use --home DIR");
    }

    #[test]
    fn the_files_of_the_contract() {
        let paths = resolve(Some("/i"), &[]).unwrap();
        assert_eq!(paths.api_token(), Path::new("/i/data/api-token"));
        assert_eq!(paths.daemon_state(), Path::new("/i/data/backup-daemon-state.json"));
        assert_eq!(paths.identity_key(), Path::new("/i/data/identity.key"));
        assert_eq!(paths.store_dir(), Path::new("/i/data/store"));
    }
}
