//! `docs/config.md`, made from the table of the keys.

use crate::config::{Config, ROOT};
use crate::schema::{Apply, KeySpec, Kind, Unit, keys};

const HEAD: &str = "\
# Configuration

<!-- Made from crates/config/src/config.rs: UPDATE_DOCS=1 cargo test -p config -->

`config.toml` lies in `$XDG_CONFIG_HOME/archivist/` (`~/.config/archivist/`), or in
the directory that `--home` or `ARCHIVIST_HOME` names. Every key has a default, so
an empty file is valid; `archivist init` writes one in which every key is shown as a
comment.

* An unknown key, a wrong type or a value out of range stops the start. The message
  names the file, line, column, key and what is allowed, for everything that is wrong
  at once. The file is never overwritten.
* `archivist config get KEY` and `archivist config set KEY VALUE` read and change one
  key; comments, order and line ends stay. A change that would make the file invalid
  is refused, and the file stays as it was.
* **live**: a running instance applies a change that is made through the CLI or the
  UI at once. **restart**: it applies the change when it is started the next time.

Sizes are written `500GB` or `1GiB`, rates `10MB/s`: `KB` `MB` `GB` `TB` `PB` are
powers of 1000, `KiB` `MiB` `GiB` `TiB` `PiB` of 1024, and a plain number is bytes.
Where 0 is allowed for a port, it means any free one.
";

/// The reference of all keys, in Markdown.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in ROOT {
        let Kind::Table(specs) = section.kind else { continue };
        text += &format!("\n## `[{}]`\n\n{}\n", section.name, section.doc.trim());
        let rows = |prefix: &str, specs: &[KeySpec]| -> String {
            specs.iter().map(|spec| row(prefix, spec)).collect()
        };
        text += "\n| key | default | allowed | change | what it is for |\n|---|---|---|---|---|\n";
        let prefix = format!("{}.", section.name);
        text += &rows(&prefix, specs);
        for spec in specs {
            if let Kind::Tables { of, .. } = spec.kind {
                text +=
                    &format!("\n### `[[{}.{}]]`\n\n{}\n", section.name, spec.name, spec.doc.trim());
                text += "\n| key | default | allowed | change | what it is for |\n|---|---|---|---|---|\n";
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
        Kind::Number { min, max, unit } => match unit {
            Unit::Seconds => format!("{min} to {max} s"),
            Unit::Milliseconds => format!("{min} to {max} ms"),
            _ => format!("{min} to {max}"),
        },
        Kind::Port => "0 to 65535".to_owned(),
        Kind::List { of, .. } => format!("list: {}", of.allowed()),
        Kind::Tables { of: _, max } => format!("at most {max} tables, below"),
        kind => kind.allowed(),
    };
    let change = match spec.apply {
        Apply::Live => "live",
        Apply::NeedsRestart => "restart",
    };
    format!("| `{name}` | {default} | {allowed} | {change} | {} |\n", spec.doc.trim())
}
