"""Archivist itself: two real instances on free ports of loopback."""

import http.client
import json
import os
import shutil
import signal
import time

from meter import free_port, memory_of
from systems import START_SECS, Missing, System

FOLDER = "bench"
# Seconds after which a save is reported as lost.
SAVE_SECS = 60
# Seconds without work before the memory of an instance is measured as idle.
IDLE_SECS = 10


class Archivist(System):
    """A offers the folder and B pulls it. Done when A has B's receipt, which B
    signs after every block is verified and synced."""

    name, program = "archivist", "archivist"
    note = "two instances; done when A has the receipt of B: durable and verified"
    ports = ("listen_a", "listen_b", "manifests", "trigger")
    max_delay_ms = 2000

    @classmethod
    def find(cls, options):
        return options.archivist or super().find(options)

    def home(self, side):
        return self.state if side == "A" else self.store

    def command(self, side, *arguments):
        return [self.find(self.options), "--home", self.home(side), *arguments]

    def tell(self, side, *arguments):
        self.run(side, self.command(side, *arguments))

    def ask(self, side, path):
        """Returns the answer to `GET /api/v1…` of a running instance."""
        connection = http.client.HTTPConnection(self.api[side], timeout=60)
        try:
            connection.request("GET", "/api/v1" + path)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {content[:200]!r}")
            return json.loads(content)
        finally:
            connection.close()

    def prepare(self):
        self.api, self.daemon = {}, {}
        identities = {}
        for side in "AB":
            # Without a configuration, `init` would write one with the default ports.
            self.configure(side, "")
            self.tell(side, "init")
            identities[side] = self.identity(side)
        loopback = "/ip4/127.0.0.1/tcp/"
        self.configure(
            "A",
            f'[sync]\nbackup_peer_address = "{loopback}{self.via("listen_b")}/p2p/'
            f'{identities["B"]}"\nbackup_trigger_port = {self.via("trigger")}\n'
            f"manifest_max_delay_ms = {self.max_delay_ms}\n"
            f"[manifest_server]\nport = {self.port('manifests')}\n",
        )
        self.configure(
            "B",
            f"[backup_server]\nenabled = true\ntrigger_port = {self.port('trigger')}\n"
            f'[[backup_server.source_peers]]\nname = "A"\n'
            f'manifest_server_url = "http://127.0.0.1:{self.via("manifests")}"\n'
            f'peer_id = "{identities["A"]}"\n'
            f'addresses = ["{loopback}{self.via("listen_a")}"]\n',
        )
        for side in "AB":
            self.start(side)

    def configure(self, side, more):
        port = self.port("listen_" + side.lower())
        with open(self.home(side) + "/config.toml", "w") as file:
            file.write(
                f"[node]\nlisten_port = {port}\ndiscovery_port = 0\napi_port = 0\n"
                f'bind = ["127.0.0.1"]\nmdns = false\n{more}'
            )

    def identity(self, side):
        path = f"{self.cell}/identity-{side}"
        with open(path, "wb") as file:
            command = self.command(side, "init", "--json")
            code = self.meter.wait(side, self.meter.spawn(side, command, self.log, out=file))
        if code != 0:
            raise RuntimeError("archivist init failed")
        with open(path) as file:
            return json.load(file)["peer_id"]

    def start(self, side):
        running = self.home(side) + "/data/running.json"
        if os.path.exists(running):
            os.unlink(running)
        self.daemon[side] = self.spawn(side, self.command(side, "daemon"))
        until = time.monotonic() + START_SECS
        while time.monotonic() < until:
            try:
                with open(running) as file:
                    self.api[side] = json.load(file)["api"]
                    return
            except (OSError, ValueError):
                time.sleep(0.005)
        raise RuntimeError("archivist did not start:\n" + self.tail())

    def stop(self, side, with_signal=signal.SIGTERM):
        self.meter.stop(side, self.daemon[side], with_signal)

    def first(self):
        self.tell("A", "folder", "add", self.source, "--name", FOLDER)
        self.tell("A", "backup-now", FOLDER, "--wait")

    def before_change(self):
        # For A the whole change must happen at one moment. Work that A did while
        # the harness writes would be missing from the measured time.
        os.kill(self.daemon["A"].pid, signal.SIGSTOP)

    def backup(self, changed):
        os.kill(self.daemon["A"].pid, signal.SIGCONT)
        self.tell("A", "backup-now", FOLDER, "--wait")

    def before_restore(self):
        """Sets up a new A with the identity of the lost one, without the folder: with
        it, A would take the blocks from its own files."""
        self.stop("A")
        lost, self.state = self.state, self.cell + "/A-anew"
        os.makedirs(self.state + "/data")
        shutil.copy(lost + "/config.toml", self.state)
        shutil.copy(lost + "/data/identity.key", self.state + "/data")
        self.tell("A", "folder", "remove", FOLDER)
        self.start("A")

    def restore(self, target):
        self.tell("A", "restore", "--folder", FOLDER, "--target", target, "--from-backup-server")
        return target

    def restore_on_b(self):
        self.tell("B", "restore", "--folder", FOLDER, "--target", self.cell + "/local")

    def status(self):
        return self.ask("A", "/folders")[0]

    def is_backed_up(self, folder):
        sequence = folder["sequence"]
        quiet = folder["state"] == "idle" and folder["pending_changes"] == 0
        return quiet and sequence is not None and folder["backed_up_sequence"] == sequence

    def restart(self):
        """Restarts A and waits until it has scanned every file."""
        before = self.status()["last_scan"]
        self.stop("A")
        self.start("A")
        until = time.monotonic() + 600
        while time.monotonic() < until:
            folder = self.status()
            if folder["last_scan"] not in (None, before) and self.is_backed_up(folder):
                return
            time.sleep(0.02)
        raise RuntimeError("archivist: no scan after the restart")

    def idle(self):
        """Measures the cost and the memory of both sides while nothing changes."""
        time.sleep(IDLE_SECS)
        held = {side: memory_of(self.daemon[side].pid)[0] for side in "AB"}
        return {"idle_rss_a": held["A"], "idle_rss_b": held["B"]}

    def scan_alone(self):
        """A's part of a first backup: until the manifest is published."""
        self.stop("B")

        def work():
            self.tell("A", "folder", "add", self.source, "--name", FOLDER)
            self.tell("A", "sync", FOLDER)

        return work

    def pull_alone(self):
        """B's part of a first backup: B starts and pulls from A."""
        self.start("B")
        self.tell("A", "backup-now", FOLDER, "--wait")

    def killed(self, after):
        """Kills B in the middle of the first backup and starts it again."""
        self.tell("A", "folder", "add", self.source, "--name", FOLDER)
        time.sleep(after)
        self.stop("B", signal.SIGKILL)
        self.start("B")
        self.tell("A", "backup-now", FOLDER, "--wait")

    def more(self, set_name):
        found = [("restart A", self.restart), ("restore on B", self.restore_on_b)]
        return found + ([("idle", self.idle)] if set_name == "K" else [])

    def once_idle(self):
        """Does now the work that B does automatically while it is idle, and measures
        the size of its packs. `stored` includes the reserve file for the collection."""
        self.tell("B", "prune", "--recompress")
        with os.scandir(self.home("B") + "/data/store/packs") as found:
            return {"packs": sum(one.stat().st_size for one in found)}

    def at_last(self, set_name):
        return [("once idle", self.once_idle)] if set_name in "SLM" else []

    # Methods for the time from a save until it is safe:

    def watching(self):
        self.first()
        self.events = http.client.HTTPConnection(self.api["A"], timeout=SAVE_SECS)
        self.events.request("GET", "/api/v1/events", headers={"Accept": "text/event-stream"})
        self.stream = self.events.getresponse()
        self.sequence = self.status()["sequence"]

    def saved(self, path, content):
        """Waits until A has the receipt of a manifest that is newer than the save.
        Saves are made one by one, so the next manifest contains it."""
        until = time.monotonic() + SAVE_SECS
        while time.monotonic() < until:
            line = self.stream.readline().decode()
            if not line:
                raise RuntimeError("archivist: the events ended")
            if not line.startswith("data:"):
                continue
            found = json.loads(line[5:])
            if not isinstance(found, dict) or found.get("name") != FOLDER:
                continue
            if self.is_backed_up(found) and found["sequence"] > self.sequence:
                self.sequence = found["sequence"]
                return
        raise RuntimeError("archivist: a save was not confirmed")


class ArchivistAtOnce(Archivist):
    """Archivist with `manifest_max_delay_ms = 0`: publishes every save immediately."""

    name, max_delay_ms = "archivist-0", 0
    note = "as archivist, with manifest_max_delay_ms = 0"


class ArchivistBefore(Archivist):
    """Another build of Archivist, usually the version before a change: `--before PROGRAM`."""

    name = "archivist-before"
    note = "as archivist, with the program of --before"

    @classmethod
    def find(cls, options):
        if options.before is None:
            raise Missing("name its program with --before")
        return options.before
