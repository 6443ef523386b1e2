#!/usr/bin/env python3
"""Runs Archivist and comparable programs on the same work, in the same run.

A cell is one system on one data set: a first backup, changes, and a restore that is
compared with the source by path and SHA-256. README.md in this directory explains
what is measured and how to read the results."""

import argparse
import fcntl
import importlib.util
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback

sys.dont_write_bytecode = True

import data  # noqa: E402
from archivist import Archivist, ArchivistAtOnce, ArchivistBefore  # noqa: E402
from link import Link  # noqa: E402
from meter import Meter, free_port  # noqa: E402
from systems import PEERS, Missing  # noqa: E402

OWN = (Archivist, ArchivistAtOnce, ArchivistBefore)
SYSTEMS = {system.name: system for system in (*PEERS, *OWN)}
DEFAULT = "cp,rsync,rsync-snapshots,restic,borg,syncthing,archivist"
# Steps that only Archivist has.
BESIDES = ("restart A", "restore on B", "idle", "once idle")
# The link of case W.
LINK_BITS_PER_SEC, LINK_ROUND_TRIP = 100_000_000, 0.040
# Used cells are deleted at the end, or earlier if less than this is free: after a mass
# deletion, ext4 creates files ten times slower for minutes, which would slow down the
# next cell.
FREE_BYTES = 12 << 30
# Disk space of a cell in multiples of its set: the store, two restores, and some
# reserve.
CELL_SETS = 4


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def steps(name, scale, seed):
    """Returns the steps of a data set as (operation, change), in order."""
    no_change = ("no-op", None)
    edit = lambda count: lambda root: data.edit(root, count, seed)
    fraction = max(10, int(1000 * scale))
    return {
        "S": [
            no_change,
            ("10 edits", edit(10)),
            ("deletes", lambda root: data.delete(root, fraction, seed)),
        ],
        "L": [no_change, ("insertion", lambda root: data.insert(root, seed))],
        "M": [no_change, ("rename", lambda root: data.rename(root, scale, seed))],
        "K": [no_change, ("one edit", edit(1))],
    }[name]


