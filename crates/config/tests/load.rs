//! Loading a file: valid files, and the messages about invalid ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not in tests, as clippy sees it")]

mod common;

use std::fs;
use std::path::Path;

use common::{message, parse, peer};
use config::{Config, ConfigError, Keep, MAX_FILE_LEN};
use proptest::prelude::*;

/// Checks the messages about texts against a snapshot.
macro_rules! assert_messages {
    ($name:literal, $($text:expr),+ $(,)?) => {
        let shown: Vec<String> = [$($text.to_string()),+]
            .iter()
            .map(|text| format!("{}\n=> {}\n", text.trim_end(), message(text).replace('\n', "\n   ")))
            .collect();
        insta::assert_snapshot!($name, shown.join("\n"));
    };
}

#[test]
fn an_empty_file_is_the_default() {
    for text in ["", "\n", "# nothing\n", "[node]\n[sync]\n", "\u{feff}", "\u{feff}[node]\r\n"] {
        assert_eq!(parse(text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn fuzz_configuration() {
    let examples = [
        "[node]\nlisten_port = 8070\nbind = [\"0.0.0.0\", \"::\"]\nmax_storage = \"500GB\"\n",
        "[[sync.folders]]\nid = \"docs\"\npath = \"/home/me\"\nname = \"Documents\"\n",
        "[backup_server]\nkeep = { within = \"7d\", last = 10, hourly = 48 }\n",
    ];
    fuzzing::target!(&examples, |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match parse(&text) {
            Ok(config) => assert!(config.check().is_ok()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

#[test]
fn the_example_of_the_contract_is_read() {
    let text = format!(
        r#"
[node]
listen_port = 8070
discovery_port = 8090
api_port = 8080
api_require_token = false
bind = ["0.0.0.0", "::"]
announce_addresses = ["/dns4/a.example.org/tcp/8070"]
allowed_peers = ["{0}"]
bootstrap = ["/ip4/192.0.2.1/udp/8090/quic-v1/p2p/{0}"]
mdns = true
max_storage = "500GB"
disk_reserve = "1GB"
log_level = "info"

[sync]
backup_peer_address = "/ip6/2001:db8::1/tcp/8070/p2p/{0}"
backup_trigger_port = 8086
backup_auto_notify = true
manifest_update_threshold = 10
manifest_max_delay_ms = 2000
rescan_interval_secs = 3600
manifest_retry_interval_secs = 300
manifest_max_retries = 5
upload_limit = "10MB/s"

[[sync.folders]]
id = "docs"
path = "/home/me//Documents/"
name = "Documents"
exclude = ["*.tmp", "node_modules/"]
paused = false

[manifest_server]
enabled = true
port = 8085
whitelisted_ips = ["192.0.2.10", "2001:db8::/32", "::1"]

[backup_server]
enabled = false
poll_interval_secs = 30
max_concurrent_downloads = 3
max_retries = 3
trigger_port = 8086
download_limit = "0"
keep = {{ last = 10, hourly = 48, daily = 30, weekly = 12, monthly = 24 }}

[[backup_server.source_peers]]
name = "My Desktop"
manifest_server_url = "http://192.0.2.10:8085"
peer_id = "{1}"
addresses = []
"#,
        peer(1),
        peer(2)
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.node.max_storage.bytes(), 500_000_000_000);
    assert_eq!(config.sync.upload_limit.bytes_per_sec(), 10_000_000);
    assert_eq!(config.sync.backup_peer_id(), Some(peer(1)));
    assert_eq!(config.sync.trigger_host().as_deref(), Some("[2001:db8::1]"));
    assert_eq!(config.served_peers(), [peer(1), peer(2)].into());
    let folder = &config.sync.folders[0];
    assert_eq!(folder.path.as_path(), Path::new("/home/me/Documents"));
    assert_eq!(folder.display_name(), "Documents");
    let source = config.source("My Desktop").unwrap();
    let dial = format!("/ip4/192.0.2.10/tcp/8070/p2p/{}", peer(2));
    assert_eq!(source.dial_addresses(), [dial.parse().unwrap()]);
    assert_eq!(
        source.manifest_server_url.endpoint("manifests").as_str(),
        "http://192.0.2.10:8085/manifests"
    );
    let [net, v6, _] = &config.manifest_server.whitelisted_ips[..] else { panic!() };
    assert!(net.contains("::ffff:192.0.2.10".parse().unwrap()));
    assert!(!net.contains("192.0.2.11".parse().unwrap()));
    assert!(v6.contains("2001:db8:1::1".parse().unwrap()));
    config.check().unwrap();
}

#[test]
fn a_key_of_keep_that_is_not_given_has_its_default() {
    let config = parse("[backup_server]\nkeep = { last = 1 }").unwrap();
    assert_eq!(config.backup_server.keep, Keep { last: 1, ..Keep::default() });
}

#[test]
fn every_form_that_toml_has_is_read_alike() {
    let wanted = parse("[node]\napi_port = 9000\nmdns = false\n").unwrap();
    for text in [
        "node.api_port = 9000\nnode.mdns = false",
        "node = { api_port = 9_000, mdns = false }",
        "[\"node\"]\r\n'api_port' = 0x2328\r\nmdns = false",
        "[node] # here\nmdns = false # there\napi_port = 9000",
    ] {
        assert_eq!(parse(text).unwrap(), wanted, "{text}");
    }
}

#[test]
fn unknown_keys() {
    assert_messages!(
        "unknown_keys",
        "[node]\nlisten_prot = 1",
        "[Node]\nlisten_port = 1",
        "[node]\ntrigger_port = 1",
        "[node]\ncolour = 1",
        "listen_port = 1",
        "[manifest-server]\nport = 1",
        "[backup_server]\nkeep = { yearly = 1 }",
        "[[sync.folders]]\nid = \"a\"\npath = \"/a\"\nexcludes = []",
        "[backup_server.source_peers]\nname = \"x\"",
        "[a_very_long_name_that_nobody_would_write_but_that_may_stand_in_some_other_file_that_is_not_ours]",
    );
}

#[test]
fn wrong_types() {
    assert_messages!(
        "wrong_types",
        "[node]\nlisten_port = \"8070\"",
        "[node]\nlisten_port = 80.5",
        "[node]\nmdns = \"yes\"",
        "[node]\nmdns = 1",
        "[node]\nbind = \"0.0.0.0\"",
        "[node]\nbind = [1]",
        "[node]\nlog_level = 3",
        "[node]\nmax_storage = true",
        "[node]\nannounce_addresses = { a = 1 }",
        "node = 1",
        "[[node]]",
        "[sync]\nfolders = \"/home/me\"",
        "[sync]\nfolders = [\"/home/me\"]",
        "[backup_server]\nkeep = 10",
        "[node]\nlog_level = 2026-01-01",
    );
}

#[test]
fn values_out_of_range() {
    assert_messages!(
        "out_of_range",
        "[node]\nlisten_port = 65536",
        "[node]\nlisten_port = -1",
        "[node]\nbind = []",
        "[node]\nmax_storage = \"500\"",
        "[node]\nmax_storage = 500",
        "[node]\nmax_storage = \"2000PB\"",
        "[sync]\nupload_limit = \"10\"",
        "[sync]\nbackup_trigger_port = 0",
        "[sync]\nmanifest_max_delay_ms = 600001",
        "[backup_server]\npoll_interval_secs = 0",
        "[backup_server]\nmax_concurrent_downloads = 65",
        "[backup_server]\nmax_concurrent_downloads = 99999999999999999999999999",
    );
}

#[test]
fn malformed_values() {
    let peer = peer(1);
    assert_messages!(
        "malformed",
        "[node]\nmax_storage = \"500gb\"",
        "[node]\nmax_storage = \"\"",
        "[sync]\nupload_limit = \"10Mb/s\"",
        "[sync]\nupload_limit = \"10MB\"",
        "[node]\nlog_level = \"verbose\"",
        "[node]\nbind = [\"localhost\"]",
        "[node]\nallowed_peers = [\"16Uiu2HAm\"]",
        "[node]\nannounce_addresses = [\"192.0.2.1:8070\"]",
        "[node]\nannounce_addresses = [\"/ip4/0.0.0.0/tcp/8070\"]",
        "[node]\nannounce_addresses = [\"/ip4/192.0.2.1\"]",
        format!("[node]\nannounce_addresses = [\"/p2p/{peer}\"]"),
        "[node]\nbootstrap = [\"/ip4/192.0.2.1/tcp/8070\"]",
        "[sync]\nbackup_peer_address = \"/ip4/192.0.2.1/tcp/8070\"",
        format!("[sync]\nbackup_peer_address = \"/ip4/192.0.2.1/tcp/8070/p2p/{peer}/p2p-circuit\""),
        format!("[sync]\nbackup_peer_address = \"/ip4/192.0.2.1/tcp/0/p2p/{peer}\""),
        "[manifest_server]\nwhitelisted_ips = [\"desktop\"]",
        "[manifest_server]\nwhitelisted_ips = [\"192.0.2.0/33\"]",
        "[manifest_server]\nwhitelisted_ips = [\"::ffff:192.0.2.0/120\"]",
        "[manifest_server]\nwhitelisted_ips = [\"\"]",
        "[[sync.folders]]\nid = \"a b\"\npath = \"/a\"",
        "[[sync.folders]]\nid = \"a\"\npath = \"Documents\"",
        "[[sync.folders]]\nid = \"a\"\npath = \"~/Documents\"",
        "[[sync.folders]]\nid = \"a\"\npath = \"/a/../b\"",
        "[[sync.folders]]\nid = \"a\"\npath = \"/a\"\nname = \" \"",
        "[[sync.folders]]\nid = \"a\"\npath = \"/a\"\nname = \"a\\tb\"",
        "[[sync.folders]]\nid = \"a\"\npath = \"/a\"\nexclude = [\"#a\", \"\", \"a{b\"]",
        "[[sync.folders]]\npath = \"\"\"\n/a\n\"\"\"",
        "[[backup_server.source_peers]]\nname = \"x\"",
    );
}

#[test]
fn urls() {
    for good in [
        "http://192.0.2.10:8085",
        "https://desktop.example.org",
        "http://[2001:db8::1]:8085/",
        "HTTP://desktop:8085/archivist/",
    ] {
        let text = format!(
            "[[backup_server.source_peers]]\nname = \"x\"\npeer_id = \"{}\"\nmanifest_server_url = \"{good}\"",
            peer(1)
        );
        let config = parse(&text).unwrap();
        let url = &config.backup_server.source_peers[0].manifest_server_url;
        assert_eq!(url.to_string().parse().as_ref(), Ok(url));
        assert!(url.endpoint("manifests").path().ends_with("/manifests"), "{url}");
    }
    let refused: Vec<String> = [
        "192.0.2.10:8085",
        "ftp://a",
        "http://",
        "http:///a",
        "http://2001:db8::1:8085",
        "http://a:0",
        "http://a:99999",
        "http://a b",
        "http://a\\b",
        "http://me:pw@a",
        "http://a?b",
        "http://a#b",
        "http://[::1",
        "http:a",
        "",
        "http://:8085",
    ]
    .iter()
    .map(|url| format!("{url}\n=> {}", url.parse::<config::ManifestUrl>().unwrap_err()))
    .collect();
    insta::assert_snapshot!("urls", refused.join("\n"));
}

#[test]
fn what_does_not_fit_together() {
    let folder =
        |id: &str, path: &str| format!("[[sync.folders]]\nid = \"{id}\"\npath = \"{path}\"\n");
    let source = |name: &str, number: u8, extra: &str| {
        format!(
            "[[backup_server.source_peers]]\nname = \"{name}\"\npeer_id = \"{}\"\nmanifest_server_url = \"http://a\"\n{extra}",
            peer(number)
        )
    };
    assert_messages!(
        "conflicts",
        "[node]\nlisten_port = 8085",
        "[node]\nlisten_port = 9000\napi_port = 9000",
        "[manifest_server]\nport = 8086\n[backup_server]\nenabled = true",
        "[node]\nbind = [\"0.0.0.0\", \"::1\", \"127.0.0.1\", \"::1\"]",
        "[backup_server]\nkeep = { within = \"0\", last = 0, hourly = 0, daily = 0, weekly = 0, monthly = 0 }",
        folder("a", "/a") + &folder("a", "/b"),
        folder("a", "/a") + &folder("b", "/a/."),
        source("x", 1, "") + &source("x", 2, "") + &source("y", 1, ""),
        source("x", 1, &format!("addresses = [\"/ip4/192.0.2.1/tcp/1/p2p/{}\"]", peer(2))),
    );
}

#[test]
fn what_fits_together() {
    for text in [
        // Port 0 may be used several times.
        "[node]\nlisten_port = 0\napi_port = 0\n[manifest_server]\nport = 0",
        // A disabled server uses no port.
        "[manifest_server]\nport = 8086",
        // The API listens on loopback, the others do not.
        "[node]\nbind = [\"192.0.2.1\"]\nlisten_port = 8080",
        // One of them is UDP.
        "[node]\nlisten_port = 8090",
        "[[sync.folders]]\nid = \"a\"\npath = \"/home/me\"\n[[sync.folders]]\nid = \"b\"\npath = \"/home/me2\"",
        "[node]\nmax_storage = 0\ndisk_reserve = 64000",
    ] {
        parse(text).unwrap();
    }
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    assert_messages!(
        "all_at_once",
        "[sync]\nrescan_interval_secs = 0\nfoo = 1\n\n[node]\nlisten_port = \"a\"\nmdns = 3\n[[sync.folders]]\nid = \"ü\"\n",
    );
    let many = format!("[node]\nbind = [{}]", "1, ".repeat(30));
    assert!(message(&many).ends_with("\nand 10 more problems"), "{}", message(&many));
}

#[test]
fn broken_syntax() {
    assert_messages!(
        "syntax",
        "[node\nlisten_port = 1",
        "[node]\nlisten_port = = 1",
        "[node]\nlisten_port 8070",
        "[node]\nlog_level = debug",
        "[node]\nbind = [\"::\"\nmdns = true",
        "[node]\nmdns = true\nmdns = false",
        "[node]\n[sync]\n[node]",
        "[node]\nlog_level = \"info",
        "[node]\nlog_level = \"ä\" x",
        "key = 1\u{0}",
    );
}

/// A large unrelated file is rejected quickly.
#[test]
fn a_large_file_of_something_else_is_refused_in_bounded_time() {
    let len = usize::try_from(MAX_FILE_LEN).unwrap();
    for junk in
        ["=", "a\n", "[", "a.", "\"", "{", "a=1\n", "[[a]]\n", "bind=[1]\n", "\u{0}", "#\n="]
    {
        let text = junk.repeat(len / junk.len());
        let start = std::time::Instant::now();
        let problems = parse(&text).unwrap_err().problems().len();
        assert!((1..=200).contains(&problems), "{junk:?}");
        assert!(start.elapsed().as_secs() < 20, "{junk:?}: {:?}", start.elapsed());
    }
    // Nested as deep as the maximum length allows.
    let keys = "a.".repeat(len / 2 - 10);
    for text in
        [format!("{keys}a = 1"), format!("[{keys}a]"), "a = ".to_owned() + &"{ a = ".repeat(1000)]
    {
        assert!(!parse(&text).unwrap_err().problems().is_empty());
    }
    let mut list = "[node]\nbind = [".to_owned();
    list += &"\"x\",".repeat((len - 20) / 4);
    assert_eq!(parse(&(list + "]")).unwrap_err().problems().len(), 200);
}

#[test]
fn a_file_and_what_can_be_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    assert!(matches!(Config::load(&path), Err(ConfigError::Missing(missing)) if missing == path));

    fs::write(&path, "[node]\nmdns = true\n[backup_server.keep]\nlast = 1\n").unwrap();
    let loaded = Config::load(&path).unwrap();
    assert_eq!(loaded.path, path);
    for key in ["node", "node.mdns", "backup_server.keep", "backup_server.keep.last"] {
        assert!(loaded.is_given(key), "{key}");
    }
    assert!(!loaded.is_given("node.api_port"));

    // 0xff never occurs in UTF-8.
    fs::write(&path, b"[node]\n# \xc3\xa4 \xff\n").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.problems()[0].place, config::Place { line: 2, column: 5 });
    assert!(error.to_string().ends_with("config.toml:2:5: the file is not valid UTF-8"), "{error}");

    let file = fs::File::create(&path).unwrap();
    file.set_len(MAX_FILE_LEN).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Invalid { .. })));
    file.set_len(MAX_FILE_LEN + 1).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::TooLarge { .. })));

    assert!(matches!(Config::load(dir.path()), Err(ConfigError::NotAFile(_))));
    assert!(matches!(Config::load(Path::new("/dev/null")), Err(ConfigError::NotAFile(_))));
    // The parent is a file.
    assert!(matches!(Config::load(&path.join("x")), Err(ConfigError::Io { .. })));
}

