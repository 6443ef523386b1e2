//! Generates `docs/config.md` from the key table.

use crate::config::Config;
use crate::keys::keys;
use crate::schema::{Apply, KeySpec, Kind};

const HEAD: &str = "\
# Configuration

<!-- Generated from crates/config/src/config.rs: UPDATE_DOCS=1 cargo test -p config -->

`config.toml` is in `$XDG_CONFIG_HOME/archivist/` (`~/.config/archivist/`), or in the
directory given by `--home` or `ARCHIVIST_HOME`. Every key has a default, so an empty
file is valid. `archivist init` creates a file that shows every key as a comment.

* An unknown key, a wrong type or a value out of range prevents the start. The message
  lists every problem with its file, line, column, key and the allowed values. The file
  is never overwritten.
* `archivist config get KEY` and `archivist config set KEY VALUE` read and change one
  key. Comments, order and line endings are preserved. A change that would make the file
  invalid is rejected, and the file stays unchanged.
* **live**: a running instance applies a change made through the CLI or the web UI
  immediately. **restart**: the change takes effect at the next start.

Sizes are written as `500GB` or `1GiB`, rates as `10MB/s`. `KB` `MB` `GB` `TB` `PB` are
powers of 1000, `KiB` `MiB` `GiB` `TiB` `PiB` are powers of 1024, and a number without a
unit is bytes. Where a port may be 0, 0 selects any free port.
";

/// Returns the reference of all keys in Markdown.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in Config::KEYS {
        let Kind::Table(specs) = section.kind else { continue };
        text += &format!("\n## `[{}]`\n\n{}\n", section.name, section.doc.trim());
        let rows = |prefix: &str, specs: &[KeySpec]| -> String {
            specs.iter().map(|spec| row(prefix, spec)).collect()
        };
        text += "\n| key | default | allowed | change | purpose |\n|---|---|---|---|---|\n";
        let prefix = format!("{}.", section.name);
        text += &rows(&prefix, specs);
        for spec in specs {
            if let Kind::Tables { of, .. } = spec.kind {
                text +=
                    &format!("\n### `[[{}.{}]]`\n\n{}\n", section.name, spec.name, spec.doc.trim());
                text += "\n| key | default | allowed | change | purpose |\n|---|---|---|---|---|\n";
                text += &rows(&format!("{prefix}{}[].", spec.name), of);
            }
        }
    }
    text += "\n## The file that `archivist init` writes\n\n```toml\n";
    text += &Config::default_text();
    text + "```\n"
}

fn row(prefix: &str, spec: &KeySpec) -> String {
    let path = format!("{prefix}{}", spec.name);
    if let Kind::Table(of) = spec.kind {
        return of.iter().map(|spec| row(&format!("{path}."), spec)).collect();
    }
    let info = keys().iter().find(|key| key.path == path);
    let default = info.and_then(|key| key.default.as_ref());
    let default = match default {
        Some(value) => format!(
            "`{}`",
            toml::Value::try_from(value)
                .map_or_else(|_| value.to_string(), |value| value.to_string())
        ),
        None if spec.required => "required".to_owned(),
        None => String::new(),
    };
    let name = path.trim_start_matches(|c| c != '.').trim_start_matches('.');
    let name = name.rsplit("[].").next().unwrap_or(name);
    let allowed = match spec.kind {
        Kind::Number { .. } | Kind::Port => {
            let (min, max) = spec.kind.range().unwrap_or_default();
            format!("{min} to {max}{}", spec.kind.unit_suffix())
        }
        Kind::List { of, .. } => format!("list: {}", of.allowed()),
        Kind::Tables { of: _, max } => format!("at most {max} tables, see below"),
        kind => kind.allowed(),
    };
    let change = match spec.apply {
        Apply::Live => "live",
        Apply::NeedsRestart => "restart",
    };
    format!("| `{name}` | {default} | {allowed} | {change} | {} |\n", spec.doc.trim())
}