class Bench:
    """One run of the harness: its directory, its ports and its meter."""

    def __init__(self, options):
        self.options = options
        self.ports = {}
        for system in SYSTEMS.values():
            for name in system.ports:
                self.ports.setdefault(name, free_port())
        self.meter = Meter(self.ports.values())
        self.results = []

    def discard(self, cell, free=FREE_BYTES):
        if os.path.exists(cell):
            trash = self.options.work + "/trash"
            os.makedirs(trash, exist_ok=True)
            os.rename(cell, f"{trash}/{time.time_ns()}")
            if shutil.disk_usage(trash).free < free:
                log("removing old cells: the disk is nearly full; later times will be worse")
                shutil.rmtree(trash, ignore_errors=True)

    def cell(self, name, set_name, link=None):
        """Prepares a system in its own directory."""
        cell = self.options.work + "/cell"
        source, info = data.make_set(
            self.options.work, set_name, self.options.scales[set_name], self.options.seed
        )
        self.discard(cell, max(FREE_BYTES, CELL_SETS * info["bytes"]))
        os.makedirs(cell)
        links = {}
        if link is not None:
            links = {port: free_port() for port in SYSTEMS[name].ports}
        system = SYSTEMS[name](self.options, self.meter, cell, source, self.ports, links)
        return system, source, info

    def record(self, result):
        result["load"] = os.getloadavg()[0]
        self.results.append(result)
        with open(self.options.out + ".new", "w") as file:
            json.dump(self.results, file, indent=1)
        os.replace(self.options.out + ".new", self.options.out)

    def check(self, system, source, result, operation=lambda _, function: function()):
        """Restores, and compares the result with the source."""
        root = system.store + "/tree"
        if system.restores:
            target, found = system.cell + "/restored", {}
            os.makedirs(target)
            system.before_restore()
            operation("restore", lambda: found.update(root=system.restore(target)))
            root = found["root"]
        if system.name == "cp":
            return
        wanted, got = (data.describe(path, system.ignore) for path in (source, root))
        result["compared"] = data.compare(wanted, got)
        if not result["compared"]["identical"]:
            raise RuntimeError(f"the restore differs: {result['compared']}")

    def work(self, name, set_name, run):
        """Runs first backup, changes and restore of one system on one set."""
        system, source, info = self.cell(name, set_name)
        result = {"system": name, "set": set_name, "run": run, **info, "operations": {}}
        result["scale"] = self.options.scales[set_name]
        done = []

        def operation(label, function):
            cost = self.meter.measure(function)
            cost["stored"] = system.stored()
            result["operations"][label] = cost
            wire = "?" if cost["wire"] is None else f"{cost['wire'] / 1e6:.2f} MB"
            log(
                f"  {name:15} {set_name} {label:13} {cost['durable']:8.2f} s"
                f"  CPU {cost['cpu_a']:.2f} + {cost['cpu_b']:.2f} s"
                f"  RSS {cost['rss_a'] / 1e6:.0f} + {cost['rss_b'] / 1e6:.0f} MB  wire {wire}"
            )

        try:
            system.prepare()
            if set_name == "K" and isinstance(system, Archivist):
                operation("scan", system.scan_alone())
                operation("pull", system.pull_alone)
            else:
                operation("first", system.first)
            for label, change in steps(set_name, result["scale"], self.options.seed):
                changed = ()
                if change is not None:
                    system.before_change()
                    done.append(change(source))
                    changed = done[-1].paths
                    if name == "cp":
                        continue
                operation(label, lambda: system.backup(changed))
            for label, function in system.more(set_name):
                if label not in self.options.without:
                    operation(label, function)
            self.check(system, source, result, operation)
            for label, function in system.at_last(set_name):
                if label not in self.options.without:
                    operation(label, function)
        except Exception as error:  # a failing system does not end the run
            result["error"] = f"{error}"[:500]
            log(f"  {name}: {error}\n{traceback.format_exc()}\n{system.tail()}")
        finally:
            system.close()
            for change in reversed(done):
                change.undo()
            for marker in [entry for entry in os.listdir(source) if system.ignore(entry)]:
                shutil.rmtree(f"{source}/{marker}", ignore_errors=True)
            self.record(result)

    def latency(self, name):
        """Measures the time from the close of a saved file until it is safe on B."""
        saves_in = self.options.saves_in
        system, source, info = self.cell(name, saves_in)
        result = {"system": name, "set": "latency", **info}
        result["scale"] = self.options.scales[saves_in]
        rng = random.Random(self.options.seed)
        paths = [os.path.relpath(path, source) for path in data.texts(source)]
        times, before = [], {}

        def save():
            for _ in range(self.options.saves):
                time.sleep(rng.uniform(0.2, 1.0))
                path, content = rng.choice(paths), data.text(rng, rng.randint(2000, 16000))
                full = f"{source}/{path}"
                if path not in before:
                    with open(full, "rb") as file:
                        before[path] = file.read(), os.stat(full).st_mtime_ns
                with open(full, "wb") as file:
                    file.write(content)
                started = time.monotonic()
                system.saved(path, content)
                times.append(time.monotonic() - started)

        try:
            system.prepare()
            system.watching()
            time.sleep(3)
            result["cost"] = self.meter.measure(save)
            result["seconds"] = times
            self.check(system, source, result)
            log(f"  {name}: median {statistics.median(times):.3f} s, worst {max(times):.3f} s")
        except Exception as error:
            result["error"] = f"{error}"[:500]
            log(f"  {name}: {error}\n{traceback.format_exc()}\n{system.tail()}")
        finally:
            system.close()
            for path, (content, modified) in before.items():
                data.put(f"{source}/{path}", content, modified)
            for marker in [entry for entry in os.listdir(source) if system.ignore(entry)]:
                shutil.rmtree(f"{source}/{marker}", ignore_errors=True)
            self.record(result)

    def over_link(self, name):
        """Case W: the first backup of M over a slow link, then scattered writes in its
        longest files. For archivist also the first backup with B killed in the middle."""
        if missing := Link.why_not():
            log(f"  {name}: skipped: {missing}")
            return
        kinds = ["first", "resume"] if issubclass(SYSTEMS[name], Archivist) else ["first"]
        whole = None
        for kind in kinds:
            system, source, info = self.cell(name, "M", link=True)
            result = {"system": name, "set": "W", **info, "scale": self.options.scales["M"]}
            routes = [(there, self.ports[port]) for port, there in system._links.items()]
            link = Link(routes, LINK_BITS_PER_SEC, LINK_ROUND_TRIP)
            result["operations"], done = {}, None

            def operation(label, work):
                before = link.bytes()
                cost = self.meter.measure(work)
                cost["wire"] = link.bytes() - before
                cost["stored"] = system.stored()
                result["operations"][label] = cost
                log(f"  {name} W {label}: {cost['wall']:.1f} s, {cost['wire'] / 1e6:.1f} MB")

            try:
                system.prepare()
                if kind == "resume":
                    operation(kind, lambda: system.killed(whole / 2))
                else:
                    operation(kind, system.first)
                    whole = result["operations"][kind]["wall"]
                    system.before_change()
                    done = data.scatter(source, result["scale"], self.options.seed)
                    operation("writes", lambda: system.backup(done.paths))
                self.check(system, source, result)
            except Exception as error:
                result["error"] = f"{error}"[:500]
                log(f"  {name}: {error}\n{traceback.format_exc()}\n{system.tail()}")
            finally:
                system.close()
                link.close()
                if done is not None:
                    done.undo()
                self.record(result)


