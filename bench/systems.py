"""The compared systems: one class for each, with the settings that its manual
recommends for the job. A plug-in is a class like these."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

from link import SOURCE
from meter import free_port

START_SECS = 30
# Seconds after which a cell fails.
WORK_SECS = 3600


class Missing(Exception):
    """The program is not installed."""


def on_disk(path):
    """Returns the disk space of a directory in bytes."""
    listed = subprocess.run(["du", "-s", "-B1", path], capture_output=True, text=True)
    return int(listed.stdout.split()[0]) if listed.stdout else 0


def wait_for_port(port):
    until = time.monotonic() + START_SECS
    while True:
        try:
            # The same as the link does: the firewall blocks every other address.
            socket.create_connection(("127.0.0.1", port), 1, (SOURCE, 0)).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


class System:
    """One system in one cell, with its own directory that contains `A` and `B`.

    `ports` are the names of the ports that carry data. `self.port(name)` is the port to
    listen on; `self.via(name)` is the port that the other side connects to: the same
    one, or the near end of a slow link."""

    name = "?"
    program = "?"
    note = ""
    sets = "SLMK"
    # If false, the system keeps a plain tree on B, which is compared in place.
    restores = True
    ports = ()

    def __init__(self, options, meter, cell, source, ports, links):
        self.options, self.meter, self.cell, self.source = options, meter, cell, source
        self._ports, self._links = ports, links
        self.store, self.state = cell + "/B", cell + "/A"
        os.makedirs(self.store)
        os.makedirs(self.state)
        os.makedirs(cell + "/home")
        self.log = open(f"{cell}/log", "ab")
        self.count = 0

    @classmethod
    def find(cls, options):
        """Returns the program: from an unpacked package below `--opt DIR/NAME/`, else from
        the path. Raises `Missing`."""
        name = os.path.basename(cls.program)
        for below in ("usr/bin", "bin", ""):
            path = os.path.join(options.opt, name, below, name) if options.opt else ""
            if path and os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        path = shutil.which(cls.program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if path is None:
            raise Missing(f"`{name}` is not installed")
        return path

    @classmethod
    def version(cls, options):
        for argument in ("--version", "version"):
            done = subprocess.run([cls.find(options), argument], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout:
                return done.stdout.splitlines()[0].strip()
        return "?"

    def port(self, name):
        return self._ports[name]

    def via(self, name):
        return self._links.get(name, self._ports[name])

    def spawn(self, side, command, env=None, cwd=None):
        environment = {"HOME": self.cell + "/home", **(env or {})}
        return self.meter.spawn(side, command, self.log, environment, cwd)

    def run(self, side, command, env=None, cwd=None):
        code = self.meter.wait(side, self.spawn(side, command, env, cwd))
        if code != 0:
            raise RuntimeError(f"{self.name}: exit code {code} of {' '.join(command)[:200]}")

    def tail(self):
        """Returns the end of the programs' output."""
        self.log.flush()
        with open(self.log.name, "rb") as file:
            return file.read()[-2000:].decode(errors="replace")

    # Operations of a system:

    def prepare(self):
        """Prepares everything before the clock starts: daemons, an empty repository."""

    def first(self):
        self.backup(())

    def backup(self, changed):
        """Backs up. When this returns, the current state is on B. `changed` are paths."""
        raise NotImplementedError

    def restore(self, target):
        """Restores to A over the network. Returns the root of the restored tree."""
        raise NotImplementedError

    def before_change(self):
        """Is called before the source changes."""

    def before_restore(self):
        """Is called before a restore, before the clock starts."""

    def more(self, set_name):
        """Returns operations that only this system has, as (name, function)."""
        return []

    def at_last(self, set_name):
        """Same as `more`, for operations after the restore."""
        return []

    def stored(self):
        return on_disk(self.store)

    def ignore(self, name):
        """Reports whether the system has added an entry of this name to the source."""
        return False

    def close(self):
        self.meter.stop_all()
        self.log.close()


