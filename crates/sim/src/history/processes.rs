//! The two processes of a history: their ends and their starts.

use std::time::Duration;

use ::disk::sim::{Fault, Power, SimDisk};
use rand::RngExt as _;
use tokio::time::Instant;

use super::{History, Which, power};
use crate::disk::ProcessDisk;
use crate::log::Log;
use crate::server::Server;
use crate::source::Source;

impl History {
    /// Ends processes whose disk has died, and starts processes that are due.
    pub(super) async fn supervise(&mut self) {
        if self.source.process.as_ref().is_some_and(|p| p.disk.sim().is_dead()) {
            self.end_source();
        }
        if self.server.process.as_ref().is_some_and(|p| p.disk.sim().is_dead()) {
            self.end_server();
        }
        if self.source.process.is_none() && self.source.restart_at <= Instant::now() {
            self.start_source();
        }
        if self.server.process.is_none() && self.server.restart_at <= Instant::now() {
            self.start_server().await;
        }
    }

    pub(super) fn end_source(&mut self) {
        let Some(source) = self.source.process.take() else { return };
        *self.router.lock() = None;
        self.log.line("A", format_args!("ends, {:?}, {}", self.source.power, source.disk.trace()));
        if self.source.power != Power::Kept {
            source.node.cut_power();
        }
        self.source.image = source.disk.sim().crash(self.source.power);
        let pause = self.rng.random_range(0..8000);
        self.source.restart_at = Instant::now() + Duration::from_millis(pause);
    }

    pub(super) fn end_server(&mut self) {
        let Some(server) = self.server.process.take() else { return };
        self.log.line("B", format_args!("ends, {:?}, {}", self.server.power, server.disk.trace()));
        if self.server.power != Power::Kept {
            server.node.cut_power();
        }
        self.server.image = server.disk.sim().crash(self.server.power);
        let pause = self.rng.random_range(0..8000);
        self.server.restart_at = Instant::now() + Duration::from_millis(pause);
    }

    fn start_source(&mut self) {
        let (net, peers, router) = (self.net.clone(), self.peers(), self.router.clone());
        let image = self.source.image.clone();
        let disk = ProcessDisk::new(image, self.disk_log("A disk"), move || {
            *router.lock() = None;
            net.reset(peers.0, peers.1);
        });
        self.arm_start(Which::Source, &disk);
        match Source::start(&self.source_setup, disk.clone()) {
            Ok(source) => {
                self.log.line("A", "starts");
                *self.router.lock() = Some(source.router());
                self.source.process = Some(source);
            }
            Err(error) => {
                self.log.line("A", format_args!("does not start: {error}"));
                self.not_started(&disk, Which::Source, &error);
            }
        }
    }

    async fn start_server(&mut self) {
        let (net, peers) = (self.net.clone(), self.peers());
        let image = self.server.image.clone();
        let log = self.disk_log("B disk");
        let disk = ProcessDisk::new(image, log, move || net.reset(peers.0, peers.1));
        self.arm_start(Which::Server, &disk);
        match Server::start(&self.server_setup, disk.clone()).await {
            Ok(server) => {
                self.log.line("B", "starts");
                if !disk.sim().is_dead()
                    && !disk.fails_reads()
                    && let Err(error) = server.check(&self.model)
                {
                    self.model.fail(format!("after the start of B: {error}"));
                }
                self.server.process = Some(server);
            }
            Err(error) => {
                self.log.line("B", format_args!("does not start: {error}"));
                self.not_started(&disk, Which::Server, &error);
            }
        }
    }

    fn disk_log(&self, side: &'static str) -> Option<(Log, &'static str)> {
        self.is_detailed.then(|| (self.log.clone(), side))
    }

    /// In one of eight starts, the process dies during the start; in another one, reads of its
    /// disk fail.
    fn arm_start(&mut self, which: Which, disk: &ProcessDisk) {
        if !self.is_stormy {
            return;
        }
        match self.rng.random_range(0..8) {
            0 => {
                let at = self.rng.random_range(0..30);
                let power = power(&mut self.rng);
                disk.sim().set_fault(at, Fault::Die);
                self.set_power(which, power);
            }
            1 => self.fail_reads(which, disk),
            _ => {}
        }
    }

    pub(super) fn slot_image(&self, which: Which) -> &SimDisk {
        match which {
            Which::Source => &self.source.image,
            Which::Server => &self.server.image,
        }
    }

    pub(super) fn set_power(&mut self, which: Which, power: Power) {
        match which {
            Which::Source => self.source.power = power,
            Which::Server => self.server.power = power,
        }
    }

    /// A process did not start: it is started again later, as a service manager does.
    fn not_started(&mut self, disk: &ProcessDisk, which: Which, error: &str) {
        let is_dead = disk.sim().is_dead();
        if !is_dead && !self.is_stormy {
            self.model.fail(format!("{which:?} does not start: {error}"));
        }
        let now = Instant::now();
        let (image, power) = match which {
            Which::Source => (&mut self.source.image, self.source.power),
            Which::Server => (&mut self.server.image, self.server.power),
        };
        *image = disk.sim().crash(if is_dead { power } else { Power::Kept });
        let restart_at = now + Duration::from_secs(2);
        match which {
            Which::Source => self.source.restart_at = restart_at,
            Which::Server => self.server.restart_at = restart_at,
        }
    }
}