# ------------------------------------------------------------------ report


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def shown(value, unit=1.0, digits=2):
    return "–" if value is None else f"{value / unit:.{digits}f}"


def tables(results):
    """Formats the results as Markdown: a table for each set and operation."""
    out = []
    cells = [result for result in results if result["set"] != "latency"]
    for key in dict.fromkeys((cell["set"], cell["scale"]) for cell in cells):
        chosen = [cell for cell in cells if (cell["set"], cell["scale"]) == key]
        first = chosen[0]
        megabytes = first["bytes"] / 1e6
        out.append(f"\n## {key[0]}, scale {key[1]:g}: {first['files']} files, {megabytes:.0f} MB\n")
        floor = median(
            cell["operations"]["first"]["durable"]
            for cell in chosen
            if cell["system"] == "cp" and "first" in cell.get("operations", {})
        )
        labels = [label for cell in chosen for label in cell.get("operations", {})]
        for label in dict.fromkeys(labels):
            out.append(f"\n### {key[0]}: {label}\n")
            out.append(
                "| system | runs | s, then synced (least–most) | × cp | CPU A, s | CPU B, s |"
                " RSS A, MB | RSS B, MB | wire, MB | on B, MB |\n"
                "|---|---|---|---|---|---|---|---|---|---|"
            )
            for name in dict.fromkeys(cell["system"] for cell in chosen):
                costs = [
                    cell["operations"][label]
                    for cell in chosen
                    if cell["system"] == name and label in cell.get("operations", {})
                ]
                if not costs:
                    continue
                of = lambda field: median(cost[field] for cost in costs)
                times = [cost["durable"] for cost in costs]
                ratio = None if floor is None else of("durable") / floor
                out.append(
                    f"| {name} | {len(costs)} | {shown(of('durable'))}"
                    f" ({min(times):.2f}–{max(times):.2f}) | {shown(ratio)}"
                    f" | {shown(of('cpu_a'))} | {shown(of('cpu_b'))}"
                    f" | {shown(of('rss_a'), 1e6, 0)} | {shown(of('rss_b'), 1e6, 0)}"
                    f" | {shown(of('wire'), 1e6, 3)} | {shown(of('stored'), 1e6, 1)} |"
                )
        failed = [f"{cell['system']}: {cell['error']}" for cell in chosen if "error" in cell]
        compared = [cell for cell in chosen if "compared" in cell]
        same = sum(cell["compared"]["identical"] for cell in compared)
        out.append(f"\n{same} of {len(compared)} restores were identical.")
        for cell in compared:
            if cell["compared"]["metadata"]:
                number = cell["compared"]["metadata"]
                out.append(f"{cell['system']}: {number} entries with other metadata.")
        out.extend(f"Failed: {failure}" for failure in failed)
    saves = [result for result in results if result["set"] == "latency"]
    if saves:
        out.append("\n## From a save until it is safe\n")
        out.append(
            "| system | files | saves | median, s | 99 %, s | worst, s | CPU a save, s |\n"
            "|---|---|---|---|---|---|---|"
        )
    for result in saves:
        if "error" in result:
            out.append(f"| {result['system']} | failed: {result['error']} |||||")
            continue
        times = sorted(result["seconds"])
        late = times[min(len(times) - 1, int(len(times) * 0.99))]
        cpu = (result["cost"]["cpu_a"] + result["cost"]["cpu_b"]) / len(times)
        out.append(
            f"| {result['system']} | {result['files']} | {len(times)}"
            f" | {statistics.median(times):.3f} | {late:.3f} | {times[-1]:.3f} | {cpu:.3f} |"
        )
    return "\n".join(out) + "\n"


