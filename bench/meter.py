"""Measures the cost of work: time, CPU, memory, and bytes on the wire.

Side A has the folder, side B keeps the backup. Every process of a system is started
for one side. Its cost and that of all its children are added to that side."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
SAMPLE_SECS = 0.05
# Seconds that a process may take to end after SIGTERM.
END_SECS = 10


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def with_children(pid):
    """Returns the ids of a process and of all its descendants."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        try:
            # Any thread may have started them.
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    todo.extend(int(child) for child in file.read().split())
        except OSError:
            pass
    return found


def cpu_of(pid):
    """Returns the CPU seconds of a process and of its children that have ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICK


def memory_of(pid):
    """Returns the resident bytes: now, and the peak since the last reset."""
    now = most = 0
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    now = int(line.split()[1]) * 1024
                elif line.startswith("VmHWM:"):
                    most = int(line.split()[1]) * 1024
    except OSError:
        pass
    return now, most


class Wire:
    """Counts the bytes on loopback ports, including headers, with nftables rules. It
    needs root and `nft`. Without them the figure is unknown."""

    def __init__(self, ports):
        self.table = None
        if os.geteuid() != 0 or shutil.which("nft") is None:
            return
        table = f"archivist_bench_{os.getpid()}"
        # `accept` ends the chain, so a packet between two of the ports is counted once.
        rules = "".join(
            f"tcp dport {port} counter name wire accept\ntcp sport {port} counter name wire accept\n"
            for port in ports
        )
        text = (
            f"table inet {table} {{\ncounter wire {{}}\n"
            f"chain out {{ type filter hook output priority 0; policy accept;\n{rules}}}\n}}\n"
        )
        done = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True)
        if done.returncode == 0:
            self.table = table

    def bytes(self):
        if self.table is None:
            return None
        command = ["nft", "-j", "list", "counters", "table", "inet", self.table]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        counters = [item["counter"] for item in json.loads(listed)["nftables"] if "counter" in item]
        return sum(counter["bytes"] for counter in counters)

    def close(self):
        if self.table is not None:
            subprocess.run(["nft", "delete", "table", "inet", self.table], check=False)


class Sampler(threading.Thread):
    """Samples the peak memory of each side, summed over its processes."""

    def __init__(self, meter):
        super().__init__(daemon=True)
        self.meter, self.stopped = meter, threading.Event()
        self.most = {"A": 0, "B": 0}

    def look(self):
        for side in "AB":
            together = 0
            for pid in self.meter.pids(side):
                now, most = memory_of(pid)
                together += now
                self.most[side] = max(self.most[side], most)
            self.most[side] = max(self.most[side], together)

    def run(self):
        while not self.stopped.wait(SAMPLE_SECS):
            self.look()

    def end(self):
        self.stopped.set()
        self.join()
        self.look()
        return self.most


class Meter:
    """Starts processes for a side and measures their cost."""

    def __init__(self, ports):
        self.wire = Wire(ports)
        self.running = {"A": {}, "B": {}}
        self.ended_cpu = {"A": 0.0, "B": 0.0}
        self.lock = threading.Lock()

    def spawn(self, side, command, log, env=None, cwd=None, out=None):
        environment = {
            key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "TERM")
        }
        environment.update({"LC_ALL": "C.UTF-8", "TZ": "UTC"}, **(env or {}))
        log.write(f"$ {side} {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out or log,
            stderr=log,
            start_new_session=True,
        )
        with self.lock:
            self.running[side][process.pid] = process
        return process

    def wait(self, side, process):
        """Waits for a process. Returns its exit code and adds its cost to the side."""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        with self.lock:
            del self.running[side][process.pid]
            self.ended_cpu[side] += usage.ru_utime + usage.ru_stime
        return process.returncode

    def pids(self, side):
        with self.lock:
            roots = list(self.running[side])
        return [pid for root in roots for pid in with_children(root)]

    def cpu(self, side):
        return self.ended_cpu[side] + sum(cpu_of(pid) for pid in self.pids(side))

    def stop(self, side, process, first=signal.SIGTERM):
        """Ends a process. Kills it if it does not react to SIGTERM in time."""
        children = with_children(process.pid)
        for with_signal in (first, signal.SIGKILL):
            for pid in children:
                try:
                    os.kill(pid, with_signal)
                except ProcessLookupError:
                    pass
            until = time.monotonic() + END_SECS
            while time.monotonic() < until:
                # A zombie has ended. It is waited for below, with its cost.
                with open(f"/proc/{process.pid}/stat") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return self.wait(side, process)
                time.sleep(0.02)
        return self.wait(side, process)

    def stop_all(self):
        for side in "AB":
            for process in list(self.running[side].values()):
                try:
                    os.kill(process.pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
                self.stop(side, process)

    def measure(self, work):
        """Does the work, syncs all disks, and returns the cost."""
        for side in "AB":
            for pid in self.pids(side):
                try:
                    with open(f"/proc/{pid}/clear_refs", "w") as file:
                        file.write("5")
                except OSError:
                    pass
        os.sync()
        sampler = Sampler(self)
        wire, cpu = self.wire.bytes(), {side: self.cpu(side) for side in "AB"}
        sampler.start()
        started = time.monotonic()
        more = work() or {}
        wall = time.monotonic() - started
        cpu = {side: self.cpu(side) - cpu[side] for side in "AB"}
        started = time.monotonic()
        os.sync()
        synced = time.monotonic() - started
        most = sampler.end()
        result = {
            "wall": wall,
            "durable": wall + synced,
            "cpu_a": cpu["A"],
            "cpu_b": cpu["B"],
            "rss_a": most["A"],
            "rss_b": most["B"],
            "wire": None if wire is None else self.wire.bytes() - wire,
        }
        result.update(more)
        return result

    def close(self):
        self.stop_all()
        self.wire.close()
