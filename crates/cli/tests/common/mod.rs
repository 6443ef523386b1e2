//! Real processes for tests, each with its own home and free ports.

#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

pub mod fake;
pub mod kept;
pub mod mount;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// The home of an instance. It outlives the processes that use it.
pub struct Home {
    dir: tempfile::TempDir,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    api: String,
    http: reqwest::blocking::Client,
}

/// Returns a command that runs the program with a home.
pub fn archivist(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_archivist"));
    command.arg("--home").arg(home).env_remove("ARCHIVIST_HOME").stdin(Stdio::null());
    command
}

/// The result of a run of the program.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the program and waits for its end.
pub fn run<A: AsRef<std::ffi::OsStr>>(home: &Path, arguments: impl IntoIterator<Item = A>) -> Ran {
    let output = archivist(home).args(arguments).env("TZ", "UTC").output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    /// Parses the output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Home {
    /// Creates a home with free loopback ports. `more` is added to its configuration.
    pub fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Self { dir };
        home.configure(more);
        home
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("config.toml")
    }

    /// Rewrites the configuration. `more` starts with keys of `[node]`.
    pub fn configure(&self, more: &str) {
        let text = format!(
            "[node]\nlisten_port = 0\ndiscovery_port = 0\napi_port = 0\nbind = [\"127.0.0.1\"]\n\
             mdns = false\ndisk_reserve = \"0\"\n{more}"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// Runs `archivist init --json`.
    pub fn init(&self) -> Value {
        let output = archivist(self.path()).args(["init", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn peer_id(&self) -> String {
        self.init()["peer_id"].as_str().unwrap().to_owned()
    }

    /// Starts a daemon and waits until it runs.
    pub fn start(&self) -> Daemon {
        let running = self.path().join("data/running.json");
        let _ = std::fs::remove_file(&running);
        let mut child = archivist(self.path())
            .arg("daemon")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        for _ in 0..3000 {
            if let Ok(text) = std::fs::read(&running)
                && let Ok(found) = serde_json::from_slice::<Value>(&text)
            {
                let api = found["api"].as_str().unwrap().to_owned();
                let http = reqwest::blocking::Client::builder()
                    .no_proxy()
                    .timeout(Duration::from_secs(300))
                    .build()
                    .unwrap();
                return Daemon { child, log, api, http };
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon ended: {status}\n{}", log.lock().unwrap().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the daemon did not start\n{}", log.lock().unwrap().join("\n"));
    }
}

impl Home {
    /// Runs a command on this home and parses its output as JSON.
    pub fn run_json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command on this home.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        archivist(self.path()).args(arguments).output().unwrap()
    }
}

impl Daemon {
    /// `GET /api/v1{path}`
    pub fn v1(&self, path: &str) -> Value {
        let url = format!("http://{}/api/v1{path}", self.api);
        let answer = self.http.get(url).send().unwrap();
        let status = answer.status();
        let text = answer.text().unwrap();
        assert_eq!(status, 200, "{path}: {text}\n{}", self.log());
        serde_json::from_str(&text).unwrap()
    }

    pub fn api(&self) -> &str {
        &self.api
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/api/archivist/v1{path}", self.api)
    }

    pub fn http(&self) -> &reqwest::blocking::Client {
        &self.http
    }

    pub fn get(&self, path: &str) -> reqwest::blocking::Response {
        self.http.get(self.url(path)).send().unwrap()
    }

    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status(), 200, "{path}\n{}", self.log());
        answer.json().unwrap()
    }

    pub fn post(&self, path: &str) -> reqwest::blocking::Response {
        self.http.post(self.url(path)).send().unwrap()
    }

    pub fn upload(&self, body: impl Into<reqwest::blocking::Body>) -> String {
        let answer = self.http.post(self.url("/data")).body(body).send().unwrap();
        assert_eq!(answer.status(), 200, "{}", self.log());
        answer.text().unwrap()
    }

    /// Returns the addresses of the libp2p node.
    pub fn addresses(&self) -> Vec<String> {
        let info = self.json("/debug/info");
        let addresses = info["addrs"].as_array().unwrap().clone();
        addresses.iter().map(|address| address.as_str().unwrap().to_owned()).collect()
    }

    pub fn connect(&self, peer: &str, addresses: &[String]) {
        let query: Vec<String> = addresses.iter().map(|a| format!("addrs={a}")).collect();
        let answer = self.get(&format!("/connect/{peer}?{}", query.join("&")));
        let status = answer.status();
        assert_eq!(status, 200, "{}\n{}", answer.text().unwrap(), self.log());
    }

    /// Returns the log.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM. Returns the exit code and the time until the end.
    pub fn terminate(mut self) -> (Option<i32>, Duration) {
        let started = std::time::Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), started.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- a daemon's log:\n{}", self.log());
        }
    }
}