def machine():
    """Describes this machine in one line."""
    model = "?"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {memory:.0f} GiB, Linux {os.uname().release}"


# ------------------------------------------------------------------ arguments


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--systems", default=DEFAULT, help=f"comma-separated, of {','.join(SYSTEMS)}"
    )
    parser.add_argument("--sets", default="S,L,M", help="of S, L, M, K, latency, W (with commas)")
    parser.add_argument("--scale", type=float, default=0.1, help="1 is the full size [0.1]")
    for name in data.SETS:
        parser.add_argument(f"--scale-{name.lower()}", type=float, help=data.SETS[name])
    parser.add_argument("--runs", type=int, default=1, help="runs of each cell, interleaved [1]")
    parser.add_argument(
        "--without", action="append", default=[], choices=BESIDES,
        help="skip a step that only Archivist has",
    )
    parser.add_argument("--saves", type=int, default=20, help="saves of the set latency [20]")
    parser.add_argument("--saves-in", default="S", choices="SK", help="set for these saves [S]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help="directory on the disk to measure")
    parser.add_argument("--keep", action="store_true", help="keep the data sets for another run")
    parser.add_argument("--out", help="file for the results, as JSON")
    parser.add_argument("--opt", help="directory of systems outside the path: NAME/usr/bin/NAME")
    parser.add_argument("--archivist", help="path of the program, if it is not in the path")
    parser.add_argument("--before", help="program of archivist-before, to compare two versions")
    parser.add_argument("--plugin", action="append", default=[], help="FILE with SYSTEMS = {…}")
    parser.add_argument("--smoke", action="store_true", help="check with tiny sets that all works")
    parser.add_argument("--report", metavar="FILE", help="only print the results in FILE")
    options = parser.parse_args()
    for plugin in options.plugin:
        spec = importlib.util.spec_from_file_location("plugin", plugin)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        SYSTEMS.update(module.SYSTEMS)
    if options.smoke:
        options.systems, options.sets = "cp,archivist,archivist-0", "S,L,M,K,latency"
        options.scale, options.saves = 0.002, 5
    options.scales = {
        name: getattr(options, f"scale_{name.lower()}") or options.scale for name in data.SETS
    }
    return options


def available(names, options):
    """Returns the systems that are installed, and logs why the others are skipped."""
    found = []
    for name in names:
        if name not in SYSTEMS:
            sys.exit(f"unknown system {name}; known: {', '.join(SYSTEMS)}")
        try:
            SYSTEMS[name].find(options)
            log(f"{name}: {SYSTEMS[name].version(options)}; {SYSTEMS[name].note}")
            found.append(name)
        except Missing as missing:
            log(f"{name}: skipped: {missing}")
    return found


def main():
    options = parse()
    if options.report:
        with open(options.report) as file:
            print(tables(json.load(file)))
        return 0
    remove = options.work is None
    options.work = os.path.abspath(options.work or f"/var/tmp/archivist-bench-{os.getpid()}")
    options.out = os.path.abspath(options.out or options.work + "/results.json")
    os.makedirs(options.work + "/data", exist_ok=True)
    # ext4 spreads the directories below this one over the disk, so that the cells do
    # not slow each other down. Other file systems ignore it.
    subprocess.run(["chattr", "+T", options.work], capture_output=True, check=False)
    lock = open(options.work + "/lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    log(machine())
    names = available(options.systems.split(","), options)
    sets = options.sets.split(",")
    bench = Bench(options)
    if bench.meter.wire.table is None:
        log("bytes on the wire are not counted: that needs root and `nft`")
    try:
        for run in range(options.runs):
            for set_name in sets:
                if set_name in ("latency", "W"):
                    continue
                for name in names:
                    if set_name in SYSTEMS[name].sets:
                        bench.work(name, set_name, run)
        for name in names:
            if "latency" in sets and hasattr(SYSTEMS[name], "saved"):
                bench.latency(name)
            if "W" in sets and SYSTEMS[name].ports:
                bench.over_link(name)
    finally:
        bench.meter.close()
        bench.discard(options.work + "/cell")
        shutil.rmtree(options.work + "/trash", ignore_errors=True)
        if not options.keep:
            shutil.rmtree(options.work + "/data", ignore_errors=True)
    print(machine())
    print(tables(bench.results))
    if remove:
        shutil.rmtree(options.work, ignore_errors=True)
    return 1 if any("error" in result for result in bench.results) else 0


if __name__ == "__main__":
    sys.exit(main())
