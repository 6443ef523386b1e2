//! The random events of a history.

use std::io::ErrorKind;
use std::time::Duration;

use ::disk::sim::{EACCES, EIO, EMFILE, Fault, FaultRule};
use jiff::SignedDuration;
use net::sim::Route;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::{History, Which, power};
use crate::disk::ProcessDisk;
use crate::remote;

/// Length in bytes of a part of a file that cannot be read.
const SECTOR_LEN: u64 = 512;
/// Number of such parts at the beginning of a file, one of which cannot be read.
const SECTORS_MAX: u64 = 64;

impl History {
    /// One random event.
    pub(super) fn event(&mut self) {
        match self.rng.random_range(0..100) {
            0..45 => self.edit(),
            45..57 => self.crash(),
            57..67 => self.change_network(),
            67..70 => self.disk_error(),
            70..72 => self.read_error(),
            72..76 => self.change_capacity(),
            76..78 => self.poll(),
            78..80 => self.set_clock(),
            80..84 => self.restore(),
            84..87 => self.restore_remotely(),
            87..92 => self.change_reads(),
            _ => self.maintain(),
        }
    }

    fn edit(&mut self) {
        let at = self.any_source();
        for _ in 0..self.rng.random_range(1..4) {
            let (rng, side) = (&mut self.rng, &self.sides[at]);
            let edited = side.model.tree(|tree| tree.edit(rng));
            if let Some((what, dirs)) = edited.expect("the temporary directory is writable") {
                self.log.line("user", format_args!("{}: {what}", side.model.name));
                if let Some(source) = &side.slot.process {
                    dirs.iter().for_each(|dir| source.hint(dir));
                }
            }
        }
    }

    /// Ends a process: now, or at one of the next operations of its disk.
    fn crash(&mut self) {
        let which = self.any();
        let power = power(&mut self.rng);
        let Some(disk) = self.disk(which) else { return };
        self.set_power(which, power);
        if self.rng.random_bool(0.3) {
            match which {
                Which::Source(at) => self.end_source(at),
                Which::Server => self.end_server(),
            }
        } else {
            let after = self.rng.random_range(0..60);
            disk.set_fault(disk.operations() + after, Fault::Die);
            self.log.line(which.name(), format_args!("will die after {after} changes"));
        }
    }

    /// Lets the next reads of a disk fail: of any file, or of one kind of file.
    fn read_error(&mut self) {
        let which = self.any();
        let disk = match which {
            Which::Source(at) => self.sides[at].slot.process.as_ref().map(|p| p.disk.clone()),
            Which::Server => self.server.process.as_ref().map(|p| p.disk.clone()),
        };
        let Some(disk) = disk else { return };
        self.fail_reads(which, &disk);
    }

    /// Lets some of the next reads of a disk fail.
    pub(super) fn fail_reads(&mut self, which: Which, disk: &ProcessDisk) {
        let error = *[EIO, EACCES, EMFILE].choose(&mut self.rng).unwrap();
        let part = *["", ".pack", "/index/", "/roots/"].choose(&mut self.rng).unwrap();
        // Half of the time the first ones.
        let after = if self.rng.random() { 0 } else { self.rng.random_range(0..20) };
        let times = self.rng.random_range(1..8);
        let mut rule = FaultRule::reads(error).on(part).after(after).times(times);
        let mut place = String::new();
        if self.rng.random_bool(0.4) {
            // Only a part of each file: a read of the bytes before this part succeeds.
            let start = self.rng.random_range(0..SECTORS_MAX) * SECTOR_LEN;
            let bytes = start..start + self.rng.random_range(1..8) * SECTOR_LEN;
            place = format!(" from {} to {}", bytes.start, bytes.end);
            rule = rule.bytes(bytes);
        }
        disk.fail_reads(rule);
        let log = format!("{times} reads of {part:?}{place} fail with {error:?}, after {after}");
        self.log.line(which.name(), log);
    }

    fn disk_error(&mut self) {
        let which = self.any();
        let Some(disk) = self.disk(which) else { return };
        let after = self.rng.random_range(0..40);
        let kind = if self.rng.random() { ErrorKind::Other } else { ErrorKind::StorageFull };
        let fault = if self.rng.random_bool(0.8) {
            Fault::Fail(kind)
        } else {
            // Until the next restart.
            Fault::FailForever(kind)
        };
        disk.set_fault(disk.operations() + after, fault);
        self.log.line(which.name(), format_args!("{fault:?} after {after} changes"));
    }

    fn change_capacity(&mut self) {
        let which = self.any();
        let Some(disk) = self.disk(which) else { return };
        let room = self.rng.random_bool(0.6).then(|| self.rng.random_range(0..60_000));
        disk.set_capacity(room.map(|room| disk.used() + room));
        self.log.line(which.name(), format_args!("room on the disk: {room:?}"));
    }

