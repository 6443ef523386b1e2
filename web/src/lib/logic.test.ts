import { describe, expect, it } from "vitest";

import { withFolder } from "../api/live";
import { hasBackupServer } from "../api/queries";
import type { Folder, KeyInfo, RestoreReport, Snapshot, Source, Status } from "../api/model";
import { breadcrumbs, groupBySeries, newestAt, selectSnapshot } from "./choice";
import { byDay } from "./history";
import { fromText, inUnits, keysOf, label, parseSize, valueAt, wrong } from "./keys";
import { leftOutText } from "./format";
import { folderEdit, limitsEdit, patterns } from "./patterns";
import { RateMeter } from "./rate";
import { inOrder } from "./restores";
import { announced, folderSafety, truth } from "./truth";

const FOLDER: Folder = {
  id: "f",
  name: "Documents",
  path: "/d",
  state: "idle",
  files: 3,
  dirs: 1,
  bytes: 10,
  pending_changes: 0,
  sequence: 5,
  backed_up_sequence: 5,
  backed_up_at: "2026-11-22T12:00:09Z",
  last_scan: "2026-11-22T12:04:31Z",
  published_at: "2026-11-22T12:00:02Z",
  up_to: "2026-11-22T12:00:00Z",
  watched_dirs: 1,
  file_system: "ext4",
  is_polled: false,
  dirs_to_watch: 1,
  errors: [],
  error_count: 0,
};
const SOURCE: Source = {
  name: "Desktop",
  peer_id: "p",
  manifest_server_url: "http://h:8085",
  state: "idle",
  errors: [],
  pulls: [],
  last_poll: "2026-11-22T12:04:31Z",
};
const STATUS: Status = {
  peer_id: "p",
  addresses: [],
  version: "0",
  data: "/",
  folders: [],
  sources: [],
  notices: [],
  storage: { blocks: 0, used_bytes: 0, available_bytes: 1 },
};
const told = (folders: Folder[], sources: Source[] = [], hasServer: boolean | null = true) =>
  truth({ ...STATUS, folders, sources }, hasServer ?? undefined);

