//! `archivist config …`

use anyhow::{Result, anyhow};
use api::{ConfigChange, ConfigChanged};
use config::{ConfigError, keys};
use serde::Serialize;

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Table, print_json, print_line, safe};

/// Show and change the settings.
///
/// A running instance applies a change immediately, or reports that it needs a
/// restart.
#[derive(Debug, clap::Subcommand)]
#[command(
    after_help = "Examples:\n  archivist config get\n  archivist config set sync.upload_limit 10MB/s"
)]
pub(crate) enum Config {
    Get(Get),
    Set(Set),
    Unset(Unset),
}

/// Print one setting, a section, or all settings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist config get node.log_level")]
pub(crate) struct Get {
    /// Key, such as `node.log_level`, or section, such as `node` [default: all].
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Change a setting. Comments in the configuration file are kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist config set node.log_level debug")]
pub(crate) struct Set {
    /// Key, such as `node.log_level`.
    key: String,
    /// New value, such as `debug`, `9000`, `10MB/s` or `true`. Lists: comma-separated
    /// or JSON.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Reset a setting to its default.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist config unset node.log_level")]
pub(crate) struct Unset {
    /// Key, such as `node.log_level`.
    key: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A key and its value.
#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: serde_json::Value,
    /// True if the file sets the value. Otherwise it is the default.
    is_given: bool,
    #[serde(skip)]
    shown: String,
}

impl Config {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Get(command) => command.run(context),
            Self::Set(command) => change(context, &command.key, Some(&command.value), command.json),
            Self::Unset(command) => change(context, &command.key, None, command.json),
        }
    }
}

impl Get {
    fn run(&self, context: &Context) -> Result<()> {
        let loaded = match context.config_file().load() {
            Err(ConfigError::Missing(_)) => None,
            result => Some(result?),
        };
        let defaults = config::Config::default();
        let config = loaded.as_ref().map_or(&defaults, |loaded| &loaded.config);
        let setting = |key: &str| -> Option<Setting> {
            let value = config.get(key)?;
            Some(Setting {
                key: key.to_owned(),
                value: serde_json::to_value(&value).unwrap_or_default(),
                is_given: loaded.as_ref().is_some_and(|loaded| loaded.is_given(key)),
                // Text is shown without quotes.
                shown: value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            })
        };
        if let Some(key) = &self.key {
            let one = setting(key).ok_or_else(|| no_such_key(context, key))?;
            return if self.json { print_json(&one) } else { print_line(safe(&one.shown)) };
        }
        let all = keys().iter().filter(|key| key.type_name != "table");
        let all: Vec<Setting> = all.filter_map(|key| setting(&key.path)).collect();
        if self.json {
            return print_json(&all);
        }
        let mut table =
            Table::new(&[("KEY", Align::Left), ("VALUE", Align::Left), ("", Align::Left)]);
        for one in all {
            let origin = if one.is_given { "" } else { "default" };
            table.row([one.key, one.shown, origin.to_owned()]);
        }
        let mut out = Out::new();
        table.print(&mut out, "")?;
        out.finish()
    }
}

/// Returns the error for a key that does not exist, with suggestions.
fn no_such_key(context: &Context, key: &str) -> anyhow::Error {
    match context.config_file().get(key) {
        Err(error @ ConfigError::NoSuchKey { .. }) => error.into(),
        _ => anyhow!("there is no key {key:?}; `archivist config get` lists all keys"),
    }
}

fn change(context: &Context, key: &str, value: Option<&str>, json: bool) -> Result<()> {
    let done = match context.instance()? {
        Some(client) => {
            let value = value.map_or(serde_json::Value::Null, Into::into);
            let body = ConfigChange { key: key.to_owned(), value };
            block_on(async { Ok(client.post("/config", &body).await?) })?
        }
        None => {
            let file = context.config_file();
            match value {
                Some(value) => file.set(key, value)?,
                None => file.reset(key)?,
            };
            // No instance is running that would have to apply the change.
            ConfigChanged { applied: true, needs_restart: Vec::new() }
        }
    };
    if json {
        return print_json(&done);
    }
    if !done.needs_restart.is_empty() {
        let keys = safe(&done.needs_restart.join(", "));
        eprintln!("saved; restart the daemon to apply: {keys}");
    }
    Ok(())
}