#[test]
fn a_configuration_that_was_made_by_hand_is_checked_too() {
    let mut config = Config::default();
    config.check().unwrap();
    config.backup_server.poll_interval_secs = 0;
    let problems = config.check().unwrap_err();
    assert_eq!(problems[0].key, "backup_server.poll_interval_secs");
}

#[test]
fn json_is_as_strict_about_keys() {
    let json = serde_json::to_string(&Config::default()).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), Config::default());
    assert!(serde_json::from_str::<Config>("{\"node\":{\"port\":1}}").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A damaged file never causes a panic, and a valid one serializes to an equal
    /// configuration.
    #[test]
    fn a_damaged_file_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..12),
    ) {
        let uncommented = Config::default_text().replace("\n# ", "\n");
        let mut bytes = if changes.len() % 2 == 0 { uncommented } else { FULL.to_owned() }.into_bytes();
        for (at, byte, kind) in changes {
            bytes.push(b'\n');
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, b"\"'[]{}=#,.\n\r"[usize::from(byte) % 12]),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match parse(&text) {
            Ok(config) => {
                let again = parse(&toml::to_string(&config).unwrap()).unwrap();
                prop_assert_eq!(again, config);
            }
            Err(error) => {
                let lines = text.lines().count().max(1) + 1;
                prop_assert!(!error.problems().is_empty());
                for problem in error.problems() {
                    prop_assert!(problem.place.line <= lines && problem.place.column >= 1);
                    prop_assert!(!matches!(problem.fault, config::Fault::Refused(_)), "{}", problem);
                }
            }
        }
    }
}

