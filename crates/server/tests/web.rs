//! Logging in to the web UI, and requests that need a session or the token.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Instance;
use node::LogLevel;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use store::{BlockRead as _, BlockWrite as _, Root, Roots as _, RootsRead as _};

struct Ui {
    instance: Instance,
    http: reqwest::Client,
    token: String,
}

impl Ui {
    async fn start() -> Self {
        Self::on(Instance::start().await)
    }

    fn on(instance: Instance) -> Self {
        let token = std::fs::read_to_string(instance.dir.path().join("data/api-token")).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { instance, http, token: token.trim().to_owned() }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.instance.server.api_addr()))
    }

    async fn json(&self, asked: RequestBuilder) -> Value {
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn link(&self) -> String {
        let answer = self
            .ask(Method::POST, "/api/v1/ui/link")
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let link: Value = answer.json().await.unwrap();
        link["url"].as_str().unwrap().to_owned()
    }

    /// Opens a session by a link, and returns its cookie and its CSRF token.
    async fn session(&self) -> (String, String) {
        let answer = self.http.get(self.link().await).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let cookie = header("set-cookie").split(';').next().unwrap().to_owned();
        let location = header("location");
        (cookie, location.strip_prefix("/ui/#csrf=").unwrap().to_owned())
    }

    /// Adds both parts of a session to a request.
    fn within(request: RequestBuilder, (cookie, csrf): &(String, String)) -> RequestBuilder {
        request.header("cookie", cookie).header("x-csrf-token", csrf)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_one_session_and_only_with_its_header_it_changes_something() {
    let ui = Ui::start().await;
    // A link requires the token.
    let refused = ui.ask(Method::POST, "/api/v1/ui/link").send().await.unwrap();
    assert_eq!(refused.status(), 401);

    let link = ui.link().await;
    let first = ui.http.get(&link).send().await.unwrap();
    let set = first.headers()["set-cookie"].to_str().unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    let again = ui.http.get(&link).send().await.unwrap();
    assert_eq!(again.headers()["location"], "/ui/?used");
    assert!(again.headers().get("set-cookie").is_none());

    let (cookie, csrf) = ui.session().await;
    let csrf = csrf.as_str();
    let asked = || ui.ask(Method::GET, "/api/v1/ui/session").header("cookie", &cookie);
    let session = ui.json(asked().header("x-csrf-token", csrf)).await;
    assert_eq!(session, json!({ "signed_in": true }));
    // Any server on this computer that the browser visits sees the cookie, so the
    // cookie must not be enough to get the CSRF token.
    let answer = asked().send().await.unwrap();
    let shown = format!("{:?}", answer.headers()) + &answer.text().await.unwrap();
    assert!(!shown.contains(csrf) && shown.ends_with(r#"{"signed_in":false}"#), "{shown}");

    let change = || {
        let change = ui.ask(Method::POST, "/api/v1/config").header("cookie", &cookie);
        change.json(&json!({ "key": "node.log_level", "value": "debug" }))
    };
    assert_eq!(change().send().await.unwrap().status(), 401);
    let wrong = change().header("x-csrf-token", "0".repeat(64)).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    let foreign = change()
        .header("x-csrf-token", csrf)
        .header("origin", "http://evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), 403);
    let right = change().header("x-csrf-token", csrf).send().await.unwrap();
    assert_eq!(right.status(), 200);
    // The CSRF token is not enough without the cookie.
    let bare =
        ui.ask(Method::POST, "/api/v1/poll").header("x-csrf-token", csrf).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    // The API token opens a session too, and its CSRF token is sent once.
    let sign_in = || ui.ask(Method::POST, "/api/v1/ui/session");
    let with_cookie = sign_in().header("cookie", &cookie).send().await.unwrap();
    assert_eq!(with_cookie.status(), 401);
    let begun = sign_in().bearer_auth(&ui.token).send().await.unwrap();
    let set = begun.headers()["set-cookie"].to_str().unwrap().to_owned();
    let begun: Value = begun.json().await.unwrap();
    let poll =
        ui.ask(Method::POST, "/api/v1/poll").header("cookie", set.split(';').next().unwrap());
    let poll = poll.header("x-csrf-token", begun["csrf"].as_str().unwrap());
    assert!(poll.send().await.unwrap().status().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shows_names_of_this_machine_takes_the_session() {
    let ui = Ui::start().await;
    let session = ui.session().await;
    for path in ["/api/v1/directories?path=/", "/api/v1/journal", "/api/v1/logs"] {
        assert_eq!(ui.ask(Method::GET, path).send().await.unwrap().status(), 401, "{path}");
        let answer = Ui::within(ui.ask(Method::GET, path), &session).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let listed = ui.ask(Method::GET, "/api/v1/directories?path=/e");
    let listed: Value = listed.bearer_auth(&ui.token).send().await.unwrap().json().await.unwrap();
    assert_eq!(listed["path"], "/");
    let names = listed["directories"].as_array().unwrap();
    assert!(names.iter().all(|one| one["name"].as_str().unwrap().starts_with('e')), "{listed}");
    assert!(names.iter().any(|one| one["path"] == "/etc"), "{listed}");
    for path in ["etc", "/no/such/directory", "/etc/passwd/x"] {
        let wrong = ui.ask(Method::GET, &format!("/api/v1/directories?path={path}"));
        assert_eq!(wrong.bearer_auth(&ui.token).send().await.unwrap().status(), 422, "{path}");
    }
}

const SOMEBODY: &str = "16Uiu2HAmPRvJ9HCzRPiNZa9tXjPqV2Vp6fmkxL4pQnVPhMEvAqnW";
const ABSENT: &str = "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_backups_is_shown_to_the_owner_alone() {
    let ui = Ui::start().await;
    let session = ui.session().await;
    let manifest = format!("/api/v1/manifests/{ABSENT}");
    for (path, status) in [
        ("/api/v1/snapshots/aabbccddee/entries", 404),
        ("/api/v1/snapshots/aabbccddee/file?path=x", 404),
        ("/api/v1/snapshots/aabbccddee/zip", 404),
        ("/api/v1/snapshots/aabbccddee/search?text=x", 404),
        ("/api/v1/file-versions?folder=f&path=x", 200),
        (manifest.as_str(), 404),
        ("/api/v1/restores", 200),
        ("/api/v1/restores/1", 404),
        ("/api/v1/config", 200),
        ("/api/v1/receipts/export", 200),
    ] {
        let asked = |method: Method| ui.ask(method, path);
        let (cookie, csrf) = &session;
        let forged = (cookie.replace('=', "=9"), csrf.clone());
        for request in [
            asked(Method::GET),
            asked(Method::HEAD),
            // Every server on this computer that the browser visits sees the cookie.
            asked(Method::GET).header("cookie", cookie),
            asked(Method::GET).header("x-csrf-token", csrf),
            Ui::within(asked(Method::GET), &forged),
            asked(Method::GET).bearer_auth("0".repeat(64)),
        ] {
            assert_eq!(request.send().await.unwrap().status(), 401, "{path}");
        }
        for request in
            [Ui::within(asked(Method::GET), &session), asked(Method::GET).bearer_auth(&ui.token)]
        {
            assert_eq!(request.send().await.unwrap().status(), status, "{path}");
        }
    }
    // The status is readable on loopback without the token.
    for path in ["status", "folders", "sources", "snapshots", "peers", "jobs", "openapi.json"] {
        ui.json(ui.ask(Method::GET, &format!("/api/v1/{path}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_takes_a_ticket_that_counts_once_and_for_its_address() {
    let ui = Ui::start().await;
    let session = ui.session().await;
    let path = "/api/v1/receipts/export";
    let make =
        |path: &str| ui.ask(Method::POST, "/api/v1/ui/ticket").json(&json!({ "path": path }));
    let refused = make(path).header("cookie", &session.0).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let wrong = Ui::within(make("/api/v1/config"), &session).send().await.unwrap();
    assert_eq!(wrong.status(), 400);

    let link = ui.json(Ui::within(make(path), &session)).await;
    let url = link["url"].as_str().unwrap();
    let elsewhere = url.replace(path, "/api/v1/snapshots/aabbccddee/zip");
    assert_eq!(ui.ask(Method::GET, &elsewhere).send().await.unwrap().status(), 401);
    // A preview does not use it up.
    assert_eq!(ui.ask(Method::HEAD, url).send().await.unwrap().status(), 401);
    assert_eq!(ui.ask(Method::GET, url).send().await.unwrap().status(), 200);
    assert_eq!(ui.ask(Method::GET, url).send().await.unwrap().status(), 401);

    let file = "/api/v1/snapshots/aabbccddee/file?path=a%26ticket%3D";
    let link = ui.json(Ui::within(make(file), &session)).await;
    let answer = ui.ask(Method::GET, link["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 404, "there is no such snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_signed_out_is_over_and_a_preview_does_not_use_a_link_up() {
    let ui = Ui::start().await;
    let (first, second) = (ui.session().await, ui.session().await);
    let read = |session| Ui::within(ui.ask(Method::GET, "/api/v1/journal"), session).send();
    let end = |path| ui.ask(Method::DELETE, path);
    let refused = end("/api/v1/ui/session").header("cookie", &first.0).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let ended = Ui::within(end("/api/v1/ui/session"), &first).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    assert_eq!(read(&first).await.unwrap().status(), 401);
    assert_eq!(read(&second).await.unwrap().status(), 200);
    let ended = end("/api/v1/ui/sessions").bearer_auth(&ui.token).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    assert_eq!(read(&second).await.unwrap().status(), 401);

    let link = ui.link().await;
    let looked = ui.http.head(&link).send().await.unwrap();
    assert_eq!(looked.status(), 200);
    assert!(looked.headers().get("set-cookie").is_none());
    assert!(ui.http.get(&link).send().await.unwrap().headers().get("set-cookie").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_token_required_nothing_but_the_way_in_is_open() {
    let ui = Ui::on(Instance::start_with(|config| config.node.api_require_token = true).await);
    let session = ui.session().await;
    for path in [
        "/api/v1/status",
        "/api/v1/snapshots",
        "/api/v1/openapi.json",
        "/api/v1/config/keys",
        "/metrics",
        "/api/archivist/v1/data",
        "/api/archivist/v1/spr",
    ] {
        assert_eq!(ui.ask(Method::GET, path).send().await.unwrap().status(), 401, "{path}");
        let answer = ui.ask(Method::GET, path).bearer_auth(&ui.token).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        // The node API has no sessions of browsers.
        let status = if path.starts_with("/api/archivist") { 401 } else { 200 };
        let answer = Ui::within(ui.ask(Method::GET, path), &session).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let upload = || ui.ask(Method::POST, "/api/archivist/v1/data").body("x");
    assert_eq!(Ui::within(upload(), &session).send().await.unwrap().status(), 401);
    assert_eq!(upload().bearer_auth(&ui.token).send().await.unwrap().status(), 200);
    // A browser can log in.
    let session = ui.json(ui.ask(Method::GET, "/api/v1/ui/session")).await;
    assert_eq!(session["signed_in"], false);
    let page = ui.ask(Method::GET, "/ui/").send().await.unwrap();
    assert_ne!(page.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_and_a_source_are_edited_and_what_is_wrong_is_refused() {
    let ui = Ui::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "a").unwrap();
    let call = |method: Method, path: &str, body: Value| {
        ui.ask(method, path).bearer_auth(&ui.token).json(&body).send()
    };
    let added = call(Method::POST, "/api/v1/folders", json!({ "path": folder.path() }));
    let added: Value = added.await.unwrap().json().await.unwrap();
    let path = format!("/api/v1/folders/{}", added["id"].as_str().unwrap());
    let changes = json!({ "name": "Papers", "exclude": ["*.tmp"] });
    let changed = call(Method::PATCH, &path, changes).await.unwrap();
    assert_eq!(changed.status(), 200);
    assert_eq!(changed.json::<Value>().await.unwrap()["name"], "Papers");
    let bad = call(Method::PATCH, &path, json!({ "exclude": ["a["] })).await.unwrap();
    assert_eq!(bad.status(), 422);
    let config: Value = ui.json(ui.ask(Method::GET, "/api/v1/config").bearer_auth(&ui.token)).await;
    assert_eq!(config["sync"]["folders"][0]["exclude"], json!(["*.tmp"]));

    let peer = Instance::start().await.services().net.peer_id().to_string();
    let source = |url: &str| json!({ "name": "Desk", "manifest_server_url": url, "peer_id": peer });
    let wrong = call(Method::POST, "/api/v1/sources", source("ftp://x")).await.unwrap();
    assert_eq!(wrong.status(), 422);
    let right = source("http://127.0.0.1:9");
    assert_eq!(call(Method::POST, "/api/v1/sources", right).await.unwrap().status(), 200);
    // The server is disabled and unreachable: every step reports that.
    let test = json!({ "source": "Desk" });
    let steps = call(Method::POST, "/api/v1/connection-test", test).await.unwrap();
    assert_eq!(steps.status(), 200);
    let steps: Vec<Value> = steps.json().await.unwrap();
    assert_eq!(steps.iter().map(|step| &step["ok"]).collect::<Vec<_>>(), [false, false, false]);
    let gone = call(Method::DELETE, "/api/v1/sources/Desk", json!({})).await.unwrap();
    assert_eq!(gone.status(), 200);
    let gone = call(Method::DELETE, "/api/v1/sources/Desk", json!({})).await.unwrap();
    assert_eq!(gone.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_removed_with_the_token_alone() {
    let ui = Ui::start().await;
    let path = "/api/v1/snapshots/ffffffffff?newest=true";
    let refused = ui.ask(Method::DELETE, path).send().await.unwrap();
    assert_eq!(refused.status(), 401, "a session is not enough");
    let unknown = ui.ask(Method::DELETE, path).bearer_auth(&ui.token).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_loosened_right_after_the_start_wait() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "[backup_server]\nenabled = true\n").unwrap();
    let enable = |config: &mut config::Config| config.backup_server.enabled = true;
    let ui = Ui::on(Instance::start_in(dir, enable, LogLevel::fixed()).await);
    // Nobody asked for the status, and nothing was pruned.
    let change = ui.ask(Method::POST, "/api/v1/config").bearer_auth(&ui.token);
    let change = change.json(&json!({ "key": "backup_server.lock_days", "value": "0" }));
    assert_eq!(change.send().await.unwrap().status(), 200);
    let status = ui.json(ui.ask(Method::GET, "/api/v1/status")).await;
    let notices = status["notices"].as_array().unwrap();
    let is_it = |notice: &Value| notice["message"].as_str().unwrap().contains("was loosened");
    assert!(notices.iter().any(is_it), "{notices:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_fails_is_told_until_one_succeeds() {
    let ui = Ui::start().await;
    let store = &ui.instance.services().store;
    let gone = Root { cid: ABSENT.parse().unwrap(), partial: false };
    store.set_root("data/gone", gone, store.write_epoch()).unwrap();
    let prune = || ui.ask(Method::POST, "/api/v1/prune").bearer_auth(&ui.token);
    let report = ui.json(prune().json(&json!({ "dry_run": false }))).await;
    let error = report["not_collected"].as_str().unwrap();
    let told = || async {
        let status = ui.json(ui.ask(Method::GET, "/api/v1/status")).await;
        let notices = status["notices"].as_array().unwrap().clone();
        notices.iter().any(|one| one["message"].as_str().unwrap().contains(error))
    };
    assert!(told().await);
    // A dry run does not remove the fault.
    let report = ui.json(prune().json(&json!({ "dry_run": true }))).await;
    assert_eq!(report["not_collected"], Value::Null);
    assert!(told().await);
    // Incomplete data is not accepted as all that must be kept.
    let refused = prune().json(&json!({ "accept_roots": true })).send().await.unwrap();
    assert_eq!(refused.status(), 409);
    assert!(refused.text().await.unwrap().contains("1 data item is incomplete"));
    store.remove_root("data/gone").unwrap();
    let accepted = ui.json(prune().json(&json!({ "accept_roots": true }))).await;
    assert_eq!(accepted["not_collected"], Value::Null);
    let report = ui.json(prune().json(&json!({ "dry_run": false }))).await;
    assert_eq!(report["not_collected"], Value::Null);
    assert!(!told().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_are_not_accepted_while_the_store_has_what_they_do_not_name() {
    let ui = Ui::start().await;
    let store = ui.instance.services().store.clone();
    let cid = ui.instance.upload("kept by nothing but its root").await;
    let root = format!("data/{cid}");
    let before = store.root(&root).unwrap();
    // As after a loss of roots: the store does not note the removal of a partial root.
    let lose = || {
        let partial = Root { partial: true, ..before };
        store.set_root(&root, partial, store.write_epoch()).unwrap();
        store.remove_root(&root).unwrap();
    };
    lose();

    let post = |path: &str| ui.ask(Method::POST, path).bearer_auth(&ui.token);
    let accept = |body: Value| post("/api/v1/prune").json(&body).send();
    let refused = accept(json!({ "accept_roots": true })).await.unwrap();
    assert_eq!(refused.status(), 409);
    let text = refused.text().await.unwrap();
    assert!(
        text.contains("1 data item is stored but not listed") && text.contains("recover"),
        "{text}"
    );
    // A search needs the token, and changes nothing.
    let refused = ui.ask(Method::POST, "/api/v1/recover").json(&json!({})).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let found = ui.json(post("/api/v1/recover").json(&json!({}))).await;
    assert_eq!((&found["complete"], &found["recovered"]), (&json!(true), &json!(0)));
    assert_eq!(
        (&found["items"][0]["cid"], &found["items"][0]["state"]),
        (&json!(cid), &json!("lost"))
    );
    assert_eq!(store.root(&root), None);
    let unknown = json!({ "yes": true, "only": ["ffffffff"] });
    let refused = post("/api/v1/recover").json(&unknown).send().await.unwrap();
    assert_eq!(refused.status(), 409);
    let found = ui.json(post("/api/v1/recover").json(&json!({ "yes": true }))).await;
    assert_eq!(
        (&found["recovered"], &found["items"][0]["state"]),
        (&json!(1), &json!("recovered"))
    );
    assert_eq!(store.root(&root), Some(before));
    let accepted = accept(json!({ "accept_roots": true })).await.unwrap();
    assert_eq!(accepted.status(), 200);

    // The owner can also discard what is not named.
    lose();
    assert_eq!(accept(json!({ "accept_roots": true })).await.unwrap().status(), 409);
    let discard = json!({ "accept_roots": true, "discard": true });
    assert_eq!(accept(discard).await.unwrap().status(), 200);
    assert!(!store.has(&before.cid).unwrap());
}

/// A receipt that this backup server has signed names a snapshot that the store has lost
/// without a trace.
#[tokio::test(flavor = "multi_thread")]
async fn roots_are_not_accepted_while_a_confirmed_snapshot_is_missing() {
    let ui = Ui::start().await;
    let data = ui.instance.dir.path().join("data");
    let key = net::identity::load_or_create(&data.join("identity.key")).unwrap();
    let source = net::Keypair::generate_secp256k1();
    let folder: types::FolderId = "docs".parse().unwrap();
    let (sequence, manifest) = (types::SequenceNumber(7), ABSENT.parse().unwrap());
    let receipt = protocols::Receipt {
        number: 1,
        previous: None,
        backup_server: key.public().to_peer_id(),
        source: source.public().to_peer_id(),
        confirmation: protocols::Confirmation {
            manifest_signature: manifest::sign(&source, &folder, sequence, &manifest).unwrap(),
            folder_id: folder,
            sequence,
            manifest_cid: manifest,
            received_at: "2026-11-22T10:30:05Z".parse().unwrap(),
        },
    };
    let accepted = receipt.clone().sign(&key).unwrap().encode();
    let chain = json!({ "version": 1, "accepted": accepted, "pending": null });
    let path = data.join(format!("issued-receipts/{}.docs.json", receipt.source));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let accept = async |body: Value| {
        let post = ui.ask(Method::POST, "/api/v1/prune").bearer_auth(&ui.token);
        let answer = post.json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let accept_roots = json!({ "accept_roots": true });
    assert_eq!(accept(accept_roots.clone()).await.0, 200);
    std::fs::write(&path, chain.to_string()).unwrap();
    let (status, text) = accept(accept_roots.clone()).await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("has confirmed snapshot 7 of folder docs"), "{text}");
    std::fs::write(&path, "{").unwrap();
    let (status, text) = accept(accept_roots).await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("docs.json is damaged"), "{text}");
    let discard = json!({ "accept_roots": true, "discard": true });
    assert_eq!(accept(discard).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_as_it_came_is_compressed_where_that_is_asked_for() {
    let ui = Ui::start().await;
    // More than an eighth of a pack: a smaller open pack is not recompressed.
    let text: String = (0..1_000_000).map(|n| format!("this is line {n}\n")).collect();
    let cid = ui.instance.upload(text.clone()).await;
    let prune = |body: Value| {
        ui.json(ui.ask(Method::POST, "/api/v1/prune").bearer_auth(&ui.token).json(&body))
    };
    assert_eq!(prune(json!({})).await["recompressed"], Value::Null);
    let looked = prune(json!({ "dry_run": true, "recompress": true })).await;
    assert_eq!(looked["recompressed"], Value::Null);
    let done = prune(json!({ "recompress": true })).await["recompressed"].clone();
    let (before, after) = (&done["before_bytes"], &done["after_bytes"]);
    assert!(after.as_u64().unwrap() * 2 < before.as_u64().unwrap(), "{done}");
    assert_eq!((&done["packs"], &done["problems"]), (&json!(1), &json!([])));
    let metrics = ui.ask(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for (name, bytes) in [("before", before), ("after", after)] {
        let line = format!("archivist_store_recompressed_{name}_bytes_total {bytes}");
        assert!(metrics.contains(&line), "{line}");
    }
    let found = ui.instance.get(&format!("/data/{cid}")).await;
    assert!(found.text().await.unwrap() == text);
    assert_eq!(prune(json!({ "recompress": true })).await["recompressed"]["packs"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_fails_keeps_no_other_from_being_registered() {
    let ui = Ui::start().await;
    let dir = tempfile::tempdir().unwrap();
    let post = |path: &str, body: Value| {
        ui.ask(Method::POST, path).bearer_auth(&ui.token).json(&body).send()
    };
    let none = post("/api/v1/sync", json!({})).await.unwrap();
    assert_eq!(none.status(), 409);
    assert!(none.text().await.unwrap().contains("folder add"));
    // The folder that fails is the first.
    for name in ["broken", "sound"] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("f"), name).unwrap();
        let folder = json!({ "path": path, "name": name });
        assert_eq!(post("/api/v1/folders", folder).await.unwrap().status(), 200);
    }
    for (verb, word) in [("pause", "paused"), ("resume", "")] {
        for name in ["broken", "sound"] {
            let path = format!("/api/v1/folders/{name}/{verb}");
            assert_eq!(post(&path, json!({})).await.unwrap().status(), 200);
        }
        let synced = post("/api/v1/sync", json!({})).await.unwrap();
        let expected = if word.is_empty() { 200 } else { 409 };
        let status = synced.status();
        let told = synced.text().await.unwrap();
        assert!(status == expected && told.contains(word), "{verb}: {status}, {told}");
    }
    std::fs::remove_dir_all(dir.path().join("broken")).unwrap();
    let sequence = || async {
        let folders = ui.json(ui.ask(Method::GET, "/api/v1/folders")).await;
        folders[1]["sequence"].as_u64().unwrap()
    };

    let before = sequence().await;
    std::fs::write(dir.path().join("sound/f"), "another state").unwrap();
    let answer = post("/api/v1/sync", json!({})).await.unwrap();
    assert_eq!(answer.status(), 409);
    let told = answer.text().await.unwrap();
    assert!(told.contains("1 of 2") && told.contains("broken: "), "{told}");
    assert!(sequence().await > before);

    // The backup server is unreachable; the folder that failed is reported too.
    let server = format!("/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}");
    let set = json!({ "key": "sync.backup_peer_address", "value": server });
    assert_eq!(post("/api/v1/config", set).await.unwrap().status(), 200);
    let before = sequence().await;
    std::fs::write(dir.path().join("sound/f"), "a third, longer state").unwrap();
    let answer = post("/api/v1/backup-now", json!({})).await.unwrap();
    assert_eq!(answer.status(), 200);
    let report: Value = answer.json().await.unwrap();
    let steps = report["steps"].as_array().unwrap();
    let register = steps.iter().find(|step| step["name"] == "register").unwrap();
    assert_eq!(register["ok"], false, "{report}");
    assert!(register["detail"].as_str().unwrap().contains("broken: "), "{report}");
    assert!(sequence().await > before);
    let connect = steps.iter().find(|step| step["name"] == "connect").unwrap();
    let error = connect["detail"].as_str().unwrap();
    assert!(error.contains("/tcp/1: ") && error.matches("/tcp/1").count() == 1, "{error}");

    // A paused folder is not backed up, although it has a manifest.
    assert_eq!(post("/api/v1/folders/sound/pause", json!({})).await.unwrap().status(), 200);
    let named = json!({ "folder": "sound", "wait_secs": 1 });
    let answer = post("/api/v1/backup-now", named).await.unwrap();
    assert_eq!(answer.status(), 409);
    let told = answer.text().await.unwrap();
    assert!(told.contains("sound is paused") && told.contains("archivist folder resume"), "{told}");
    let answer = post("/api/v1/backup-now", json!({})).await.unwrap();
    let report: Value = answer.json().await.unwrap();
    let folders: Vec<_> =
        report["folders"].as_array().unwrap().iter().map(|one| &one["folder_name"]).collect();
    assert_eq!(folders, ["broken"], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_read_is_told_by_the_running_instance() {
    let ui = Ui::start().await;
    let status = || async { ui.json(ui.ask(Method::GET, "/api/v1/status")).await };
    assert!(!status().await["notices"].to_string().contains("snapshot"));
    let store = &ui.instance.services().store;
    let gone = Root { cid: ABSENT.parse().unwrap(), partial: false };
    let name = format!("snapshot/{SOMEBODY}/docs/1");
    store.set_root(&name, gone, store.write_epoch()).unwrap();
    let notices = status().await["notices"].to_string();
    assert!(notices.contains(&name) && notices.contains("missing"), "{notices}");
    assert!(notices.contains("verify"), "{notices}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_may_be_framed_and_a_missing_asset_is_no_page() {
    let ui = Ui::start().await;
    let page = ui.ask(Method::GET, "/ui/").send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-frame-options"], "DENY");
    let missing = ui.ask(Method::GET, "/ui/assets/none.js").send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let foreign = ui.ask(Method::GET, "/ui/").header("host", "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
}