describe("the truth", () => {
  it("says that all is safe only if all is", () => {
    const [safe] = told([FOLDER]);
    // `up_to`, not the time of the snapshot, of its confirmation or of the last scan.
    expect(safe).toEqual({
      mood: "good",
      text: "is on the backup server.",
      upTo: new Date("2026-11-22T12:00:00Z"),
    });
    const older = { ...FOLDER, id: "g", up_to: "2026-11-22T11:30:00Z" };
    expect(told([FOLDER, older])[0]?.upTo?.toISOString()).toBe("2026-11-22T11:30:00.000Z");
  });
  it("keeps what is so while it looks for more", () => {
    const [looking] = told([FOLDER, { ...FOLDER, id: "g", name: "Photos", state: "scanning" }]);
    expect(looking).toMatchObject({ mood: "busy", upTo: new Date("2026-11-22T12:00:00Z") });
    expect(looking?.next).toBe("Scanning Photos for newer changes.");
  });
  it("says nothing of folders while nobody knows whether there is a backup server", () => {
    expect(told([FOLDER], [], null)).toEqual([]);
    expect(told([FOLDER], [SOURCE], null)).toHaveLength(1);
  });
  it("names what everything is not", () => {
    const paused = { ...FOLDER, id: "g", name: "Photos", state: "paused" };
    expect(told([FOLDER, paused])[0]?.text).toBe(
      "is on the backup server, except Photos (paused).",
    );
    const unreadable = { ...FOLDER, error_count: 2 };
    expect(told([unreadable])[0]?.text).toBe(
      "is on the backup server, except 2 files that could not be read.",
    );
    expect(told([unreadable, paused])[0]?.text).toBe(
      "is on the backup server, except 2 files that could not be read and Photos (paused).",
    );
  });
  it("has no time in the text for screen readers", () => {
    const [one] = told([FOLDER]);
    const [later] = told([{ ...FOLDER, up_to: "2026-11-22T13:00:00Z" }]);
    expect(one && announced(one)).toBe("Everything is on the backup server.");
    expect(later && announced(later)).toBe(one && announced(one));
  });
  it.each([
    [{ pending_changes: 2 }, "busy"],
    [{ sequence: 6 }, "busy"],
    [{ backed_up_sequence: null }, "busy"],
    [{ sequence: null, backed_up_sequence: null, backed_up_at: null }, "busy"],
    // The newest snapshot is confirmed, but it is unknown which changes it contains.
    [{ up_to: null }, "busy"],
    [{ state: "publishing" }, "busy"],
    [{ state: "waiting" }, "busy"],
    [{ state: "scanning", up_to: null }, "busy"],
    [{ state: "a state of a later version" }, "busy"],
    [{ state: "alarm", detail: "the folder is empty" }, "bad"],
    [{ state: "error", detail: "no such disk" }, "bad"],
    [{ error_count: 1 }, "bad"],
    [{ state: "paused" }, "none"],
  ] as const)("is not that all is safe where %o", (change, mood) => {
    const [one] = told([{ ...FOLDER, ...change }]);
    expect(one?.mood).toBe(mood);
    if (mood === "busy") expect(one?.upTo).toBeUndefined();
  });
  it("never says good while one of several folders is not", () => {
    expect(told([FOLDER, { ...FOLDER, id: "g", sequence: 9 }])[0]?.mood).toBe("busy");
    expect(
      told([
        { ...FOLDER, pending_changes: 1 },
        { ...FOLDER, id: "g", state: "alarm" },
      ])[0]?.mood,
    ).toBe("bad");
  });
  it("names the lack of a backup server, and the first steps", () => {
    expect(told([FOLDER], [], false)[0]).toMatchObject({ mood: "bad" });
    expect(told([])[0]).toMatchObject({ mood: "none", text: "Nothing is being backed up yet." });
  });
  it("speaks for the backup server too", () => {
    expect(told([], [SOURCE])[0]).toMatchObject({ mood: "good" });
    expect(told([], [{ ...SOURCE, state: "failed", errors: ["no route"] }])[0]).toMatchObject({
      mood: "bad",
      next: "no route",
    });
    expect(told([], [{ ...SOURCE, state: "disabled" }])[0]).toMatchObject({ mood: "none" });
    expect(told([], [{ ...SOURCE, last_poll: null }])[0]).toMatchObject({ mood: "busy" });
    expect(told([FOLDER], [SOURCE])).toHaveLength(2);
  });
  it("is about each folder as well", () => {
    expect(folderSafety(FOLDER).kind).toBe("safe");
    expect(folderSafety({ ...FOLDER, up_to: null })).toMatchObject({ kind: "pending" });
  });
});

const snapshot = (
  id: string,
  sequence: number,
  at: string,
  more: Partial<Snapshot> = {},
): Snapshot => ({
  id,
  sequence,
  source: "Desktop",
  source_peer_id: "p",
  folder_id: "f",
  folder_name: "Documents",
  files: 1,
  bytes: 100,
  created_at: at,
  received_at: at,
  manifest_cid: "c",
  ...more,
});

