//! An instance of the demo: a process of this program with its own home.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use api::{Client, Job, Status, VerifyRequest, VerifyResult};
use config::{ConfigFile, Paths};
use node::Running;
use tokio::process::{Child, Command};

/// Maximum time until an instance answers.
const START_MAX: Duration = Duration::from_secs(60);
/// Maximum time until an instance ends.
const STOP_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// Number of port ranges to try.
const PORT_TRIES: u32 = 100;

pub(super) struct Instance {
    pub(super) api: Client,
    /// Killed if the demo stops early.
    process: Child,
    log: PathBuf,
}

impl Instance {
    /// Starts an instance with its home in `home`, on free loopback ports.
    pub(super) async fn start(home: &Path) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
        let paths = Paths::resolve(Some(home), |_| None)?;
        configure(&paths)?;
        let log = home.join("log.txt");
        let output =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let process = Command::new(program)
            .arg("--home")
            .arg(home)
            .arg("daemon")
            .env_remove("ARCHIVIST_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start an instance")?;
        let api = Client::new((Ipv4Addr::LOCALHOST, 1).into(), "")?;
        let mut instance = Self { api, process, log };
        instance.wait(&paths).await?;
        Ok(instance)
    }

    async fn wait(&mut self, paths: &Paths) -> Result<()> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            if let Some(status) = self.process.try_wait().context("cannot watch an instance")? {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the instance has ended ({status}):\n{log}");
            }
            if let Some(running) = Running::find(paths.data_dir()) {
                let token = fs::read_to_string(paths.api_token()).unwrap_or_default();
                self.api = Client::new(running.api, token.trim())?;
                if self.api.get::<Status>("/status").await.is_ok() {
                    return Ok(());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("the instance does not answer; its log is {}", self.log.display())
    }

    /// Verifies the instance's snapshots and returns the result.
    pub(super) async fn verify(&self, request: VerifyRequest) -> Result<VerifyResult> {
        let mut job: Job = self.api.post("/verify", &request).await?;
        while job.state == "running" {
            tokio::time::sleep(LOOK).await;
            job = self.api.get(&format!("/jobs/{}", job.id)).await?;
        }
        let result = job.result.with_context(|| job.error.unwrap_or_default())?;
        serde_json::from_value(result).context("the result of the check cannot be read")
    }

    /// Ends the instance with SIGTERM, as the system does.
    pub(super) async fn stop(mut self) -> Result<()> {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(rustix::process::Pid::from_raw).context("the instance has ended")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("cannot end the instance")?;
        let ended = tokio::time::timeout(STOP_MAX, self.process.wait()).await;
        let status =
            ended.context("the instance does not end")?.context("cannot wait for the instance")?;
        if !status.success() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the instance has ended with {status}:\n{log}");
        }
        Ok(())
    }
}

/// Configures loopback ports, without anything that other computers could notice.
fn configure(paths: &Paths) -> Result<()> {
    let file = ConfigFile::new(paths.config_file());
    file.create()?;
    let ports = free_ports()?;
    let [listen, api, manifest, trigger, discovery] = ports.map(|port| port.to_string());
    file.edit(|draft| {
        draft.set("node.bind", "[\"127.0.0.1\"]")?;
        draft.set("node.mdns", "false")?;
        draft.set("node.listen_port", &listen)?;
        draft.set("node.discovery_port", &discovery)?;
        draft.set("node.api_port", &api)?;
        draft.set("manifest_server.port", &manifest)?;
        draft.set("backup_server.trigger_port", &trigger)
    })?;
    Ok(())
}

/// Returns four free TCP ports and one free UDP port. They are below the system's
/// ephemeral ports, so that they stay free until they are used.
fn free_ports() -> Result<[u16; 5]> {
    for _ in 0..PORT_TRIES {
        let first = rand::random_range(10_000..30_000_u16);
        let ports = [first, first + 1, first + 2, first + 3, first + 4];
        let is_tcp_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let is_udp_free = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports[4])).is_ok();
        if ports[..4].iter().copied().all(is_tcp_free) && is_udp_free {
            return Ok(ports);
        }
    }
    bail!("cannot find free ports on 127.0.0.1")
}
