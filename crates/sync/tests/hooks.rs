//! Programs that run before and after a manifest is made.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::Setup;
use sync::HookSettings;

/// Sets shell scripts as the programs of the folder. They run in the folder.
fn set_hooks(setup: &Setup, before: &str, after: &str, interval: Duration) {
    let shell = |script: &str| {
        let script = format!("cd \"$ARCHIVIST_FOLDER_PATH\" && {script}");
        vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
    };
    let hooks = HookSettings {
        before: shell(before),
        after: shell(after),
        timeout: Duration::from_secs(600),
        interval,
    };
    setup.settings.send_modify(|settings| settings.folders[0].hooks = hooks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_has_what_the_first_program_wrote_and_the_second_runs_after_it() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    let log = setup.dir.path().join("log");
    let before = "{ cmp -s database dump || cat database > dump; }";
    let after = format!("echo $ARCHIVIST_HOOK $ARCHIVIST_FOLDER_ID >> {}", log.display());
    set_hooks(&setup, before, &after, Duration::ZERO);
    setup.write("database", "first");
    setup.start();
    for content in ["first", "second"] {
        setup.write("database", content);
        let published = setup.sync().await;
        let entries = setup.entries(&published);
        let of = |name: &str| format!("{:?}", entries[&types::RelPath::new(name).unwrap()].kind);
        assert_eq!(of("dump"), of("database"));
    }
    // Without a change in the folder, a request runs them too, and makes no manifest.
    let count = setup.published().len();
    setup.sync().await;
    assert_eq!(setup.published().len(), count);
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log, "after_publish docs\n".repeat(3));
    assert_eq!(setup.status().hook_error, None);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_is_shown_and_stops_no_backup() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    let ran = setup.dir.path().join("ran");
    let after = format!("echo > {}", ran.display());
    set_hooks(&setup, "{ echo no database >&2; exit 7; }", &after, Duration::ZERO);
    setup.write("file", "content");
    setup.start();
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), ["file"]);
    let error = setup.status().hook_error.clone().unwrap();
    assert!(error.contains("before_publish") && error.contains("no database"), "{error}");
    assert!(ran.exists(), "the second program must run after a failure of the first");
    setup.stop().await;
    set_hooks(&setup, "true", "true", Duration::ZERO);
    setup.start();
    setup.sync().await;
    assert_eq!(setup.status().hook_error, None);
    setup.stop().await;
}

/// Programs that change the folder lead to no endless row of manifests, and what is changed
/// between two runs is published at the usual time.
#[tokio::test(flavor = "multi_thread")]
async fn programs_that_change_the_folder_run_once_in_an_interval() {
    let mut setup = Setup::stopped();
    let log = setup.dir.path().join("log");
    let before = format!("echo run >> {} && date +%N > dump", log.display());
    set_hooks(&setup, &before, "rm dump", Duration::from_hours(1));
    let runs = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    setup.write("file", "first");
    setup.start();
    setup.until_published("file", b"first").await;
    for content in ["second", "third"] {
        setup.write("file", content);
        setup.until_published("file", content.as_bytes()).await;
        assert_eq!(runs(), 1);
    }
    setup.stop().await;
    // With a short interval, one more manifest is made with the programs.
    set_hooks(
        &setup,
        &format!("echo run >> {}", log.display()),
        "true",
        Duration::from_millis(300),
    );
    setup.start();
    setup.write("file", "fourth");
    setup.until_published("file", b"fourth").await;
    setup.write("file", "fifth");
    setup.until("a run after the last change", |_| runs() >= 3).await;
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_ends_does_not_delay_the_stop() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    let started = setup.dir.path().join("started");
    set_hooks(
        &setup,
        &format!("echo > {} && exec sleep 1000", started.display()),
        "true",
        Duration::ZERO,
    );
    setup.write("file", "content");
    setup.start();
    let (handle, docs) = (setup.handle(), common::id("docs"));
    let request = tokio::spawn(async move { handle.scan_now(&docs).await });
    setup.until("the start of the program", |_| started.exists()).await;
    setup.stop().await;
    assert!(request.await.unwrap().is_err());
}
