import { describe, expect, it } from "vitest";

import { withFolder } from "../api/live";
import type { Folder, KeyInfo, Snapshot, Source, Status } from "../api/model";
import { lines, newestAt, trail } from "./choice";
import { byDay } from "./history";
import { fromText, inUnits, keysOf, label, parseSize, valueAt, wrong } from "./keys";
import { patterns } from "./patterns";
import { RateMeter } from "./rate";
import { standing, truth } from "./truth";

const FOLDER: Folder = {
  id: "f", name: "Documents", path: "/d", state: "idle", files: 3, dirs: 1, bytes: 10, pending_changes: 0,
  sequence: 5, backed_up_sequence: 5, backed_up_at: "2026-11-22T12:00:00Z", last_scan: "2026-11-22T12:04:31Z",
  watched_dirs: 1, dirs_to_watch: 1, errors: [], error_count: 0,
};
const SOURCE: Source = {
  name: "Desktop", peer_id: "p", manifest_server_url: "http://h:8085", state: "idle", errors: [], pulls: [],
  last_poll: "2026-11-22T12:04:31Z",
};
const STATUS: Status = {
  peer_id: "p", addresses: [], version: "0", data: "/", folders: [], sources: [], notices: [],
  storage: { blocks: 0, used_bytes: 0, available_bytes: 1 },
};
const told = (folders: Folder[], sources: Source[] = [], hasServer = true) =>
  truth({ ...STATUS, folders, sources }, hasServer);

describe("the truth", () => {
  it("says that all is safe only if all is", () => {
    const [safe] = told([FOLDER]);
    expect(safe).toMatchObject({ mood: "good", text: "is on the backup server." });
    expect(safe?.upTo?.toISOString()).toBe("2026-11-22T12:04:31.000Z");
    const older = { ...FOLDER, id: "g", last_scan: "2026-11-22T11:00:00Z", backed_up_at: "2026-11-22T11:30:00Z" };
    expect(told([FOLDER, older])[0]?.upTo?.toISOString()).toBe("2026-11-22T11:30:00.000Z");
  });
  it.each([
    [{ pending_changes: 2 }, "busy"],
    [{ sequence: 6 }, "busy"],
    [{ backed_up_sequence: null }, "busy"],
    [{ sequence: null, backed_up_sequence: null, backed_up_at: null }, "busy"],
    [{ state: "alarm", detail: "the folder is empty" }, "bad"],
    [{ state: "error", detail: "no such disk" }, "bad"],
    [{ error_count: 1 }, "bad"],
    [{ state: "paused" }, "none"],
  ] as const)("is not that all is safe where %o", (change, mood) => {
    const [one] = told([{ ...FOLDER, ...change }]);
    expect(one?.mood).toBe(mood);
  });
  it("never says good while one of several folders is not", () => {
    expect(told([FOLDER, { ...FOLDER, id: "g", sequence: 9 }])[0]?.mood).toBe("busy");
    expect(told([{ ...FOLDER, pending_changes: 1 }, { ...FOLDER, id: "g", state: "alarm" }])[0]?.mood).toBe("bad");
  });
  it("names the lack of a backup server, and the first steps", () => {
    expect(told([FOLDER], [], false)[0]).toMatchObject({ mood: "bad" });
    expect(told([])[0]).toMatchObject({ mood: "none", text: "Nothing is being backed up yet." });
  });
  it("speaks for the backup server too", () => {
    expect(told([], [SOURCE])[0]).toMatchObject({ mood: "good" });
    expect(told([], [{ ...SOURCE, state: "failed", errors: ["no route"] }])[0]).toMatchObject({ mood: "bad", next: "no route" });
    expect(told([], [{ ...SOURCE, state: "disabled" }])[0]).toMatchObject({ mood: "none" });
    expect(told([], [{ ...SOURCE, last_poll: null }])[0]).toMatchObject({ mood: "busy" });
    expect(told([FOLDER], [SOURCE])).toHaveLength(2);
  });
  it("is about each folder as well", () => {
    expect(standing(FOLDER).kind).toBe("safe");
    expect(standing({ ...FOLDER, last_scan: null })).toEqual({ kind: "safe", upTo: new Date("2026-11-22T12:00:00Z") });
  });
});

const snapshot = (id: string, sequence: number, at: string, more: Partial<Snapshot> = {}): Snapshot => ({
  id, sequence, source: "Desktop", source_peer_id: "p", folder_id: "f", folder_name: "Documents", files: 1,
  bytes: 100, created_at: at, received_at: at, manifest_cid: "c", ...more,
});

