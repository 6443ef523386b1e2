//! Starting and ending an instance with its HTTP interfaces.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use node::{InstanceOptions, LogLevel, Running};
use server::Server;

/// Number of starts: an early answer depends on the timing.
const STARTS: usize = 5;

fn options(dir: &std::path::Path, api_port: u16) -> InstanceOptions {
    InstanceOptions {
        settings: common::settings(dir, |config| config.node.api_port = api_port),
        data_dir: dir.join("data"),
        log_level: LogLevel::fixed(),
    }
}

/// Sends a request to the API as soon as its port is bound, and reports whether it
/// was answered.
async fn is_answered(address: SocketAddr) -> bool {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build();
    let http = http.unwrap();
    loop {
        let sent = http.get(format!("http://{address}/api/v1/ui/session")).send().await;
        match sent {
            Ok(answer) => return answer.status() == 200,
            Err(error) if error.is_connect() => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(_) => return false,
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A program that waits for the API and then runs a command must not read that
/// no instance runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_answers_only_when_commands_find_the_instance() {
    for _ in 0..STARTS {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let data = dir.path().join("data");
        let asked = tokio::spawn(async move {
            let is_answered = is_answered(address).await;
            (is_answered, Running::find(&data))
        });
        let server = Server::start(options(dir.path(), port)).await.unwrap();
        let (is_answered, running) = asked.await.unwrap();
        assert!(is_answered);
        let running = running.expect("the API answered before running.json was published");
        assert_eq!((running.api, running.pid), (address, std::process::id()));
        server.shutdown().await.unwrap();
        assert_eq!(Running::find(&dir.path().join("data")), None);
    }
}

/// A service manager starts a failing instance again and again. Entries of those
/// starts would push the history out of the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_at_a_port_leaves_nothing_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut options = options(dir.path(), free_port());
    options.settings = common::settings(dir.path(), |config| {
        config.backup_server.enabled = true;
        config.backup_server.trigger_port = taken.local_addr().unwrap().port();
    });
    let error = Server::start(options).await.err().expect("it started").to_string();
    assert!(error.contains("trigger_port"), "{error}");
    let journal = std::fs::read_to_string(dir.path().join("data/journal.jsonl"));
    assert_eq!(journal.unwrap_or_default(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_of_roots_are_a_notice_that_names_the_command() {
    for is_lost in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        node::make_data_dir(&data).unwrap();
        node::accept_store(&data).unwrap();
        for log in ["a.log", "b.log"].into_iter().filter(|_| is_lost) {
            let path = data.join("store/roots").join(log);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[..32].fill(b'x');
            std::fs::write(&path, bytes).unwrap();
        }
        let port = free_port();
        let server = Server::start(options(dir.path(), port)).await.unwrap();
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/api/v1/status")).await.unwrap();
        let status: serde_json::Value =
            serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(status["integrity"]["roots_incomplete"], is_lost);
        assert_eq!(status["notices"].to_string().contains("`archivist recover`"), is_lost);
        server.shutdown().await.unwrap();
    }
}

/// An instance that cannot publish `running.json` ends without answering any
/// request.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_found_does_not_start() {
    for _ in 0..STARTS {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        // A directory has the name of the file.
        std::fs::create_dir_all(dir.path().join("data/running.json/x")).unwrap();
        let mut asked = tokio::spawn(is_answered((Ipv4Addr::LOCALHOST, port).into()));
        let started = Server::start(options(dir.path(), port)).await;
        let error = started.err().expect("it started").to_string();
        assert!(error.contains("running.json"), "{error}");
        // A client that had not connected yet still tries to.
        let answered = tokio::time::timeout(Duration::from_millis(500), &mut asked).await;
        assert!(!matches!(answered, Ok(Ok(true))), "the API answered before it could be found");
        asked.abort();
    }
}