class Copy(System):
    """The lower bound: a local copy of the same data on this machine."""

    name, program = "cp", "cp"
    note = "cp -a and sync, locally; the no-op is `find`, which stats every file"

    def first(self):
        self.run("A", ["cp", "-a", self.source + "/.", self.store + "/tree"])

    def backup(self, changed):
        # The walk is the lower bound for finding changes.
        find = 'exec find "$1" -printf "%s %T@ %C@ %i %p\\n" > /dev/null'
        self.run("A", ["sh", "-c", find, "find", self.source])

    def restore(self, target):
        self.run("A", ["cp", "-a", self.store + "/tree/.", target + "/tree"])
        return target + "/tree"


class Rsync(System):
    """rsync: B pulls from a daemon on A. A mirror without versions or encryption."""

    name, program = "rsync", "rsync"
    note = "daemon on A, `rsync -a --delete` pulls on B; no versions, no encryption, no fsync"
    ports = ("rsync",)

    def prepare(self):
        back = self.cell + "/back"
        os.makedirs(back)
        config = self.state + "/rsyncd.conf"
        owner = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
        with open(config, "w") as file:
            file.write(
                f"address = 127.0.0.1\nport = {self.port('rsync')}\nuse chroot = no\n{owner}"
                f"log file = {self.state}/log\n[source]\npath = {self.source}\nread only = yes\n"
                f"[back]\npath = {back}\nread only = no\n"
            )
        daemon = [self.find(self.options), "--daemon", "--no-detach", "--config=" + config]
        self.spawn("A", daemon)
        wait_for_port(self.port("rsync"))
        self.url = f"rsync://127.0.0.1:{self.via('rsync')}"

    def backup(self, changed):
        program = self.find(self.options)
        self.run("B", [program, "-a", "--delete", self.url + "/source/", self.store + "/tree/"])

    def restore(self, target):
        self.run("B", [self.find(self.options), "-a", self.store + "/tree/", self.url + "/back/"])
        return self.cell + "/back"


class RsyncSnapshots(Rsync):
    """rsync with a hard-linked tree for each backup, as rsnapshot uses it."""

    name = "rsync-snapshots"
    note = "as rsync, with --link-dest and a tree for each backup"

    def backup(self, changed):
        before = [f"--link-dest=../{self.count - 1}"] if self.count else []
        command = [self.find(self.options), "-a", "--delete", *before]
        self.run("B", [*command, self.url + "/source/", f"{self.store}/{self.count}/"])
        self.count += 1

    def restore(self, target):
        newest = f"{self.store}/{self.count - 1}/"
        self.run("B", [self.find(self.options), "-a", newest, self.url + "/back/"])
        return self.cell + "/back"


class Restic(System):
    """restic: pushes to `rclone serve restic` on B, over plain HTTP."""

    name, program = "restic", "restic"
    note = "pushes to `rclone serve restic` over plain HTTP; encrypts; defaults"
    ports = ("rest",)

    @classmethod
    def find(cls, options):
        Rclone.find(options)
        return super().find(options)

    def prepare(self):
        address = f"127.0.0.1:{self.port('rest')}"
        rclone = [Rclone.find(self.options), "serve", "restic", "--config", "/dev/null"]
        self.spawn("B", [*rclone, "--addr", address, self.store])
        wait_for_port(self.port("rest"))
        self.env = {
            "RESTIC_REPOSITORY": f"rest:http://127.0.0.1:{self.via('rest')}/",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": self.state + "/cache",
        }
        self.run("A", [self.find(self.options), "init"], self.env)

    def backup(self, changed):
        self.run("A", [self.find(self.options), "backup", "--quiet", "."], self.env, self.source)

    def restore(self, target):
        command = [self.find(self.options), "restore", "--quiet", "latest", "--target", target]
        self.run("A", command, self.env)
        # Older versions keep the full path of the source.
        below = target + self.source
        return below if os.path.isdir(below) else target


