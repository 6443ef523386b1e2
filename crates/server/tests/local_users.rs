//! Requests of other users of the same computer, as root only: the tests become nobody.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use common::Instance;

/// User id of nobody.
const NOBODY: u32 = 65534;

/// Prints the status of each `METHOD URL HOST` of its arguments.
const ASK: &str = r#"
import sys, urllib.error, urllib.request
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
for method, url, host in zip(*[iter(sys.argv[1:])] * 3):
    data = b"an upload" if method == "POST" else None
    headers = {"Host": host} if host else {}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        print(urllib.request.urlopen(request, timeout=60).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"#;

/// Sends requests as a user, and returns the status of each. A request is a method, a URL and
/// a `Host`, which is that of the URL if it is empty.
fn ask_as(user: u32, requests: &[(&str, String, &str)]) -> Vec<u16> {
    let mut python = Command::new("python3");
    python.args(["-I", "-c", ASK]);
    for (method, url, host) in requests {
        python.args([method, url.as_str(), host]);
    }
    let output = python.uid(user).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A free port of loopback.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_computer_reads_and_stores_nothing() {
    if !is_root() {
        return;
    }
    let node = Instance::start().await;
    let cid = node.upload("private").await;
    let api = format!("http://{}", node.server.api_addr());
    let requests: Vec<_> = [
        ("GET", format!("/api/archivist/v1/data/{cid}")),
        ("GET", "/api/archivist/v1/data".into()),
        ("POST", "/api/archivist/v1/data".into()),
        ("DELETE", format!("/api/archivist/v1/data/{cid}")),
        ("GET", format!("/api/archivist/v1/data/{cid}/network/stream")),
        ("GET", "/api/archivist/v1/peerid".into()),
        ("POST", "/api/archivist/v1/debug/chronicles/loglevel?level=TRACE".into()),
        ("GET", "/api/v1/status".into()),
        ("GET", "/api/v1/snapshots".into()),
        ("GET", "/api/v1/folders".into()),
        ("GET", "/api/v1/events".into()),
    ]
    .map(|(method, path)| (method, format!("{api}{path}"), ""))
    .into();
    let refused = ask_as(NOBODY, &requests);
    assert_eq!(refused, vec![401; requests.len()]);
    // Refused requests did nothing.
    assert_eq!(node.get(&format!("/data/{cid}")).await.text().await.unwrap(), "private");
    assert_eq!(node.json("/data").await["content"].as_array().unwrap().len(), 1);
    // The owner's programs need no token, and the page by which a browser signs in is open.
    let own = [requests[0].clone(), requests[1].clone(), requests[2].clone(), requests[7].clone()];
    assert_eq!(ask_as(0, &own), [200; 4]);
    let open =
        [("GET", format!("{api}/api/v1/ui/session"), ""), ("GET", format!("{api}/metrics"), "")];
    assert_eq!(ask_as(NOBODY, &open), [200; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_manifests_is_for_this_user_and_listed_addresses() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (whitelist, status) in [(&[][..], 403), (&["127.0.0.1"][..], 200)] {
        let port = free_port();
        let path = folder.path().to_owned();
        let _node = Instance::start_with(|config| {
            let folder = format!("[[sync.folders]]\nid = \"abc\"\npath = {path:?}\n");
            let with_folder: config::Config = toml::from_str(&folder).unwrap();
            config.sync.folders = with_folder.sync.folders;
            config.manifest_server.port = port;
            config.manifest_server.whitelisted_ips =
                whitelist.iter().map(|address| address.parse().unwrap()).collect();
        })
        .await;
        let at = |path: &str, host| ("GET", format!("http://127.0.0.1:{port}{path}"), host);
        assert_eq!(ask_as(NOBODY, &[at("/manifests", ""), at("/health", "")]), [status, 200]);
        assert_eq!(ask_as(0, &[at("/manifests", "")]), [200]);
        // The name of a web page that was made to mean this computer.
        let foreign = at("/manifests", "pages.example:8085");
        let health = at("/health", "pages.example:8085");
        assert_eq!(ask_as(0, &[foreign, at("/manifests", "localhost:1"), health]), [403, 200, 200]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_from_this_computer_names_it() {
    let port = free_port();
    let node = Instance::start_with(|config| {
        config.backup_server.enabled = true;
        config.backup_server.trigger_port = port;
    })
    .await;
    let post = |host: &'static str| {
        let request = node.http.post(format!("http://127.0.0.1:{port}/trigger"));
        request.header("host", host).send()
    };
    assert_eq!(post("pages.example").await.unwrap().status(), 403);
    assert_eq!(post("localhost:8086").await.unwrap().status(), 202);
}