    fn change_network(&mut self) {
        let at = self.any_source();
        let (sources, b) = self.peers();
        let a = sources[at];
        let rng = &mut self.rng;
        match rng.random_range(0..5) {
            0 => {
                self.net.reset(a, b);
                self.log.line("net", "connections are reset");
            }
            1..4 => {
                let is_cut = [rng.random_bool(0.4), rng.random_bool(0.4)];
                let delay_max = Duration::from_millis(rng.random_range(1..2000));
                let loss = f64::from(rng.random_range(0..30_u32)) / 100.0;
                let route = |is_cut| Route { delay_max, loss, is_cut };
                self.net.set_route(a, b, route(is_cut[0]));
                self.net.set_route(b, a, route(is_cut[1]));
                let log = format!("delay {delay_max:?}, loss {loss}, cut {is_cut:?}");
                self.log.line("net", log);
            }
            _ => self.heal_network(),
        }
    }

    pub(super) fn heal_network(&mut self) {
        let (sources, b) = self.peers();
        for a in sources {
            self.net.set_route(a, b, Route::default());
            self.net.set_route(b, a, Route::default());
        }
        self.log.line("net", "heals");
    }

    fn poll(&mut self) {
        if let Some(server) = &self.server.process {
            server.poll();
        }
    }

    /// Sets the clock of the backup server to a wrong time, or to the right one. (The promise
    /// of the source about time is checked with its clock, which stays right.)
    fn set_clock(&mut self) {
        let seconds = *[0, -3600, 7200, 40 * 86400, -400 * 86400].choose(&mut self.rng).unwrap();
        self.server_setup.clock.set_offset(SignedDuration::from_secs(seconds));
        self.log.line("B", format_args!("the clock is {seconds} s ahead"));
    }

    /// Work of the backup server on its store.
    fn maintain(&mut self) {
        let Some(server) = &self.server.process else { return };
        match self.rng.random_range(0..4) {
            0 => server.collect(&self.server_setup, self.rng.random_range(0..=100)),
            1 => server.recompress(&self.server_setup),
            2 => server.prune(&self.server_setup, self.rng.random_range(1..4)),
            _ => {
                let full = self.rng.random();
                server.verify(&self.server_setup, full);
            }
        }
        self.check_power_cut();
    }

    /// Restores a random snapshot of the backup server.
    fn restore(&mut self) {
        let Some(server) = &self.server.process else { return };
        self.restores += 1;
        let target = self.base.join(format!("restored-{}", self.restores));
        let which = self.rng.random();
        if let Err(error) = server.restore(&self.server_setup, &target, which) {
            self.fail(error);
        }
        let _ = std::fs::remove_dir_all(&target);
    }

    /// A source restores one of its snapshots through the network.
    fn restore_remotely(&mut self) {
        let at = self.any_source();
        let Some(source) = &self.sides[at].slot.process else { return };
        self.restores += 1;
        let target = self.base.join(format!("restored-{}", self.restores));
        let which: usize = self.rng.random_range(0..1000);
        let (net, server) = (source.node.handle(), self.sides[at].setup.server);
        let (model, log) = (self.sides[at].model.clone(), self.log.clone());
        let restoring = async move {
            let restored = async {
                let listed = remote::list(&net, server, &model).await?;
                let at = which.checked_rem(listed.len()).ok_or("the list is empty")?;
                remote::restore(&net, server, &model, &listed[at], &target).await?;
                Ok::<_, String>(listed[at].sequence)
            };
            match restored.await {
                Ok(sequence) => log.line(model.name, format_args!("restored {sequence} through B")),
                Err(error) => log.line(model.name, format_args!("did not restore: {error}")),
            }
            let _ = std::fs::remove_dir_all(&target);
        };
        source.keep(tokio::spawn(restoring).abort_handle());
    }

    /// Reads of the watched tree fail, or no longer.
    fn change_reads(&mut self) {
        let at = self.any_source();
        if self.rng.random_bool(0.4) {
            self.mend_reads(at);
            return;
        }
        let (rng, side) = (&mut self.rng, &self.sides[at]);
        let (what, dir) = side.model.tree(|tree| tree.fail_reads(rng));
        self.log.line(side.model.name, what);
        // The watcher reports changed permissions.
        if let Some(source) = &side.slot.process {
            source.hint(&dir);
        }
    }

    /// Ends the faults of the tree of a source.
    pub(super) fn mend_reads(&mut self, at: usize) {
        let side = &self.sides[at];
        let paths = side.model.tree(|tree| tree.mend_reads());
        if paths.is_empty() {
            return;
        }
        self.log.line(side.model.name, format_args!("{paths:?} can be read again"));
        if let Some(source) = &side.slot.process {
            source.hint("");
        }
    }
}
