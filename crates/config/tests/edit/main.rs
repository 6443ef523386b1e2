//! Editing a file changes the requested value and nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not in tests, as clippy sees it")]

#[path = "../common/mod.rs"]
mod common;
mod file;
mod random;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Barrier;

use common::{folder, parse, peer, source};
use config::{Config, ConfigError, ConfigFile, Draft, FolderUpdate, SourceUpdate, diff};

/// A file in a new directory.
struct Fixture {
    dir: tempfile::TempDir,
    file: ConfigFile,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Self { file: ConfigFile::new(path), dir }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file.path()).unwrap()
    }

    /// Returns the names beside the file, except the lock.
    fn litter(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| !["config.toml", ".config.toml.lock"].contains(&name.as_str()))
            .collect()
    }
}

/// Returns the text after a change, which must be valid.
fn after(text: &str, change: impl FnMut(&mut Draft) -> Result<(), ConfigError>) -> String {
    let fixture = Fixture::new(text);
    let edited = fixture.file.edit(change).unwrap();
    assert_eq!(edited.config, fixture.file.load().unwrap().config);
    assert_eq!(edited.written, fixture.text() != text);
    assert!(fixture.litter().is_empty());
    fixture.text()
}

fn set(text: &str, key: &str, value: &str) -> String {
    after(text, |draft| draft.set(key, value))
}

#[test]
fn a_value_is_changed_and_nothing_else() {
    let text =
        "# mine\r\n[ node ]\t# the node\r\n  api_port   =  9000   # why\r\n\r\nmdns=false\r\n# end";
    assert_eq!(set(text, "node.api_port", "9001"), text.replace("9000", "9001"));
    assert_eq!(set(text, "node.mdns", "true"), text.replace("false", "true"));
    for text in [
        "node.api_port = 1000 # a\nsync.upload_limit = \"0\"\nnode.mdns = false",
        "node = { mdns = false, api_port = 1000 } # x",
        "[node]\nbind = [ # all\n  \"::1\", # six\n]\napi_port=1000",
    ] {
        assert_eq!(set(text, "node.api_port", "9001"), text.replace("1000", "9001"));
    }
}

#[test]
fn a_key_is_added_where_it_belongs() {
    let cases = [
        // Below the other keys, with the same indentation.
        (
            "[node]\n  mdns = false # x\n\n[sync]\n",
            "[node]\n  mdns = false # x\n  api_port = 9\n\n[sync]\n",
        ),
        // Without a final line break.
        ("[node]\nmdns = false", "[node]\nmdns = false\napi_port = 9"),
        ("[node]", "[node]\napi_port = 9"),
        ("[node] # x\r\n", "[node] # x\r\napi_port = 9\r\n"),
        // Below the comment that shows the default.
        (
            "[node]\n# ports\n# api_port = 8080\n\n# mdns = true\n",
            "[node]\n# ports\n# api_port = 8080\napi_port = 9\n\n# mdns = true\n",
        ),
        // After a value on several lines.
        ("[node]\nbind = [\n \"::1\",\n]\n", "[node]\nbind = [\n \"::1\",\n]\napi_port = 9\n"),
        // In other forms of a table.
        ("node = { mdns = false }\n", "node = { mdns = false, api_port = 9 }\n"),
        ("node = {}\n", "node = { api_port = 9 }\n"),
        ("node.mdns = false\n[sync]\n", "node.mdns = false\nnode.api_port = 9\n[sync]\n"),
        ("\"node\".mdns = false\n", "\"node\".mdns = false\nnode.api_port = 9\n"),
        // In a missing section.
        ("", "[node]\napi_port = 9\n"),
        ("[sync]\nupload_limit = \"0\"", "[sync]\nupload_limit = \"0\"\n\n[node]\napi_port = 9"),
        ("# only words\n", "# only words\n\n[node]\napi_port = 9\n"),
        ("\u{feff}[node]\n", "\u{feff}[node]\napi_port = 9\n"),
    ];
    for (before, wanted) in cases {
        assert_eq!(set(before, "node.api_port", "9"), wanted, "{before:?}");
    }
}

