//! Instances for tests: on loopback, with free ports, in temporary directories.

#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use config::{ByteSize, Config, ConfigFile};
use node::{InstanceOptions, LogLevel, Services, Settings};
use server::Server;

/// An instance and a client of its API.
pub struct Instance {
    pub server: Server,
    pub http: reqwest::Client,
    pub dir: tempfile::TempDir,
}

/// Returns the configuration of a test, changed by `change`.
pub fn settings(dir: &std::path::Path, change: impl FnOnce(&mut Config)) -> Settings {
    let mut config = Config::default();
    let node = &mut config.node;
    (node.listen_port, node.discovery_port, node.api_port) = (0, 0, 0);
    node.bind = vec!["127.0.0.1".parse().unwrap()];
    node.mdns = false;
    node.disk_reserve = ByteSize::from_bytes(0);
    change(&mut config);
    Settings::new(ConfigFile::new(dir.join("config.toml")), config)
}

impl Instance {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_logging(change, LogLevel::fixed()).await
    }

    pub async fn start_logging(change: impl FnOnce(&mut Config), log_level: LogLevel) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change, log_level).await
    }

    /// Starts in a directory whose `config.toml` the first change of a setting reads.
    pub async fn start_in(
        dir: tempfile::TempDir,
        change: impl FnOnce(&mut Config),
        log_level: LogLevel,
    ) -> Self {
        let options = InstanceOptions {
            settings: settings(dir.path(), change),
            data_dir: dir.path().join("data"),
            log_level,
        };
        let server = Server::start(options).await.unwrap();
        Self { server, http: reqwest::Client::builder().no_proxy().build().unwrap(), dir }
    }

    pub fn services(&self) -> &Services {
        self.server.instance().services()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/api/archivist/v1{path}", self.server.api_addr())
    }

    /// Uploads content, and returns its CID.
    pub async fn upload(&self, content: impl Into<reqwest::Body>) -> String {
        let answer = self.http.post(self.url("/data")).body(content).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    pub async fn json(&self, path: &str) -> serde_json::Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// Connects to another instance through the API.
    pub async fn connect(&self, other: &Self) {
        let addrs: String = other
            .services()
            .net
            .listen_addrs()
            .iter()
            .map(|addr| format!("addrs={addr}&"))
            .collect();
        let path = format!("/connect/{}?{addrs}", other.services().net.peer_id());
        let answer = self.get(&path).await;
        let status = answer.status();
        assert_eq!(status, 200, "{}", answer.text().await.unwrap());
    }
}

/// Returns pseudo-random bytes.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