describe("snapshots", () => {
  it("are put in lines, the newest first", () => {
    const all = lines([
      snapshot("1", 1, "2026-11-20T10:00:00Z", { folder_name: "Old name" }),
      snapshot("2", 10, "2026-11-21T10:00:00Z"),
      snapshot("3", 2, "2026-11-20T11:00:00Z", { source_peer_id: "q", source: "Attic" }),
    ]);
    expect(all.map((line) => [line.source, line.folderName, line.snapshots.length])).toEqual([
      ["Attic", "Documents", 1],
      ["Desktop", "Documents", 2],
    ]);
    const line = all[1];
    if (!line) throw new Error("no line");
    expect(newestAt(line, new Date("2026-11-21T00:00:00Z"))?.id).toBe("1");
    expect(newestAt(line, new Date("2026-11-21T10:00:00Z"))?.id).toBe("2");
    expect(newestAt(line, new Date("2026-11-19T00:00:00Z"))).toBeUndefined();
  });
  it("are counted by day, and what is newest adds up", () => {
    const now = new Date("2026-11-22T12:00:00Z");
    const days = byDay(
      [
        snapshot("0", 1, "2026-10-01T10:00:00Z", { bytes: 70 }),
        snapshot("1", 2, "2026-11-21T10:00:00Z"),
        snapshot("2", 3, "2026-11-21T11:00:00Z", { bytes: 300 }),
        snapshot("3", 1, "2026-11-22T10:00:00Z", { folder_id: "g", bytes: 7 }),
      ],
      now,
      3,
    );
    expect(days).toEqual([
      { day: "2026-11-20", versions: 0, bytes: 70 },
      { day: "2026-11-21", versions: 2, bytes: 300 },
      { day: "2026-11-22", versions: 1, bytes: 307 },
    ]);
  });
  it("have paths with directories above them", () => {
    expect(trail("a/b c")).toEqual([{ name: "a", path: "a" }, { name: "b c", path: "a/b c" }]);
    expect(trail("")).toEqual([]);
  });
});

describe("the rate", () => {
  it("is that of the last seconds", () => {
    const meter = new RateMeter();
    expect(meter.perSecond()).toBeUndefined();
    meter.note(0, 0);
    meter.note(1000, 1000);
    expect(meter.perSecond()).toBe(1000);
    expect(meter.secondsLeft(3000)).toBe(2);
    for (let at = 2; at <= 30; at += 1) meter.note(at * 1000, 1000);
    expect(meter.perSecond()).toBe(0);
    expect(meter.secondsLeft(3000)).toBeUndefined();
  });
  it("begins anew with other work", () => {
    const meter = new RateMeter();
    meter.note(0, 5000);
    meter.note(1000, 0);
    expect(meter.perSecond()).toBeUndefined();
    meter.note(2000, 10);
    expect(meter.perSecond()).toBe(10);
  });
});

const key = (more: Partial<KeyInfo>): KeyInfo => ({
  path: "node.x", type: "text", required: false, allowed: "so and so", description: "", apply: "live", ...more,
});

describe("settings", () => {
  it("are told what is wrong where they are typed", () => {
    const port = key({ type: "number", min: 1, max: 65_535 });
    expect(wrong(port, "8086")).toBeUndefined();
    for (const bad of ["", "0", "65536", "8o86", "-1", "1.5"]) expect(wrong(port, bad)).toBeDefined();
    const size = key({ type: "size", min: 64_000, max: 1e18 });
    for (const good of ["0", "500GB", "1 GiB", "64KB"]) expect(wrong(size, good)).toBeUndefined();
    for (const bad of ["", "a lot", "5XB", "1KB", "-5GB"]) expect(wrong(size, bad)).toBeDefined();
    const rate = key({ type: "rate", min: 1000, max: 1e12 });
    expect(wrong(rate, "10MB/s")).toBeUndefined();
    expect(wrong(rate, "10MB")).toBeDefined();
  });
  it("are shown in units that people use", () => {
    expect(parseSize("1GiB")).toBe(1024 ** 3);
    expect(inUnits(key({ type: "size" }), "500GB")).toBe("= 466 GiB");
    expect(inUnits(key({ type: "size" }), "0")).toBe("no limit of its own");
    expect(inUnits(key({ type: "number", unit: "seconds" }), "3600")).toBe("= 1 h");
    expect(inUnits(key({ type: "number", unit: "milliseconds" }), "2000")).toBe("= 2 s");
    expect(inUnits(key({ type: "number", unit: "seconds" }), "x")).toBeUndefined();
  });
  it("are read as what they are", () => {
    expect(fromText(key({ type: "list" }), " a\n\n b ")).toEqual(["a", "b"]);
    expect(fromText(key({ type: "number" }), " 5 ")).toBe(5);
    expect(fromText(key({ type: "size" }), "5GB")).toBe("5GB");
    expect(valueAt({ backup_server: { keep: { last: 10 } } }, "backup_server.keep.last")).toBe(10);
    expect(valueAt({}, "a.b")).toBeUndefined();
    expect(label("sync.manifest_max_delay_ms")).toBe("Manifest max delay");
    expect(label("backup_server.keep.last")).toBe("Keep: last");
  });
  it("of tables that have pages of their own are not listed", () => {
    const keys = ["sync.folders", "sync.folders[].id", "sync.upload_limit", "node.bind"].map((path) => key({ path }));
    keys[0] = key({ path: "sync.folders", type: "tables" });
    expect(keysOf(keys, "sync").map((one) => one.path)).toEqual(["sync.upload_limit"]);
  });
});

it("reads patterns a line each", () => {
  expect(patterns("*.tmp\n\n# a comment\n  node_modules/  \n!keep")).toEqual(["*.tmp", "node_modules/", "!keep"]);
});

it("replaces one folder of a status", () => {
  const status = { ...STATUS, folders: [FOLDER, { ...FOLDER, id: "g" }] };
  const changed = withFolder(status, { ...FOLDER, id: "g", files: 99 });
  expect(changed.folders.map((folder) => folder.files)).toEqual([3, 99]);
  expect(status.folders[1]?.files).toBe(3);
});