#[test]
fn a_section_that_only_shows_in_its_tables_gets_a_header() {
    let text = "[[sync.folders]]\nid = \"a\"\npath = \"/a\"\n";
    let wanted = format!("{text}\n[sync]\nupload_limit = \"1MB/s\"\n");
    assert_eq!(set(text, "sync.upload_limit", "1MB/s"), wanted);
    let text = "[backup_server.keep]\nlast = 1\n";
    let wanted = format!("{text}\n[backup_server]\nenabled = true\n");
    assert_eq!(set(text, "backup_server.enabled", "true"), wanted);
}

#[test]
fn keep_in_all_its_forms() {
    let cases = [
        (
            "[backup_server]\nkeep = { last = 1 } # x\n",
            "[backup_server]\nkeep = { last = 1, daily = 7 } # x\n",
        ),
        ("[backup_server.keep]\nlast = 1\n", "[backup_server.keep]\nlast = 1\ndaily = 7\n"),
        (
            "[backup_server]\nkeep.last = 1\nenabled = true\n",
            "[backup_server]\nkeep.last = 1\nkeep.daily = 7\nenabled = true\n",
        ),
        (
            "backup_server.keep.last = 1\n",
            "backup_server.keep.last = 1\nbackup_server.keep.daily = 7\n",
        ),
        (
            "backup_server = { keep.last = 1, enabled = true }\n",
            "backup_server = { keep.last = 1, keep.daily = 7, enabled = true }\n",
        ),
        (
            "backup_server = { keep = { last = 1 } }\n",
            "backup_server = { keep = { last = 1, daily = 7 } }\n",
        ),
        (
            "[backup_server]\nenabled = true\n",
            "[backup_server]\nenabled = true\nkeep = { daily = 7 }\n",
        ),
        ("", "[backup_server]\nkeep = { daily = 7 }\n"),
    ];
    for (before, wanted) in cases {
        assert_eq!(set(before, "backup_server.keep.daily", "7"), wanted, "{before:?}");
        // Set the complete table.
        let whole = set(before, "backup_server.keep", "{ daily = 9, weekly = 1 }");
        let keep = parse(&whole).unwrap().backup_server.keep;
        assert_eq!((keep.last, keep.daily, keep.weekly), (10, 9, 1), "{whole}");
        // Reset it.
        let reset = after(wanted, |draft| draft.reset("backup_server.keep.daily"));
        assert_eq!(parse(&reset).unwrap(), parse(before).unwrap(), "{reset}");
        let reset = after(wanted, |draft| draft.reset("backup_server.keep"));
        assert_eq!(parse(&reset).unwrap().backup_server.keep, config::Keep::default(), "{reset}");
    }
}

#[test]
fn a_reset_takes_the_key_and_its_line() {
    let cases = [
        ("[node]\napi_port = 9 # x\nmdns = false\n", "[node]\nmdns = false\n"),
        ("[node]\r\nmdns = false\r\napi_port = 9", "[node]\r\nmdns = false\r\n"),
        ("node = { api_port = 9, mdns = false }", "node = { mdns = false }"),
        ("node = { mdns = false, api_port = 9 }", "node = { mdns = false }"),
        ("node = { api_port = 9 }", "node = {  }"),
        ("node.api_port = 9\nnode.mdns = false\n", "node.mdns = false\n"),
        ("[node]\nmdns = false\n", "[node]\nmdns = false\n"),
    ];
    for (before, wanted) in cases {
        assert_eq!(after(before, |draft| draft.reset("node.api_port")), wanted);
    }
    let text = "[node]\nbind = [\n \"::1\",\n]\nmdns = false\n";
    assert_eq!(after(text, |draft| draft.reset("node.bind")), "[node]\nmdns = false\n");
}