/// Returns a TCP port that is free on loopback, below the system's ephemeral ports, and never the
/// same port twice.
pub fn free_port() -> u16 {
    static NEXT: std::sync::OnceLock<std::sync::atomic::AtomicU16> = std::sync::OnceLock::new();
    let next = NEXT.get_or_init(|| rand::random_range(10_000..30_000).into());
    loop {
        let port = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A source with one folder, and its backup server.
pub struct Two {
    pub a: Home,
    pub b: Home,
    folder: tempfile::TempDir,
    pub manifest_port: u16,
    pub trigger_port: u16,
}

/// The id of the folder in [`Two`].
pub const FOLDER: &str = "documents";

impl Two {
    /// Configures both. Neither runs.
    pub fn new() -> Self {
        Self::with(100, 1)
    }

    /// Same, with another quiet time before a manifest and another poll interval of B.
    pub fn with(max_delay_ms: u64, poll_interval_secs: u64) -> Self {
        let (a, b) = (Home::new(""), Home::new(""));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("Documents")).unwrap();
        let two = Self { a, b, folder, manifest_port: free_port(), trigger_port: free_port() };
        let (listen_a, listen_b) = (free_port(), free_port());
        let (id_a, id_b) = (two.a.peer_id(), two.b.peer_id());
        let node = |port: u16| {
            format!(
                "[node]\nlisten_port = {port}\ndiscovery_port = 0\napi_port = 0\n\
                 bind = [\"127.0.0.1\"]\nmdns = false\ndisk_reserve = \"0\"\n"
            )
        };
        let text = format!(
            "{}[sync]\nbackup_peer_address = \"/ip4/127.0.0.1/tcp/{listen_b}/p2p/{id_b}\"\n\
             backup_trigger_port = {}\nmanifest_max_delay_ms = {max_delay_ms}\n\
             manifest_retry_interval_secs = 2\n\
             [[sync.folders]]\nid = \"{FOLDER}\"\npath = {:?}\nname = \"Documents\"\n\
             [manifest_server]\nport = {}\n",
            node(listen_a),
            two.trigger_port,
            two.path(),
            two.manifest_port,
        );
        std::fs::write(two.a.config(), text).unwrap();
        let text = format!(
            "{}[backup_server]\nenabled = true\npoll_interval_secs = {poll_interval_secs}\n\
             trigger_port = {}\nkeep = {{ last = 1000 }}\n\
             [[backup_server.source_peers]]\nname = \"My Desktop\"\n\
             manifest_server_url = \"http://127.0.0.1:{}\"\npeer_id = \"{id_a}\"\n\
             addresses = [\"/ip4/127.0.0.1/tcp/{listen_a}\"]\n",
            node(listen_b),
            two.trigger_port,
            two.manifest_port,
        );
        std::fs::write(two.b.config(), text).unwrap();
        two
    }

    /// The folder that A watches.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("Documents")
    }

    /// Returns a directory to restore into.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Scans and backs up now. Returns when B has confirmed the snapshot.
    pub fn backed_up(&self) -> Value {
        let report = self.a.run_json(&["backup-now", "--wait", "120", "--json"]);
        report["folders"][0].clone()
    }

    /// Restores the newest snapshot on B and compares it with the folder.
    pub fn assert_restores(&self, name: &str) {
        let target = self.beside(name);
        let listed = self.b.run_json(&["snapshots", "--folder", FOLDER, "--json"]);
        let newest = listed.as_array().unwrap().last().unwrap()["id"].as_str().unwrap();
        let target_text = target.to_str().unwrap();
        let arguments = ["restore", newest, "--as-it-was", "--target", target_text];
        let output = self.b.run(&arguments);
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_same(&self.path(), &target);
    }

    /// Waits until B has a snapshot that equals the folder's current content.
    pub fn eventually_same(&self, a: &Daemon) {
        let last = std::cell::RefCell::new(Value::Null);
        let is_there = || {
            let status = a.v1("/folders")[0].clone();
            let is_there = status["pending_changes"] == 0
                && status["state"] == "idle"
                && status["sequence"].is_u64()
                && status["backed_up_sequence"] == status["sequence"];
            *last.borrow_mut() = status;
            is_there
        };
        eventually_or("B has everything", is_there, || format!("{:#}", last.borrow()));
    }
}

/// Asserts that two trees are equal in everything that a snapshot records.
pub fn assert_same(first: &Path, second: &Path) {
    let options = fstree::CompareOptions {
        owners: rustix::process::geteuid().is_root(),
        ..fstree::CompareOptions::default()
    };
    let differences = fstree::compare(first, second, options).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Same as [`eventually`], but the failure message contains the last state.
pub fn eventually_or(what: &str, mut holds: impl FnMut() -> bool, how: impl FnOnce() -> String) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it never came about that {what}:\n{}", how());
}

/// Waits until a condition holds. Panics after a bounded number of checks.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it never came about that {what}");
}

/// Returns reproducible pseudo-random bytes.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