class Rclone(System):
    """rclone: mirrors over WebDAV. Old versions go to a separate directory."""

    name, program = "rclone", "rclone"
    note = "sync to `rclone serve webdav` on B with --backup-dir; no encryption"
    ports = ("webdav",)

    def prepare(self):
        os.makedirs(self.store + "/tree")
        address = f"127.0.0.1:{self.port('webdav')}"
        serve = [self.find(self.options), "serve", "webdav", "--config", "/dev/null"]
        self.spawn("B", [*serve, "--addr", address, self.store])
        wait_for_port(self.port("webdav"))
        self.remote = f':webdav,url="http://127.0.0.1:{self.via("webdav")}",vendor=rclone:'

    def sync(self, side, *arguments):
        sync = [self.find(self.options), "sync", "--config", "/dev/null"]
        self.run(side, [*sync, "--create-empty-src-dirs", *arguments])

    def backup(self, changed):
        self.count += 1
        old = f"{self.remote}old{self.count}"
        self.sync("A", "--backup-dir", old, self.source, self.remote + "tree")

    def restore(self, target):
        self.sync("A", self.remote + "tree", target + "/tree")
        return target + "/tree"


class Borg(System):
    """borg: pushes to `borg serve` on B, over a pipe instead of ssh."""

    name, program = "borg", "borg"
    note = "pushes to `borg serve` over a pipe (no ssh, so no wire counted); encrypts; lz4"

    def prepare(self):
        program = self.find(self.options)
        # Replaces ssh: the arguments after the host are the command for the other side.
        remote = self.cell + "/remote"
        with open(remote, "w") as file:
            file.write('#!/bin/sh\nwhile [ "$1" != localhost ]; do shift; done\nshift\nexec "$@"\n')
        os.chmod(remote, 0o755)
        self.env = {
            "BORG_RSH": remote,
            "BORG_PASSPHRASE": "bench",
            "BORG_BASE_DIR": self.state,
            "BORG_REPO": f"ssh://localhost{self.store}/repository",
            "BORG_REMOTE_PATH": program,
        }
        self.run("A", [program, "init", "-e", "repokey"], self.env)

    def backup(self, changed):
        self.count += 1
        create = [self.find(self.options), "create", f"::{self.count}", "."]
        self.run("A", create, self.env, self.source)

    def restore(self, target):
        extract = [self.find(self.options), "extract", f"::{self.count}"]
        self.run("A", extract, self.env, target)
        return target