#[test]
fn values_as_people_type_them() {
    let typed = [
        ("node.log_level", "debug", "\"debug\""),
        ("node.log_level", "'debug'", "'debug'"),
        ("node.log_level", " \"debug\" ", "\"debug\""),
        ("node.max_storage", "500 GB", "\"500 GB\""),
        ("node.max_storage", "0", "\"0\""),
        ("node.bind", "::1", "[\"::1\"]"),
        ("node.bind", "::1, 192.0.2.1", "[\"::1\", \"192.0.2.1\"]"),
        ("node.bind", "[\"::1\"]", "[\"::1\"]"),
        ("node.allowed_peers", "", "[]"),
        ("sync.backup_peer_address", "", "\"\""),
        ("node.api_port", " 9_000 ", "9_000"),
        ("backup_server.keep", "{ last = 1 }", "{ last = 1 }"),
    ];
    for (key, text, wanted) in typed {
        let (section, name) = key.split_once('.').unwrap();
        assert_eq!(set("", key, text), format!("[{section}]\n{name} = {wanted}\n"));
    }
    let json = after("", |draft| {
        draft.set_json("node.bind", &serde_json::json!(["::1"]))?;
        draft.set_json("node.mdns", &serde_json::json!(false))?;
        draft.set_json("node.log_level", &serde_json::json!("warn"))?;
        draft.set_json("backup_server.keep", &serde_json::json!({"last": 3}))?;
        draft.set_json("node.mdns", &serde_json::Value::Null)
    });
    assert_eq!(
        json,
        "[node]\nbind = [\"::1\"]\nlog_level = \"warn\"\n\n[backup_server]\nkeep = { last = 3 }\n"
    );
}

#[test]
fn what_is_refused_leaves_the_file_as_it_was() {
    let text =
        "[node]\nlisten_port = 9000 # mine\n[[sync.folders]]\nid = \"a\"\npath = \"/home/me\"\n";
    let fixture = Fixture::new(text);
    let mut shown = Vec::new();
    let mut refuse = |what: &str, result: Result<config::Edited, ConfigError>| {
        assert_eq!(fixture.text(), text);
        assert!(fixture.litter().is_empty());
        let error = result.unwrap_err().to_string();
        let dir = fixture.dir.path().display().to_string();
        shown.push(format!("{what}\n=> {}\n", error.replace(&dir, "").replace('\n', "\n   ")));
    };
    let file = &fixture.file;
    for (key, value) in [
        ("node.listen_port", "70000"),
        ("node.listen_port", "many"),
        ("node.listen_port", "1 # c\n[x]"),
        ("node.mdns", "yes"),
        ("node.bind", "[\"::1\""),
        ("node.bind", ""),
        ("node.log_level", "a\"b\nc = 1"),
        ("node.api_port", "9000"),
        ("backup_server.keep", "7"),
        (
            "backup_server.keep",
            "{ within = \"0\", last = 0, hourly = 0, daily = 0, weekly = 0, monthly = 0 }",
        ),
        ("backup_server.keep", "{ yearly = 1 }"),
        ("node.listen_prot", "1"),
        ("listen_port", "1"),
        ("node", "{}"),
        ("sync.folders", "[]"),
        ("backup_server.source_peers", "[]"),
        ("sync.folders[0].path", "/b"),
        ("", ""),
        ("nonsense", "1"),
    ] {
        refuse(&format!("set {key} {value:?}"), file.set(key, value));
    }
    refuse("add node.bind", file.edit(|draft| draft.add_item("node.bind", "localhost")));
    refuse("add node.mdns", file.edit(|draft| draft.add_item("node.mdns", "true")));
    refuse("remove node.bind", file.edit(|draft| draft.remove_item("node.bind", "::1")));
    refuse("add folder a", file.edit(|draft| draft.add_folder(&folder("a", "/b"))));
    refuse("add folder b", file.edit(|draft| draft.add_folder(&folder("b", "/home/me/."))));
    refuse("remove folder c", file.edit(|draft| draft.remove_folder(&"c".parse().unwrap())));
    refuse(
        "update folder c",
        file.edit(|draft| draft.update_folder(&"c".parse().unwrap(), &FolderUpdate::default())),
    );
    refuse("remove source c", file.edit(|draft| draft.remove_source("c")));
    insta::assert_snapshot!("refused", shown.join("\n"));
}