describe("snapshots", () => {
  it("are grouped into series, the newest first", () => {
    const all = groupBySeries([
      snapshot("1", 1, "2026-11-20T10:00:00Z", { folder_name: "Old name" }),
      snapshot("2", 10, "2026-11-21T10:00:00Z"),
      snapshot("3", 2, "2026-11-20T11:00:00Z", { source_peer_id: "q", source: "Attic" }),
    ]);
    expect(all.map((one) => [one.source, one.folderName, one.snapshots.length])).toEqual([
      ["Attic", "Documents", 1],
      ["Desktop", "Documents", 2],
    ]);
    const series = all[1];
    if (!series) throw new Error("no series");
    expect(newestAt(series, new Date("2026-11-21T00:00:00Z"))?.id).toBe("1");
    expect(newestAt(series, new Date("2026-11-21T10:00:00Z"))?.id).toBe("2");
    expect(newestAt(series, new Date("2026-11-19T00:00:00Z"))).toBeUndefined();
  });
  it("are in the backup server's order, whatever a source counts", () => {
    const [series] = groupBySeries([
      snapshot("before", 40, "2026-11-20T10:00:00Z"),
      snapshot("accepted", 1, "2026-11-21T10:00:00Z"),
    ]);
    expect(series?.snapshots.map((one) => one.id)).toEqual(["accepted", "before"]);
  });
  it("stay chosen whatever arrives", () => {
    const first = snapshot("1", 1, "2026-11-20T10:00:00Z");
    const second = snapshot("2", 2, "2026-11-21T10:00:00Z");
    const other = snapshot("9", 1, "2026-11-21T10:00:00Z", {
      source_peer_id: "q",
      source: "Attic",
    });
    const one = selectSnapshot(groupBySeries([first]), {});
    expect(one).toMatchObject({ snapshot: first, hasNewer: false, isGone: false });
    const before = { series: "p/f", at: "1" };
    // Without `before`, the series of the other source would come first.
    const after = selectSnapshot(groupBySeries([first, second, other]), {}, before);
    expect(after).toMatchObject({ snapshot: first, newest: "2", hasNewer: true, isGone: false });
    expect(
      selectSnapshot(groupBySeries([first, second]), {}, { series: "p/f", at: "2" }),
    ).toMatchObject({
      snapshot: second,
      hasNewer: false,
    });
    // The user chose the older snapshot, so no hint is needed.
    expect(selectSnapshot(groupBySeries([first, second]), { at: "1" })).toMatchObject({
      snapshot: first,
      hasNewer: false,
    });
    // Another snapshot is shown in place of a deleted one, and marked as such.
    expect(selectSnapshot(groupBySeries([second]), {}, before)).toMatchObject({
      snapshot: second,
      isGone: true,
    });
    expect(selectSnapshot(groupBySeries([second]), { at: "1" })).toMatchObject({
      snapshot: second,
      isGone: true,
    });
    // Another series: its newest snapshot.
    expect(selectSnapshot(groupBySeries([first, other]), { series: "q/f" }, before)).toMatchObject({
      snapshot: other,
      isGone: false,
    });
    expect(selectSnapshot([], {}, before)).toBeUndefined();
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
      [
        { day: "2026-10-01", sent_bytes: 1, received_bytes: 1 },
        { day: "2026-11-21", sent_bytes: 5, received_bytes: 6 },
      ],
      now,
      3,
    );
    expect(days).toEqual([
      { day: "2026-11-20", snapshots: 0, bytes: 70, sent: 0, received: 0 },
      { day: "2026-11-21", snapshots: 2, bytes: 300, sent: 5, received: 6 },
      { day: "2026-11-22", snapshots: 1, bytes: 307, sent: 0, received: 0 },
    ]);
  });
  it("have paths with directories above them", () => {
    expect(breadcrumbs("a/b c")).toEqual([
      { name: "a", path: "a" },
      { name: "b c", path: "a/b c" },
    ]);
    expect(breadcrumbs("")).toEqual([]);
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
  it("restarts with other work", () => {
    const meter = new RateMeter();
    meter.note(0, 5000);
    meter.note(1000, 0);
    expect(meter.perSecond()).toBeUndefined();
    meter.note(2000, 10);
    expect(meter.perSecond()).toBe(10);
  });
});

const key = (more: Partial<KeyInfo>): KeyInfo => ({
  path: "node.x",
  type: "text",
  required: false,
  allowed: "so and so",
  description: "",
  apply: "live",
  ...more,
});

describe("settings", () => {
  it("are checked where they are typed", () => {
    const port = key({ type: "number", min: 1, max: 65_535 });
    expect(wrong(port, "8086")).toBeUndefined();
    for (const bad of ["", "0", "65536", "8o86", "-1", "1.5"])
      expect(wrong(port, bad)).toBeDefined();
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
    expect(inUnits(key({ type: "size" }), "0")).toBe("no limit");
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
    expect(label("sync.manifest_max_delay_ms")).toBe("Delay after the last change");
    expect(label("backup_server.keep.last")).toBe("Newest snapshots to keep");
    // Without an entry of its own, the label is made from the key.
    expect(label("sync.upload_limit")).toBe("Upload limit");
    expect(label("backup_server.poll_interval_secs")).toBe("Poll interval");
    expect(label("a.keep.last")).toBe("Keep: last");
  });
  it("of tables that have pages of their own are not listed", () => {
    const keys = ["sync.folders", "sync.folders[].id", "sync.upload_limit", "node.bind"].map(
      (path) => key({ path }),
    );
    keys[0] = key({ path: "sync.folders", type: "tables" });
    expect(keysOf(keys, "sync").map((one) => one.path)).toEqual(["sync.upload_limit"]);
  });
});

it("reads patterns a line each", () => {
  expect(patterns("*.tmp\n\n# a comment\n  node_modules/  \n!keep")).toEqual([
    "*.tmp",
    "node_modules/",
    "!keep",
  ]);
});

it("edits of a folder what was edited", () => {
  const exclude = ["# of mine", "  *.tmp", "node_modules/"];
  const text = exclude.join("\n");
  expect(folderEdit("Documents", exclude, "Papers ", text)).toEqual({ name: "Papers" });
  expect(folderEdit("Documents", exclude, "Documents", `${text}\n*.o`)).toEqual({
    exclude: ["*.tmp", "node_modules/", "*.o"],
  });
  expect(folderEdit("Documents", [], "Documents", "")).toEqual({});
});

it("an edit of a folder sends the limits that it changes", () => {
  const before = { one_file_system: true, exclude_caches: false };
  expect(limitsEdit(before, before)).toEqual({});
  expect(limitsEdit(before, { ...before, one_file_system: false })).toEqual({
    one_file_system: false,
  });
  expect(limitsEdit(before, { ...before, exclude_caches: true })).toEqual({ exclude_caches: true });
});

it("what a new folder leaves out is said", () => {
  expect(leftOutText({})).toBe("");
  const left_out = [{ path: "ram", reason: "another file system (tmpfs) is mounted there" }];
  expect(leftOutText({ left_out })).toBe(
    " Not backed up: ram (another file system (tmpfs) is mounted there).",
  );
});

it("shows every restore that runs, then the newest", () => {
  const reports = Array.from(
    { length: 14 },
    (_, id) => ({ id, state: id === 1 ? "running" : "done" }) as RestoreReport,
  );
  expect(
    inOrder(reports)
      .map((one) => one.id)
      .slice(0, 3),
  ).toEqual([1, 13, 12]);
  expect(inOrder(reports)).toHaveLength(14);
});

it("knows of a backup server when the settings are known", () => {
  expect(hasBackupServer(undefined)).toBeUndefined();
  expect(hasBackupServer({ sync: {}, node: { allowed_peers: [] } })).toBe(false);
  expect(hasBackupServer({ sync: { backup_peer_address: "/ip4/192.0.2.1" } })).toBe(true);
  expect(hasBackupServer({ node: { allowed_peers: ["p"] } })).toBe(true);
});

it("replaces one folder of a status", () => {
  const status = { ...STATUS, folders: [FOLDER, { ...FOLDER, id: "g" }] };
  const changed = withFolder(status, { ...FOLDER, id: "g", files: 99 });
  expect(changed.folders.map((folder) => folder.files)).toEqual([3, 99]);
  expect(status.folders[1]?.files).toBe(3);
});