const FULL: &str = r#"
node = { bind = ["0.0.0.0", "::1"], log_level = 'debug', max_storage = "500GB" }
manifest_server.whitelisted_ips = ["10.0.0.0/8", "::1"] # c
[sync]
upload_limit = "10MB/s"
[[sync.folders]]
id = "a"
path = "/home/me"
exclude = ["*.tmp", "a/**/b"]
[backup_server.keep]
last = 3
[[backup_server.source_peers]]
name = "My Desktop"
manifest_server_url = "http://[2001:db8::1]:8085"
peer_id = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
addresses = ["/ip4/192.0.2.10/tcp/8070"]
"#;

#[test]
fn fuzz_values() {
    /// Checks that a value is written in a form that has the same meaning.
    fn reads_back<T: std::str::FromStr + std::fmt::Display>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            let written = value.to_string();
            let again = written.parse::<T>();
            assert_eq!(again.ok().map(|value| value.to_string()), Some(written), "{text:?}");
        }
    }
    let address = format!("/ip4/192.0.2.1/tcp/8070/p2p/{}", peer(1));
    let examples =
        ["1.5GB", "7d", "10MB/s", "192.0.2.0/24", "http://[::1]:8085", "*.tmp", "/a//b", &address];
    fuzzing::target!(&examples, |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        reads_back::<config::ByteSize>(&text);
        reads_back::<config::Rate>(&text);
        reads_back::<config::Age>(&text);
        reads_back::<config::Network>(&text);
        reads_back::<config::ManifestUrl>(&text);
        reads_back::<config::Name>(&text);
        reads_back::<config::FolderPath>(&text);
        reads_back::<config::Pattern>(&text);
        reads_back::<config::LogLevel>(&text);
        if let Ok(address) = text.parse() {
            config::peer_id_of(&address);
            config::host_of(&address);
        }
    });
}