class Syncthing(System):
    """Syncthing: two instances. B only receives, and keeps five versions."""

    name, program = "syncthing", "syncthing"
    note = "TLS; B receive-only, 5 versions; watcher off for batches, which a rescan starts"
    ports = ("device_a", "device_b")
    restores = False
    # Delay of the watcher in seconds, or None if it is off.
    watch = None

    def prepare(self):
        self.ids, self.gui = {}, {"A": free_port(), "B": free_port()}
        settings = {
            "globalAnnounceEnabled": "false",
            "localAnnounceEnabled": "false",
            "relaysEnabled": "false",
            "natEnabled": "false",
            "urAccepted": "-1",
            "crashReportingEnabled": "false",
            "autoUpgradeIntervalH": "0",
            "startBrowser": "false",
            "reconnectionIntervalS": "1",
        }
        program = self.find(self.options)
        for side in "AB":
            home = f"{self.cell}/syncthing-{side}"
            self.run(side, [program, "generate", "--no-default-folder", "--home=" + home])
            with open(home + "/config.xml") as file:
                config = file.read()
            address = f"127.0.0.1:{self.gui[side]}"
            pattern = r"(<gui[^>]*>.*?<address>)[^<]*"
            config = re.sub(pattern, rf"\g<1>{address}", config, flags=re.S)
            config = re.sub("<apikey>[^<]*", "<apikey>bench", config)
            listen = f"tcp://127.0.0.1:{self.port('device_' + side.lower())}"
            config = re.sub("<listenAddress>[^<]*", "<listenAddress>" + listen, config)
            for key, value in settings.items():
                config = re.sub(rf"<{key}>[^<]*</{key}>", f"<{key}>{value}</{key}>", config)
            with open(home + "/config.xml", "w") as file:
                file.write(config)
            command = [program, "--home=" + home, "--no-browser", "--no-restart"]
            self.spawn(side, command, {"STNOUPGRADE": "1"})
        for side in "AB":
            wait_for_port(self.gui[side])
            self.ids[side] = self.until(lambda: self.api(side, "system/status")["myID"])
        for side, other in (("A", "B"), ("B", "A")):
            address = f"tcp://127.0.0.1:{self.via('device_' + other.lower())}"
            device = {"deviceID": self.ids[other], "name": other, "addresses": [address]}
            self.api(side, "config/devices", device)
        for side, other in (("A", "B"), ("B", "A")):
            self.until(lambda: self.connected(side, other))
        os.makedirs(self.store + "/tree")
        versions = {"type": "simple", "params": {"keep": "5"}}
        more = {"type": "receiveonly", "versioning": versions}
        self.api("B", "config/folders", self.folder(self.store + "/tree", **more))

    def connected(self, side, other):
        connections = self.api(side, "system/connections")["connections"]
        return connections.get(self.ids[other], {}).get("connected")

    def until(self, holds):
        until = time.monotonic() + START_SECS
        while time.monotonic() < until:
            try:
                if found := holds():
                    return found
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.05)
        raise RuntimeError("syncthing did not come up")

    def api(self, side, path, data=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gui[side]}/rest/{path}",
            data=None if data is None else json.dumps(data).encode(),
            headers={"X-API-Key": "bench", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=900) as answer:
            content = answer.read()
        return json.loads(content) if content.strip() else None

    def folder(self, path, **more):
        devices = [{"deviceID": self.ids[side]} for side in "AB"]
        watch = {"fsWatcherEnabled": self.watch is not None, "fsWatcherDelayS": self.watch or 10}
        return {"id": "bench", "path": path, "devices": devices, **watch, **more}

    def first(self):
        self.api("A", "config/folders", self.folder(self.source, type="sendonly"))
        time.sleep(0.2)
        busy = ("scanning", "scan-waiting", "unknown", "")
        while self.api("A", "db/status?folder=bench")["state"] in busy:
            time.sleep(0.05)
        self.wait(())

    def wait(self, changed):
        until, pause = time.monotonic() + WORK_SECS, 0.02
        here = self.api("A", "db/status?folder=bench")
        same = ("localFiles", "localBytes", "localDirectories")
        while time.monotonic() < until:
            there = self.api("B", "db/status?folder=bench")
            complete = there["state"] == "idle" and there["needTotalItems"] == 0
            complete = complete and there["globalFiles"] == here["localFiles"]
            if complete and all(here[key] == there[key] for key in same):
                if all(self.is_there(path) for path in changed):
                    return
            time.sleep(pause)
            pause = min(0.2, pause * 1.2)
        raise RuntimeError("syncthing: B is not in sync")

    def is_there(self, path):
        """Reports whether a changed file has the same length and time (in seconds) on both
        sides, or is deleted on both."""
        found = []
        for root in (self.source, self.store + "/tree"):
            try:
                status = os.stat(f"{root}/{path}")
                found.append((status.st_size, status.st_mtime_ns // 10**9))
            except FileNotFoundError:
                found.append(None)
        return found[0] == found[1]

    def backup(self, changed):
        self.api("A", "db/scan?folder=bench", {})
        self.wait(changed)

    def ignore(self, name):
        return name.startswith((".stfolder", ".stversions", ".syncthing", ".stignore"))

    # Methods for the time from a save until it is there:

    def watching(self):
        version = self.api("A", "system/version")["version"].removeprefix("v").split(".")
        # Older versions accept only whole seconds.
        self.watch = 0.1 if (int(version[0]), int(version[1])) >= (1, 28) else 1
        self.first()

    def saved(self, path, content):
        """Waits until B's tree contains the save: Syncthing gives no further proof."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with open(f"{self.store}/tree/{path}", "rb") as file:
                    if file.read() == content:
                        return
            except FileNotFoundError:
                pass
            time.sleep(0.002)
        raise RuntimeError("syncthing: a save did not arrive")


PEERS = (Copy, Rsync, RsyncSnapshots, Restic, Borg, Syncthing, Rclone)
