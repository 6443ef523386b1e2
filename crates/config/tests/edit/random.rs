//! Random changes of files in all forms, including strange ones.

use proptest::prelude::*;

use super::*;

/// One random change.
#[derive(Clone, Debug)]
enum Op {
    Set(&'static str, String),
    Reset(&'static str),
    AddItem(String),
    RemoveItem(usize),
    AddFolder(u8),
    RemoveFolder(usize),
    PauseFolder(usize),
    AddSource(u8),
    RemoveSource(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let key = prop::sample::select(vec![
        ("node.api_port", "1"),
        ("node.mdns", "false"),
        ("node.log_level", "trace"),
        ("node.bind", "::1"),
        ("node.max_storage", "1GB"),
        ("sync.upload_limit", "2MB/s"),
        ("sync.manifest_max_retries", "7"),
        ("manifest_server.port", "0"),
        ("backup_server.enabled", "true"),
        ("backup_server.keep", "{ last = 2 }"),
        ("backup_server.keep.last", "5"),
        ("backup_server.keep.monthly", "6"),
    ]);
    prop_oneof![
        key.clone().prop_map(|(key, value)| Op::Set(key, value.to_owned())),
        key.prop_map(|(key, _)| Op::Reset(key)),
        any::<u8>().prop_map(|byte| Op::AddItem(format!("10.0.0.{byte}"))),
        any::<usize>().prop_map(Op::RemoveItem),
        any::<u8>().prop_map(Op::AddFolder),
        any::<usize>().prop_map(Op::RemoveFolder),
        any::<usize>().prop_map(Op::PauseFolder),
        (1_u8..255).prop_map(Op::AddSource),
        any::<usize>().prop_map(Op::RemoveSource),
    ]
}

const STARTS: [&str; 6] = [
    "",
    "# c\r\n[node]\r\nmdns = true # x\r\n\r\n[sync]\r\nfolders = [ # all\r\n  { id = \"z\", path = \"/z\" }, # z\r\n]\r\n# end",
    "node.mdns = true\nsync.upload_limit = \"0\" # dotted\nbackup_server.keep.last = 4\nnode.api_port = 5",
    "node = { bind = [\"::1\"] }\nsync = { folders = [] }\nmanifest_server = {}\nbackup_server = { keep.last = 1, source_peers = [] }\n",
    "[[sync.folders]]\nid = \"z\"\npath = \"/z\"\n[backup_server.keep]\nlast = 1\n[sync]\n# upload_limit = \"0\"\n[node]\n",
    "\u{feff}[ 'backup_server' ]\n[manifest_server]\nwhitelisted_ips = [\n\t\"10.0.0.1\" # one\n\t, \"10.0.0.2\"\n]\n[backup_server . keep]",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// In a sequence of changes of a file in any form, each change has its effect and no
    /// other, and comments are lost only with removed lines.
    #[test]
    fn a_change_changes_what_it_says(
        start in 0..=STARTS.len(),
        ops in proptest::collection::vec(op(), 1..24),
    ) {
        let start = STARTS.get(start).map_or_else(Config::default_text, |text| (*text).to_owned());
        let fixture = Fixture::new(&start);
        let mut config = fixture.file.load().unwrap().config;
        for op in ops {
            let before = fixture.text();
            let mut wanted = config.clone();
            let folders = &config.sync.folders;
            let sources = &config.backup_server.source_peers;
            let ips = &config.manifest_server.whitelisted_ips;
            let result = match &op {
                Op::Set(key, value) => fixture.file.set(key, value),
                Op::Reset(key) => fixture.file.reset(key),
                Op::AddItem(ip) => fixture.file.edit(|draft| draft.add_item("manifest_server.whitelisted_ips", ip)),
                Op::RemoveItem(index) if !ips.is_empty() => {
                    let item = ips[index % ips.len()];
                    let at = ips.iter().position(|ip| *ip == item).unwrap();
                    wanted.manifest_server.whitelisted_ips.remove(at);
                    fixture.file.edit(|draft| draft.remove_item("manifest_server.whitelisted_ips", &item.to_string()))
                }
                Op::AddFolder(number) => {
                    let folder = folder(&format!("f{number}"), &format!("/f/{number}"));
                    if folders.contains(&folder) || folders.iter().any(|other| other.id == folder.id) {
                        continue;
                    }
                    wanted.sync.folders.push(folder.clone());
                    fixture.file.edit(|draft| draft.add_folder(&folder))
                }
                Op::RemoveFolder(index) if !folders.is_empty() => {
                    let index = index % folders.len();
                    wanted.sync.folders.remove(index);
                    fixture.file.edit(|draft| draft.remove_folder(&folders[index].id))
                }
                Op::PauseFolder(index) if !folders.is_empty() => {
                    let index = index % folders.len();
                    wanted.sync.folders[index].paused = true;
                    let update = FolderUpdate { paused: Some(true), ..FolderUpdate::default() };
                    fixture.file.edit(|draft| draft.update_folder(&folders[index].id, &update))
                }
                Op::AddSource(number) => {
                    let source = source(&format!("s{number}"), *number);
                    if sources.contains(&source) {
                        continue;
                    }
                    wanted.backup_server.source_peers.push(source.clone());
                    fixture.file.edit(|draft| draft.add_source(&source))
                }
                Op::RemoveSource(index) if !sources.is_empty() => {
                    let index = index % sources.len();
                    wanted.backup_server.source_peers.remove(index);
                    fixture.file.edit(|draft| draft.remove_source(sources[index].name.as_str()))
                }
                _ => continue,
            };
            let edited = result.map_err(|error| TestCaseError::fail(format!("{op:?}: {error}\n{before}")))?;
            prop_assert_eq!(&edited.config, &fixture.file.load().unwrap().config);
            match &op {
                Op::Set(key, _) | Op::Reset(key) => {
                    let changes = diff(&config, &edited.config);
                    prop_assert!(changes.iter().all(|change| change.key.starts_with(key)), "{:?}", changes);
                }
                Op::AddItem(ip) => {
                    let ip = ip.parse().unwrap();
                    if !ips.contains(&ip) {
                        wanted.manifest_server.whitelisted_ips.push(ip);
                    }
                    prop_assert_eq!(&edited.config, &wanted);
                }
                _ => prop_assert_eq!(&edited.config, &wanted),
            }
            let after = fixture.text();
            if before.contains("\r\n") {
                prop_assert_eq!(after.matches('\n').count(), after.matches("\r\n").count());
            }
            config = edited.config;
        }
        // Comment lines are never removed.
        let text = fixture.text();
        for line in start.lines().filter(|line| line.starts_with('#')) {
            prop_assert!(text.contains(line), "lost {:?} in\n{}", line, text);
        }
        prop_assert!(fixture.litter().is_empty());
        prop_assert!(Path::new(fixture.file.path()).is_file());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// In a strangely written file, the change is made or rejected, and the file is then
    /// valid or unchanged.
    #[test]
    fn a_change_of_a_strange_file_is_made_or_refused(
        start in 0..STARTS.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..STRANGE.len()), 1..8),
        op in op(),
    ) {
        let mut text = STARTS[start].to_owned();
        for (at, strange) in changes {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let mut changed = text.clone();
            changed.insert_str(places[at.index(places.len())], STRANGE[strange]);
            // Only valid files matter here.
            if parse(&changed).is_ok() {
                text = changed;
            }
        }
        let fixture = Fixture::new(&text);
        let result = fixture.file.edit(|draft| match &op {
            Op::Set(key, value) => draft.set(key, value),
            Op::Reset(key) => draft.reset(key),
            Op::AddItem(ip) => draft.add_item("manifest_server.whitelisted_ips", ip),
            Op::RemoveItem(_) => draft.remove_item("manifest_server.whitelisted_ips", "10.0.0.1"),
            Op::AddFolder(_) => draft.add_folder(&folder("new", "/new")),
            Op::RemoveFolder(_) => draft.remove_folder(&"z".parse().unwrap()),
            Op::PauseFolder(_) => {
                let update = FolderUpdate { paused: Some(true), ..FolderUpdate::default() };
                draft.update_folder(&"z".parse().unwrap(), &update)
            }
            Op::AddSource(number) => draft.add_source(&source("new", *number)),
            Op::RemoveSource(_) => draft.remove_source("new"),
        });
        match result {
            Ok(edited) => prop_assert_eq!(edited.config, parse(&fixture.text()).unwrap()),
            Err(error) => {
                prop_assert_eq!(fixture.text(), text.as_str());
                prop_assert!(!matches!(error, ConfigError::NoPlace { .. }), "{error}: {op:?}\n{text}");
            }
        }
    }
}

const STRANGE: [&str; 16] = [
    " ",
    "\t",
    "\n",
    "\r\n",
    "# ä, = [ ] { } \" '\n",
    "#\n",
    ",",
    "  # x = 1\r\n",
    "\n\n\n",
    "# api_port = 1\n",
    "\n[node]\n",
    "\n[sync]\n",
    "'",
    "\"",
    "\n[backup_server]\n",
    "_",
];