#[test]
fn a_broken_file_is_not_edited_and_an_invalid_one_can_be_mended() {
    let fixture = Fixture::new("[node\nmdns = 1");
    let error = fixture.file.set("node.mdns", "true").unwrap_err();
    assert!(matches!(error, ConfigError::Invalid { .. }), "{error}");
    assert_eq!(fixture.text(), "[node\nmdns = 1");

    let fixture = Fixture::new("[node]\nmdns = 1\napi_port = 70000\n");
    let error = fixture.file.set("node.mdns", "true").unwrap_err();
    assert!(
        matches!(&error, ConfigError::Invalid { problems, .. } if problems.len() == 2),
        "{error}"
    );
    let edit = fixture.file.edit(|draft| {
        draft.set("node.mdns", "true")?;
        draft.set("node.api_port", "7")
    });
    assert!(edit.unwrap().written);
    assert_eq!(fixture.text(), "[node]\nmdns = true\napi_port = 7\n");

    // A file with the wrong structure must be corrected by hand.
    let fixture = Fixture::new("node = 7\n");
    assert!(matches!(fixture.file.set("node.mdns", "true"), Err(ConfigError::NoPlace { .. })));
    assert_eq!(fixture.text(), "node = 7\n");
}

#[test]
fn items_of_lists_however_they_are_laid_out() {
    let cases = [
        ("[\"10.0.0.1\"]", "[\"10.0.0.1\", \"::1\"]"),
        ("[ \"10.0.0.1\" ]", "[ \"10.0.0.1\", \"::1\" ]"),
        ("[\"10.0.0.1\", ]", "[\"10.0.0.1\", \"::1\", ]"),
        ("[]", "[\"::1\"]"),
        ("[ ]", "[\"::1\"]"),
        ("[\n  # none\n]", "[\n    \"::1\"\n  # none\n]"),
        ("[\n  \"10.0.0.1\"\n]", "[\n  \"10.0.0.1\",\n  \"::1\"\n]"),
        ("[\n  \"10.0.0.1\", # a, b\n]", "[\n  \"10.0.0.1\", # a, b\n  \"::1\",\n]"),
        (
            "[\n  \"10.0.0.1\" # a, b\n  # end\n]",
            "[\n  \"10.0.0.1\", # a, b\n  \"::1\"\n  # end\n]",
        ),
        ("[\n  \"10.0.0.1\" # a\n  , # b\n]", "[\n  \"10.0.0.1\" # a\n  , # b\n  \"::1\",\n]"),
        ("[\n  \"10.0.0.1\"]", "[\n  \"10.0.0.1\", \"::1\"]"),
    ];
    for (before, wanted) in cases {
        for newline in ["\n", "\r\n"] {
            let file = |list: &str| {
                format!("[manifest_server]\nwhitelisted_ips = {list} # end\nport = 1")
                    .replace('\n', newline)
            };
            let (before, wanted) = (file(before), file(wanted));
            let added =
                after(&before, |draft| draft.add_item("manifest_server.whitelisted_ips", "::1"));
            assert_eq!(added, wanted);
            // The list already contains the item in another spelling.
            let again =
                after(&added, |draft| draft.add_item("manifest_server.whitelisted_ips", "0:0::1"));
            assert_eq!(again, added);
            let removed =
                after(&added, |draft| draft.remove_item("manifest_server.whitelisted_ips", "::1"));
            assert_eq!(parse(&removed).unwrap(), parse(&before).unwrap(), "{removed}");
        }
    }
}

