// The headline of the overview: one sentence that says which data is safe.
//
// Invariant: "Everything up to …" covers confirmed snapshots only. `up_to` is
// the time up to which the confirmed snapshot contains every change. The times
// at which a snapshot was made or received, and the time of the last scan, do
// not prove that.

import type { Folder, Source, Status } from "../api/model";
import { counted, visibleName } from "./format";

/** How serious the headline is. */
export type Mood = "good" | "busy" | "bad" | "none";

/** A headline. */
export interface Truth {
  mood: Mood;
  /** If set, the sentence begins with "Everything up to …". */
  upTo?: Date;
  text: string;
  /** The next step, of the user or of the program. */
  next?: string;
  /** Time of the last confirmed snapshot, if not everything is safe. */
  confirmedAt?: Date;
}

/** State of one folder: completely on the backup server, or the reason why not. */
export type FolderSafety =
  | { kind: "safe"; upTo: Date; isScanning: boolean }
  | { kind: "paused" }
  | { kind: "stopped"; why: string }
  | { kind: "pending"; why: string };

const time = (text: string | null | undefined): number => (text ? Date.parse(text) : Number.NaN);

/** Reports whether all of a folder is on the backup server, and if not, why. */
export function folderSafety(folder: Folder): FolderSafety {
  if (folder.state === "paused") return { kind: "paused" };
  if (folder.state === "alarm" || folder.state === "error") {
    return { kind: "stopped", why: folder.detail ?? "the folder cannot be read" };
  }
  if (folder.sequence == null) {
    return { kind: "pending", why: "the first scan has not finished yet" };
  }
  if (folder.pending_changes > 0) {
    return {
      kind: "pending",
      why: `${counted(folder.pending_changes, "change is", "changes are")} not in a snapshot yet`,
    };
  }
  if ((folder.backed_up_sequence ?? -1) < folder.sequence) {
    return { kind: "pending", why: "the backup server has not confirmed the newest snapshot yet" };
  }
  const isScanning = folder.state === "scanning";
  if (folder.state !== "idle" && !isScanning)
    return { kind: "pending", why: "a new snapshot is being made" };
  const upTo = time(folder.up_to);
  if (Number.isNaN(upTo)) return { kind: "pending", why: "the folder is being scanned" };
  return { kind: "safe", upTo: new Date(upTo), isScanning };
}

function ofFolders(folders: Folder[], hasServer: boolean): Truth {
  const all = folders.map((folder) => ({ folder, safety: folderSafety(folder) }));
  const names = (wanted: typeof all) =>
    wanted.map(({ folder }) => visibleName(folder.name)).join(", ");
  const stopped = all.filter(({ safety }) => safety.kind === "stopped");
  if (stopped.length > 0) {
    const first = stopped[0];
    return {
      mood: "bad",
      text: `Not everything is being backed up: ${names(stopped)}.`,
      next: first?.safety.kind === "stopped" ? first.safety.why : undefined,
    };
  }
  if (!hasServer) {
    return {
      mood: "bad",
      text: "Nothing leaves this computer yet: no backup server is set.",
      next: "Pair this computer with the one that will keep the backups.",
    };
  }
  const pending = all.filter(({ safety }) => safety.kind === "pending");
  if (pending.length > 0) {
    const first = pending[0];
    const why = first?.safety.kind === "pending" ? first.safety.why : "";
    const since = first?.folder.backed_up_at;
    return {
      mood: "busy",
      text: `Not all of ${names(pending)} is on the backup server yet: ${why}.`,
      next:
        since == null && first
          ? `There is no backup of ${visibleName(first.folder.name)} yet.`
          : undefined,
      confirmedAt: since == null ? undefined : new Date(since),
    };
  }
  const safe = all.flatMap(({ safety }) => (safety.kind === "safe" ? [safety.upTo.getTime()] : []));
  const paused = all.filter(({ safety }) => safety.kind === "paused");
  if (safe.length === 0) {
    return {
      mood: "none",
      text: `Paused: ${names(paused)}.`,
      next: "Resume to continue backups.",
    };
  }
  const upTo = new Date(Math.min(...safe));
  const errors = folders.reduce((sum, folder) => sum + folder.error_count, 0);
  const exceptions = [
    ...(errors > 0 ? [`${counted(errors, "file")} that could not be read`] : []),
    ...(paused.length > 0 ? [`${names(paused)} (paused)`] : []),
  ];
  const text =
    exceptions.length > 0
      ? `is on the backup server, except ${exceptions.join(" and ")}.`
      : "is on the backup server.";
  if (errors > 0) return { mood: "bad", upTo, text, next: "The Folders page lists them." };
  const scanning = all.filter(({ safety }) => safety.kind === "safe" && safety.isScanning);
  if (scanning.length > 0) {
    return { mood: "busy", upTo, text, next: `Scanning ${names(scanning)} for newer changes.` };
  }
  return { mood: "good", upTo, text };
}

function ofSources(sources: Source[]): Truth {
  const bad = sources.filter((source) => source.state === "failed" || source.state === "refused");
  const names = (wanted: Source[]) => wanted.map((source) => source.name).join(", ");
  if (bad.length > 0) {
    return {
      mood: "bad",
      text: `Backups from ${names(bad)} are failing.`,
      next: bad[0]?.errors[0] ?? bad[0]?.detail ?? undefined,
    };
  }
  const disabled = sources.filter((source) => source.state === "disabled");
  if (disabled.length === sources.length) {
    return {
      mood: "none",
      text: "The backup server is paused: nothing is pulled.",
      next: "Resume it on the Backup server page.",
    };
  }
  const busy = sources.filter((source) => source.state === "pulling" || source.pulls.length > 0);
  if (busy.length > 0)
    return { mood: "busy", text: `New snapshots of ${names(busy)} are being pulled.` };
  const polls = sources.map((source) => time(source.last_poll));
  if (polls.some(Number.isNaN)) {
    return { mood: "busy", text: `Checking ${names(sources)} for the first time.` };
  }
  return {
    mood: "good",
    upTo: new Date(Math.min(...polls)),
    text: `that ${names(sources)} offered is stored here.`,
  };
}

/** Returns the headlines: folders first, then sources. The headline about folders
 * is absent while it is unknown whether a backup server is set (`hasServer`). */
export function truth(status: Status, hasServer: boolean | undefined): Truth[] {
  const all: Truth[] = [];
  if (status.folders.length > 0 && hasServer !== undefined)
    all.push(ofFolders(status.folders, hasServer));
  if (status.sources.length > 0) all.push(ofSources(status.sources));
  if (status.folders.length === 0 && status.sources.length === 0) {
    all.push({
      mood: "none",
      text: "Nothing is being backed up yet.",
      next: "Add a folder of this computer, or let this computer keep the backups of another one.",
    });
  }
  return all;
}

/** Returns the headline for screen readers: without its time, which changes constantly. */
export const announced = (one: Truth): string => (one.upTo ? `Everything ${one.text}` : one.text);
