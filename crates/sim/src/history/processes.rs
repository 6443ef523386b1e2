//! The two processes of a history: their ends and their starts.

use std::time::Duration;

use ::disk::sim::{Fault, Power, SimDisk};
use rand::RngExt as _;
use tokio::time::Instant;

use super::{History, Side, Which, power};
use crate::disk::ProcessDisk;
use crate::log::Log;
use crate::server::Server;
use crate::source::Source;

impl History {
    /// Ends processes whose disk has died, and starts processes that are due.
    pub(super) async fn supervise(&mut self) {
        for at in 0..self.sides.len() {
            let process = self.sides[at].slot.process.as_ref();
            if process.is_some_and(|p| p.disk.sim().is_dead()) {
                self.end_source(at);
            }
        }
        if self.server.process.as_ref().is_some_and(|p| p.disk.sim().is_dead()) {
            self.end_server();
        }
        for at in 0..self.sides.len() {
            let slot = &self.sides[at].slot;
            if slot.process.is_none() && slot.restart_at <= Instant::now() {
                self.start_source(at);
            }
        }
        if self.server.process.is_none() && self.server.restart_at <= Instant::now() {
            self.start_server().await;
        }
    }

    pub(super) fn end_source(&mut self, at: usize) {
        let Side { slot, model, router, .. } = &mut self.sides[at];
        let Some(source) = slot.process.take() else { return };
        *router.lock() = None;
        let ends = format!("ends, {:?}, {}", slot.power, source.disk.trace());
        self.log.line(model.name, ends);
        if slot.power != Power::Kept {
            source.node.cut_power();
        }
        slot.image = source.disk.sim().crash(slot.power);
        let pause = self.rng.random_range(0..8000);
        slot.restart_at = Instant::now() + Duration::from_millis(pause);
    }

    pub(super) fn end_server(&mut self) {
        let Some(server) = self.server.process.take() else { return };
        self.sides.iter().for_each(|side| *side.setup.trigger.lock() = None);
        self.log.line("B", format_args!("ends, {:?}, {}", self.server.power, server.disk.trace()));
        if self.server.power != Power::Kept {
            server.node.cut_power();
        }
        self.server.image = server.disk.sim().crash(self.server.power);
        let pause = self.rng.random_range(0..8000);
        self.server.restart_at = Instant::now() + Duration::from_millis(pause);
    }

    fn start_source(&mut self, at: usize) {
        let (side, which) = (&self.sides[at], Which::Source(at));
        let (net, own, server) = (self.net.clone(), side.model.source, side.setup.server);
        let (image, router) = (side.slot.image.clone(), side.router.clone());
        let disk_log = self.disk_log(["A disk", "A2 disk"][at]);
        let disk = ProcessDisk::new(image, disk_log, move || {
            *router.lock() = None;
            net.reset(own, server);
        });
        self.arm_start(which, &disk);
        match Source::start(&self.sides[at].setup, disk.clone()) {
            Ok(source) => {
                self.log.line(which.name(), "starts");
                *self.sides[at].router.lock() = Some(source.router());
                self.sides[at].slot.process = Some(source);
            }
            Err(error) => {
                self.log.line(which.name(), format_args!("does not start: {error}"));
                self.not_started(&disk, which, &error);
            }
        }
    }

    async fn start_server(&mut self) {
        let (net, (sources, own)) = (self.net.clone(), self.peers());
        let image = self.server.image.clone();
        let log = self.disk_log("B disk");
        let triggers: Vec<_> = self.sides.iter().map(|side| side.setup.trigger.clone()).collect();
        let disk = ProcessDisk::new(image, log, move || {
            triggers.iter().for_each(|trigger| *trigger.lock() = None);
            sources.iter().for_each(|source| net.reset(*source, own));
        });
        self.arm_start(Which::Server, &disk);
        match Server::start(&self.server_setup, disk.clone()).await {
            Ok(server) => {
                self.log.line("B", "starts");
                if !disk.sim().is_dead()
                    && !disk.fails_reads()
                    && let Err(error) = server.check(&self.server_setup)
                {
                    self.fail(format!("after the start of B: {error}"));
                }
                if !disk.sim().is_dead() {
                    for (number, side) in (1..).zip(&self.sides) {
                        *side.setup.trigger.lock() = Some(server.trigger(number));
                    }
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
            Which::Source(at) => &self.sides[at].slot.image,
            Which::Server => &self.server.image,
        }
    }

    pub(super) fn set_power(&mut self, which: Which, power: Power) {
        match which {
            Which::Source(at) => self.sides[at].slot.power = power,
            Which::Server => self.server.power = power,
        }
    }

    /// A process did not start: it is started again later, as a service manager does.
    fn not_started(&mut self, disk: &ProcessDisk, which: Which, error: &str) {
        let is_dead = disk.sim().is_dead();
        if !is_dead && !self.is_stormy {
            self.fail(format!("{which:?} does not start: {error}"));
        }
        let now = Instant::now();
        let (image, power) = match which {
            Which::Source(at) => {
                let slot = &mut self.sides[at].slot;
                (&mut slot.image, slot.power)
            }
            Which::Server => (&mut self.server.image, self.server.power),
        };
        *image = disk.sim().crash(if is_dead { power } else { Power::Kept });
        let restart_at = now + Duration::from_secs(2);
        match which {
            Which::Source(at) => self.sides[at].slot.restart_at = restart_at,
            Which::Server => self.server.restart_at = restart_at,
        }
    }
}