#[test]
fn an_item_goes_with_its_line_and_its_comment() {
    let list = |items: &str| format!("[node]\nbind = {items}\n");
    let cases = [
        (0, "[\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\"]", "[\"10.0.0.2\", \"10.0.0.3\"]"),
        (1, "[\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\"]", "[\"10.0.0.1\", \"10.0.0.3\"]"),
        (2, "[\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\"]", "[\"10.0.0.1\", \"10.0.0.2\"]"),
        (0, "[\n  \"10.0.0.1\", # one\n  \"10.0.0.2\", # two\n]", "[\n  \"10.0.0.2\", # two\n]"),
        (1, "[\n  \"10.0.0.1\", # one\n  \"10.0.0.2\" # two\n]", "[\n  \"10.0.0.1\", # one\n]"),
        (0, "[\n  \"10.0.0.1\"\n  , \"10.0.0.2\"\n]", "[\n  \"10.0.0.2\"\n]"),
        (0, "[ # c\n  \"10.0.0.1\", \"10.0.0.2\"\n]", "[ # c\n  \"10.0.0.2\"\n]"),
    ];
    for (index, before, wanted) in cases {
        let item = format!("10.0.0.{}", index + 1);
        assert_eq!(
            after(&list(before), |draft| draft.remove_item("node.bind", &item)),
            list(wanted)
        );
    }
}

#[test]
fn a_list_that_is_not_in_the_file_begins_with_its_default() {
    let added = after("", |draft| draft.add_item("node.allowed_peers", &peer(1).to_string()));
    assert_eq!(added, format!("[node]\nallowed_peers = [\"{}\"]\n", peer(1)));
    let removed = after("", |draft| draft.remove_item("node.bind", "0:0::0"));
    assert_eq!(removed, "[node]\nbind = [\"0.0.0.0\"]\n");
}

#[test]
fn folders_are_added_changed_and_removed() {
    let text = "\
[sync]
# upload_limit = \"0\"

# My pictures, all of them.
[[sync.folders]]
id = \"a\"   # stable
path = \"/a\"
# exclude = []

# The server.
[manifest_server]
port = 1
";
    let added = after(text, |draft| draft.add_folder(&folder("b", "/b \"c\"")));
    let block = "[[sync.folders]]\nid = \"b\"\npath = '/b \"c\"'\n\n";
    assert_eq!(added, text.replace("# The server.", &format!("{block}# The server.")));
    assert_eq!(after(&added, |draft| draft.remove_folder(&"b".parse().unwrap())), text);

    // Only what differs from the defaults is written.
    let wide = config::FolderConfig { one_file_system: false, ..folder("b", "/b") };
    let added = after("", |draft| draft.add_folder(&wide));
    assert!(added.ends_with("path = \"/b\"\none_file_system = false\n"), "{added}");
    assert_eq!(parse(&added).unwrap().sync.folders, [wide]);

    let update = FolderUpdate {
        name: Some("Pictures".parse().unwrap()),
        exclude: Some(vec!["*.tmp".parse().unwrap()]),
        paused: Some(true),
        path: Some("/pictures".parse().unwrap()),
        one_file_system: Some(false),
        exclude_caches: Some(true),
    };
    let updated = after(text, |draft| draft.update_folder(&"a".parse().unwrap(), &update));
    let wanted = text
        .replace("path = \"/a\"\n", "path = \"/pictures\"\nname = \"Pictures\"\n")
        .replace("# exclude = []\n", "# exclude = []\nexclude = [\"*.tmp\"]\npaused = true\none_file_system = false\nexclude_caches = true\n");
    assert_eq!(updated, wanted);

    // The comment above stays, because it may concern other lines.
    let removed = after(text, |draft| draft.remove_folder(&"a".parse().unwrap()));
    assert_eq!(
        removed,
        text.replace("[[sync.folders]]\nid = \"a\"   # stable\npath = \"/a\"\n", "")
    );
}

