//! The key table is complete, and the files generated from it are up to date.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not in tests, as clippy sees it")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{folder, parse, peer, source};
use config::{Apply, Config, Unit, diff, keys, reference};

/// Collects the paths of all leaves of a value.
fn leaves(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                leaves(value, &format!("{path}.{key}"), found);
            }
        }
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
            found.insert(path[1..].to_owned());
            for item in items {
                leaves(item, &format!("{path}[]"), found);
            }
        }
        _ => {
            found.insert(path[1..].to_owned());
        }
    }
}

#[test]
fn every_key_is_in_the_table_and_nothing_else_is() {
    let mut config = Config::default();
    let mut folder = folder("a", "/a");
    folder.name = Some("a".parse().unwrap());
    config.sync.folders.push(folder);
    config.backup_server.source_peers.push(source("a", 1));
    let mut found = BTreeSet::new();
    leaves(&serde_json::to_value(&config).unwrap(), "", &mut found);
    let known: BTreeSet<String> = keys().iter().map(|key| key.path.clone()).collect();
    assert_eq!(found, known);
    assert_eq!(known.len(), keys().len());
}

#[test]
fn the_table_tells_the_defaults() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for key in keys().iter().filter(|key| !key.path.contains("[]")) {
        let pointer = format!("/{}", key.path.replace('.', "/"));
        assert_eq!(key.default.as_ref(), defaults.pointer(&pointer), "{}", key.path);
        assert!(!key.required);
    }
    for key in keys() {
        assert!(!key.description.is_empty() && !key.description.contains('\n'), "{}", key.path);
        assert!(key.description.ends_with(['.', '…']), "{}", key.path);
        let is_amount = matches!(key.unit, Some(Unit::Bytes | Unit::BytesPerSecond));
        if let (Some(min), Some(max), Some(default), false) =
            (key.min, key.max, key.default.as_ref().and_then(serde_json::Value::as_u64), is_amount)
        {
            assert!((min..=max).contains(&default), "{}", key.path);
        }
    }
}

/// The specification allows only these keys to need a restart.
#[test]
fn these_keys_need_a_restart_and_no_others() {
    let restart: Vec<&str> = keys()
        .iter()
        .filter(|key| key.apply == Apply::NeedsRestart)
        .map(|key| key.path.as_str())
        .collect();
    assert_eq!(
        restart,
        [
            "node.listen_port",
            "node.discovery_port",
            "node.api_port",
            "node.bind",
            "node.announce_addresses",
            "node.bootstrap",
            "node.mdns",
            "manifest_server.port",
            "backup_server.trigger_port",
        ]
    );
}

#[test]
fn the_ranges_of_the_table_are_those_of_the_check() {
    for key in keys() {
        let (Some(min), Some(max)) = (key.min, key.max) else { continue };
        let (table, name) = key.path.rsplit_once('.').unwrap();
        let head = match table.strip_suffix("[]") {
            Some(list) => format!(
                "[[{list}]]\nname = \"x\"\nmanifest_server_url = \"http://192.0.2.1:8085\"\n\
                 peer_id = \"{}\"\n",
                peer(1)
            ),
            None => format!("[{table}]\n"),
        };
        let set = |value: u64| parse(&format!("{head}{name} = {value}\n"));
        let fits = |value| match set(value) {
            Ok(_) => true,
            // The limit of one key may conflict with the value of another.
            Err(error) => matches!(error.problems()[0].fault, config::Fault::Conflict(_)),
        };
        assert!(fits(min) && fits(max), "{}", key.path);
        assert!(!fits(max + 1), "{}", key.path);
        assert!(min == 0 || min == 1 || !fits(min - 1), "{}", key.path);
    }
}

#[test]
fn the_json_of_the_table() {
    let json: Vec<String> = keys().iter().map(|key| serde_json::to_string(key).unwrap()).collect();
    insta::assert_snapshot!("keys_json", json.join("\n"));
}

#[test]
fn the_default_file_says_nothing_and_shows_everything() {
    let text = Config::default_text();
    insta::assert_snapshot!("default_text", text);
    assert_eq!(parse(&text).unwrap(), Config::default());
    let is_shown = |line: &str| {
        line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).is_some_and(|(key, _)| {
            key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
    };
    let uncommented: Vec<&str> =
        text.lines().map(|line| if is_shown(line) { &line[2..] } else { line }).collect();
    assert_eq!(parse(&uncommented.join("\n")).unwrap(), Config::default());
    let shown = text.lines().filter(|line| is_shown(line)).count();
    let single = keys().iter().filter(|key| !key.path.contains("[]"));
    // The six keys of `keep` share a line, and a list of tables has an example.
    assert_eq!(shown, single.count() - 5 - 2);
    // The examples are not defaults, and are valid without the comment signs.
    let example: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("#     "))
        .map(|line| format!("{line}\n"))
        .collect();
    parse(&example.replace("16Uiu2HAm…", &common::peer(1).to_string())).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= 130, "{line}");
    }
}

#[test]
fn what_differs_and_what_it_takes() {
    let old = Config::default();
    assert_eq!(diff(&old, &old), []);
    let mut new = old.clone();
    new.node.api_port = 9;
    new.node.log_level = config::LogLevel::Debug;
    new.backup_server.keep.daily = 7;
    new.sync.folders.push(folder("a", "/a"));
    let shown: Vec<String> = diff(&old, &new)
        .iter()
        .map(|change| format!("{} {:?}: {} -> {}", change.key, change.kind, change.old, change.new))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    node.api_port NeedsRestart: 8080 -> 9
    node.log_level Live: "info" -> "debug"
    sync.folders Live: [] -> [{ id = "a", path = "/a", exclude = [], paused = false, one_file_system = true, exclude_caches = false, before_publish = [], after_publish = [] }]
    backup_server.keep.daily Live: 30 -> 7
    "#);
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == reference(),
        "docs/config.md is stale; write it again with: UPDATE_DOCS=1 cargo test -p config"
    );
}
