//! Where an instance keeps its files.

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
    /// The paths of the instance of `home` (`--home`), else of
    /// `ARCHIVIST_HOME`, else of the user, by the XDG rules: a variable that
    /// is empty, or not an absolute path where it has to be, counts as unset.
    ///
    /// `env` looks an environment variable up.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoHome`] where nothing says where to look;
    /// [`ConfigError::Io`] where `home` is relative and the current directory
    /// is gone.
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

    /// The paths of the instance that lies wholly under `home`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Io`] where `home` is empty, or relative and the current
    /// directory is gone.
    pub fn of_home(home: &Path) -> Result<Self, ConfigError> {
        // A daemon may leave the directory that it was started in.
        let home = std::path::absolute(home)
            .map_err(|error| ConfigError::io("find the home directory", home, error))?;
        Ok(Self { config_file: home.join("config.toml"), data_dir: home.join("data") })
    }

    /// The configuration.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Everything else.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The token that changes through the API need.
    pub fn api_token(&self) -> PathBuf {
        self.data_dir.join("api-token")
    }

    /// The secret key that the peer id comes from.
    pub fn identity_key(&self) -> PathBuf {
        self.data_dir.join("identity.key")
    }

    /// What the backup daemon remembers.
    pub fn daemon_state(&self) -> PathBuf {
        self.data_dir.join("backup-daemon-state.json")
    }

    /// The blocks.
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
        insta::assert_snapshot!(error, @"cannot tell where the configuration is: HOME is not set; set it, or give --home DIR");
        let error = resolve(None, &[("XDG_CONFIG_HOME", "/c"), ("HOME", "relative")]).unwrap_err();
        insta::assert_snapshot!(error, @"cannot tell where the data is: HOME is not set; set it, or give --home DIR");
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