#[test]
fn folders_in_every_form_that_toml_has() {
    let a = "{ id = \"a\", path = \"/a\" }";
    let cases = [
        ("", "[[sync.folders]]\nid = \"b\"\npath = \"/b\"\n".to_owned()),
        ("[node]", "[node]\n\n[[sync.folders]]\nid = \"b\"\npath = \"/b\"".to_owned()),
        ("[sync]\nfolders = []\n", "[sync]\nfolders = [{ id = \"b\", path = \"/b\" }]\n".to_owned()),
        ("sync = {}\n", "sync = { folders = [{ id = \"b\", path = \"/b\" }] }\n".to_owned()),
        ("sync.upload_limit = \"0\"\n", "sync.upload_limit = \"0\"\n\n[[sync.folders]]\nid = \"b\"\npath = \"/b\"\n".to_owned()),
        ("sync.folders = [\n  { id = \"a\", path = \"/a\" }, # mine\n]\n",
            format!("sync.folders = [\n  {a}, # mine\n  {{ id = \"b\", path = \"/b\" }},\n]\n")),
        ("[[ sync . folders ]]\r\nid = 'a'\r\npath = '/a'",
            "[[ sync . folders ]]\r\nid = 'a'\r\npath = '/a'\r\n\r\n[[sync.folders]]\r\nid = \"b\"\r\npath = \"/b\"".to_owned()),
        ("[sync]\nupload_limit = \"0\"\n[node]\n", "[sync]\nupload_limit = \"0\"\n\n[[sync.folders]]\nid = \"b\"\npath = \"/b\"\n\n[node]\n".to_owned()),
    ];
    for (before, wanted) in cases {
        let added = after(before, |draft| draft.add_folder(&folder("b", "/b")));
        assert_eq!(added, wanted, "{before:?}");
        let id = "b".parse().unwrap();
        let update = FolderUpdate { paused: Some(true), ..FolderUpdate::default() };
        let paused = after(&added, |draft| draft.update_folder(&id, &update));
        assert!(parse(&paused).unwrap().folder(&id).unwrap().paused);
        let removed = after(&paused, |draft| draft.remove_folder(&id));
        assert_eq!(parse(&removed).unwrap(), parse(before).unwrap(), "{removed}");
    }
}

