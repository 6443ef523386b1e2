//! The file in the file system: its mode, its links, and other writers.

use super::*;

#[test]
fn mode_and_symlink_stay() {
    let fixture = Fixture::new("[node]\n");
    let dir = fixture.dir.path();
    fs::set_permissions(fixture.file.path(), fs::Permissions::from_mode(0o664)).unwrap();
    fs::create_dir(dir.join("etc")).unwrap();
    symlink("../config.toml", dir.join("etc/link")).unwrap();
    symlink(dir.join("etc/link"), dir.join("etc/link2")).unwrap();
    let link = ConfigFile::new(dir.join("etc/link2"));
    link.set("node.mdns", "false").unwrap();
    assert_eq!(fixture.text(), "[node]\nmdns = false\n");
    let mode = fs::metadata(fixture.file.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o664);
    assert!(fs::symlink_metadata(dir.join("etc/link2")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(dir.join("etc/link")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(dir.join("etc")).unwrap().count(), 2);

    // A link to a missing file, and a link to itself.
    symlink("new.toml", dir.join("dangling")).unwrap();
    assert!(ConfigFile::new(dir.join("dangling")).create().unwrap());
    assert!(dir.join("new.toml").is_file());
    symlink("loop", dir.join("loop")).unwrap();
    assert!(matches!(ConfigFile::new(dir.join("loop")).create(), Err(ConfigError::Io { .. })));
}

#[test]
fn a_write_that_fails_leaves_the_file_as_it_was() {
    let fixture = Fixture::new("[node]\n");
    // The lock file cannot be opened.
    let lock = fixture.dir.path().join(".config.toml.lock");
    fs::create_dir(&lock).unwrap();
    let error = fixture.file.set("node.mdns", "false").unwrap_err();
    assert!(matches!(error, ConfigError::Io { .. }), "{error}");
    assert_eq!(fixture.text(), "[node]\n");
    // The parent directory is a file.
    let below = ConfigFile::new(fixture.file.path().join("config.toml"));
    assert!(matches!(below.create(), Err(ConfigError::Io { .. })));
    assert_eq!(fixture.text(), "[node]\n");
    // The path is a directory.
    let dir = ConfigFile::new(fixture.dir.path());
    assert!(matches!(dir.set("node.mdns", "false"), Err(ConfigError::NotAFile(_))));
}

#[test]
fn an_edit_that_would_pass_the_size_limit_is_refused() {
    let text = format!("[node]\n#{}\n", "x".repeat(1_048_576 - 20));
    let fixture = Fixture::new(&text);
    let error = fixture.file.set("node.announce_addresses", "/ip4/192.0.2.1/tcp/8070").unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
    assert_eq!(fixture.text(), text);
}

#[test]
fn edits_at_the_same_time_do_not_lose_one_another() {
    const THREADS: u8 = 8;
    const EDITS: u8 = 6;
    let fixture = Fixture::new("# mine\r\n[sync]\r\n");
    let link = fixture.dir.path().join("link");
    symlink(fixture.file.path(), &link).unwrap();
    let barrier = Barrier::new(usize::from(THREADS));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, link, path) = (&barrier, &link, fixture.file.path());
            scope.spawn(move || {
                let file = ConfigFile::new(if thread % 2 == 0 { path } else { link });
                barrier.wait();
                for edit in 0..EDITS {
                    let id = format!("f{thread}-{edit}");
                    file.edit(|draft| draft.add_folder(&folder(&id, &format!("/f/{id}")))).unwrap();
                    let ip = format!("10.0.{thread}.{edit}");
                    file.edit(|draft| draft.add_item("manifest_server.whitelisted_ips", &ip))
                        .unwrap();
                }
            });
        }
        // A reader always sees a complete file.
        scope.spawn(|| {
            for _ in 0..200 {
                fixture.file.load().unwrap();
            }
        });
    });
    let config = fixture.file.load().unwrap().config;
    assert_eq!(config.sync.folders.len(), usize::from(THREADS * EDITS));
    assert_eq!(config.manifest_server.whitelisted_ips.len(), usize::from(THREADS * EDITS));
    let text = fixture.text();
    assert!(text.starts_with("# mine\r\n[sync]\r\n"));
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
}

#[test]
fn an_editor_that_writes_in_between_is_not_overwritten() {
    let fixture = Fixture::new("[node]\n");
    let mut calls = 0;
    let edited = fixture.file.edit(|draft| {
        calls += 1;
        if calls == 1 {
            fs::write(fixture.file.path(), "[node]\napi_port = 9 # by hand\n").unwrap();
        }
        draft.set("node.mdns", "false")
    });
    assert_eq!(edited.unwrap().config.node.api_port, 9);
    assert_eq!(fixture.text(), "[node]\napi_port = 9 # by hand\nmdns = false\n");
    let mut number = 0;
    let busy = fixture.file.edit(|draft| {
        number += 1;
        fs::write(fixture.file.path(), format!("[node]\napi_port = {number}\n")).unwrap();
        draft.set("node.mdns", "true")
    });
    assert!(matches!(busy, Err(ConfigError::Busy(_))));
}