#[test]
fn sources_are_added_changed_and_removed() {
    let mut source = source("My Desktop", 1);
    source.addresses = vec!["/dns4/a.example.org/tcp/8070".parse().unwrap()];
    let text = after("[backup_server]\nenabled = true\n", |draft| draft.add_source(&source));
    insta::assert_snapshot!(text, @r#"
    [backup_server]
    enabled = true

    [[backup_server.source_peers]]
    name = "My Desktop"
    manifest_server_url = "http://192.0.2.1:8085"
    peer_id = "16Uiu2HAkuVbGwH7R5GsYQBTZW4i7CrwLxzhQBtrKhfxRyXu3TjNg"
    addresses = ["/dns4/a.example.org/tcp/8070"]
    "#);
    let update = SourceUpdate {
        name: Some("Ä".parse().unwrap()),
        manifest_server_url: Some("https://b.example.org".parse().unwrap()),
        peer_id: Some(peer(3)),
        addresses: Some(Vec::new()),
    };
    let updated = after(&text, |draft| draft.update_source("My Desktop", &update));
    let config = parse(&updated).unwrap();
    let found = config.source("Ä").unwrap();
    assert_eq!((found.peer_id, found.addresses.len()), (peer(3), 0));
    let removed = after(&updated, |draft| draft.remove_source("Ä"));
    assert_eq!(removed, "[backup_server]\nenabled = true\n");
}

#[test]
fn changes_are_made_together_or_not_at_all() {
    let fixture = Fixture::new("");
    let result = fixture.file.edit(|draft| {
        draft.set("backup_server.enabled", "true")?;
        draft.add_source(&source("a", 1))?;
        draft.remove_source("b")
    });
    assert!(matches!(result, Err(ConfigError::NoSuchSource(_))));
    assert_eq!(fixture.text(), "");
    // Several changes may pass through an invalid state.
    let edited = fixture.file.edit(|draft| {
        draft.set("node.listen_port", "8080")?;
        draft.set("node.api_port", "8070")
    });
    assert_eq!(edited.unwrap().config.node.listen_port, 8080);
}

#[test]
fn the_default_file_takes_every_kind_of_change() {
    let fixture = Fixture::new("");
    fs::remove_file(fixture.file.path()).unwrap();
    assert!(fixture.file.create().unwrap());
    assert!(!fixture.file.create().unwrap());
    assert_eq!(fixture.text(), Config::default_text());
    let mode = fs::metadata(fixture.file.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fixture.file.set("node.log_level", "debug").unwrap();
    fixture.file.set("backup_server.keep.last", "3").unwrap();
    fixture
        .file
        .edit(|draft| draft.add_item("manifest_server.whitelisted_ips", "192.0.2.7"))
        .unwrap();
    fixture.file.edit(|draft| draft.add_folder(&folder("a", "/a"))).unwrap();
    fixture.file.edit(|draft| draft.add_folder(&folder("b", "/b"))).unwrap();
    fixture.file.edit(|draft| draft.add_source(&source("x", 1))).unwrap();
    fixture.file.set("sync.upload_limit", "1MB/s").unwrap();
    fixture.file.set("sync.backup_auto_notify", "false").unwrap();
    insta::assert_snapshot!("edited_default", fixture.text());
    assert!(fixture.litter().is_empty());
    // Undo all changes.
    for key in [
        "node.log_level",
        "backup_server.keep",
        "manifest_server.whitelisted_ips",
        "sync.upload_limit",
        "sync.backup_auto_notify",
    ] {
        fixture.file.reset(key).unwrap();
    }
    fixture.file.edit(|draft| draft.remove_folder(&"a".parse().unwrap())).unwrap();
    fixture.file.edit(|draft| draft.remove_folder(&"b".parse().unwrap())).unwrap();
    fixture.file.edit(|draft| draft.remove_source("x")).unwrap();
    assert_eq!(fixture.text(), Config::default_text());
}

#[test]
fn a_file_that_is_not_there_begins_as_the_default_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = ConfigFile::new(dir.path().join("deep/er/config.toml"));
    assert!(matches!(file.get("node.mdns"), Err(ConfigError::Missing(_))));
    assert!(file.set("node.mdns", "false").unwrap().written);
    let text = fs::read_to_string(file.path()).unwrap();
    assert_eq!(
        text,
        Config::default_text().replace("# mdns = true\n", "# mdns = true\nmdns = false\n")
    );
}

#[test]
fn what_is_the_same_is_not_written() {
    let fixture = Fixture::new("[node]\nmdns = true");
    let before = fs::metadata(fixture.file.path()).unwrap();
    assert!(!fixture.file.set("node.mdns", "true").unwrap().written);
    assert!(!fixture.file.reset("node.api_port").unwrap().written);
    let after = fs::metadata(fixture.file.path()).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

#[test]
fn get_tells_the_value_and_whether_it_is_given() {
    let fixture = Fixture::new("[node]\nmdns = false\n");
    let mdns = fixture.file.get("node.mdns").unwrap();
    assert_eq!((mdns.value, mdns.toml.as_str(), mdns.is_given), (false.into(), "false", true));
    let limit = fixture.file.get("node.disk_reserve").unwrap();
    assert_eq!((limit.toml.as_str(), limit.is_given), ("\"1GB\"", false));
    let keep = fixture.file.get("backup_server.keep").unwrap();
    assert_eq!(keep.value["monthly"], 24);
    assert!(fixture.file.get("sync.folders").unwrap().value.as_array().unwrap().is_empty());
    let error = fixture.file.get("node.mdsn").unwrap_err();
    assert_eq!(error.to_string(), "there is no key \"node.mdsn\"; did you mean `node.mdns`?");
}
