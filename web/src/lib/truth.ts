// The one sentence of the overview: what is safe, and what is not.
//
// "Everything up to …" is said of what the backup server has acknowledged and
// of nothing else: `up_to` is the moment up to which the acknowledged version
// has every change. When a version was made, received or looked for says less.

import type { Folder, Source, Status } from "../api/model";
import { counted, visibleName } from "./format";

/** How well it stands. */
export type Mood = "good" | "busy" | "bad" | "none";

/** The sentence. */
export interface Truth {
  mood: Mood;
  /** Where it is there, the sentence begins with "Everything up to …". */
  upTo?: Date;
  text: string;
  /** What to do, or what comes next. */
  next?: string;
  /** When the last version was confirmed, where not all is safe. */
  confirmedAt?: Date;
}

/** What is the case with one folder. */
export type Standing =
  | { kind: "safe"; upTo: Date; isLooking: boolean }
  | { kind: "paused" }
  | { kind: "stopped"; why: string }
  | { kind: "pending"; why: string };

const time = (text: string | null | undefined): number => (text ? Date.parse(text) : Number.NaN);

/** Whether all of a folder is on the backup server, and if not, why. */
export function standing(folder: Folder): Standing {
  if (folder.state === "paused") return { kind: "paused" };
  if (folder.state === "alarm" || folder.state === "error") {
    return { kind: "stopped", why: folder.detail ?? "it cannot be read" };
  }
  if (folder.sequence == null) {
    return { kind: "pending", why: "it is being looked through for the first time" };
  }
  if (folder.pending_changes > 0) {
    return {
      kind: "pending",
      why: `${counted(folder.pending_changes, "change")} not published yet`,
    };
  }
  if ((folder.backed_up_sequence ?? -1) < folder.sequence) {
    return { kind: "pending", why: "the backup server has not confirmed the newest version yet" };
  }
  const isLooking = folder.state === "scanning";
  if (folder.state !== "idle" && !isLooking)
    return { kind: "pending", why: "a new version is being made" };
  const upTo = time(folder.up_to);
  if (Number.isNaN(upTo)) return { kind: "pending", why: "it is being looked through" };
  return { kind: "safe", upTo: new Date(upTo), isLooking };
}

function ofFolders(folders: Folder[], hasServer: boolean): Truth {
  const all = folders.map((folder) => ({ folder, standing: standing(folder) }));
  const names = (wanted: typeof all) =>
    wanted.map(({ folder }) => visibleName(folder.name)).join(", ");
  const stopped = all.filter(({ standing }) => standing.kind === "stopped");
  if (stopped.length > 0) {
    const first = stopped[0];
    return {
      mood: "bad",
      text: `Not everything is being backed up: ${names(stopped)}.`,
      next: first?.standing.kind === "stopped" ? first.standing.why : undefined,
    };
  }
  if (!hasServer) {
    return {
      mood: "bad",
      text: "Nothing leaves this machine yet: no backup server is set.",
      next: "Pair this machine with the one that is to keep the backups.",
    };
  }
  const pending = all.filter(({ standing }) => standing.kind === "pending");
  if (pending.length > 0) {
    const first = pending[0];
    const why = first?.standing.kind === "pending" ? first.standing.why : "";
    const since = first?.folder.backed_up_at;
    return {
      mood: "busy",
      text: `Not all of ${names(pending)} is on the backup server yet: ${why}.`,
      next: since == null ? "There is no backup of it yet." : undefined,
      confirmedAt: since == null ? undefined : new Date(since),
    };
  }
  const safe = all.flatMap(({ standing }) =>
    standing.kind === "safe" ? [standing.upTo.getTime()] : [],
  );
  const paused = all.filter(({ standing }) => standing.kind === "paused");
  if (safe.length === 0) {
    return {
      mood: "none",
      text: `Paused: ${names(paused)}.`,
      next: "Resume it to have it backed up.",
    };
  }
  const upTo = new Date(Math.min(...safe));
  const without = paused.length > 0 ? `, but for ${names(paused)}: paused` : "";
  const errors = folders.reduce((sum, folder) => sum + folder.error_count, 0);
  if (errors > 0) {
    return {
      mood: "bad",
      upTo,
      text: `is on the backup server, but for ${counted(errors, "file")} that could not be read${without}.`,
      next: "The folder's page names them.",
    };
  }
  const text = `is on the backup server${without}.`;
  const looking = all.filter(({ standing }) => standing.kind === "safe" && standing.isLooking);
  if (looking.length > 0) {
    return {
      mood: "busy",
      upTo,
      text,
      next: `${names(looking)} is being looked through for what has changed since.`,
    };
  }
  return { mood: "good", upTo, text };
}

function ofSources(sources: Source[]): Truth {
  const bad = sources.filter((source) => source.state === "failed" || source.state === "refused");
  const names = (wanted: Source[]) => wanted.map((source) => source.name).join(", ");
  if (bad.length > 0) {
    return {
      mood: "bad",
      text: `This backup server does not get what ${names(bad)} offers.`,
      next: bad[0]?.errors[0] ?? bad[0]?.detail ?? undefined,
    };
  }
  const disabled = sources.filter((source) => source.state === "disabled");
  if (disabled.length === sources.length) {
    return {
      mood: "none",
      text: "The backup server is paused: nothing is pulled.",
      next: "Resume it on its page.",
    };
  }
  const busy = sources.filter((source) => source.state === "pulling" || source.pulls.length > 0);
  if (busy.length > 0)
    return { mood: "busy", text: `New versions of ${names(busy)} are being pulled.` };
  const polls = sources.map((source) => time(source.last_poll));
  if (polls.some(Number.isNaN)) {
    return { mood: "busy", text: `${names(sources)} is being asked for the first time.` };
  }
  return {
    mood: "good",
    upTo: new Date(Math.min(...polls)),
    text: `that ${names(sources)} offered is here.`,
  };
}

/** What there is to say, of folders first, then of sources. Of folders nothing
 * is said while it is not known whether there is a backup server. */
export function truth(status: Status, hasServer: boolean | undefined): Truth[] {
  const all: Truth[] = [];
  if (status.folders.length > 0 && hasServer !== undefined)
    all.push(ofFolders(status.folders, hasServer));
  if (status.sources.length > 0) all.push(ofSources(status.sources));
  if (status.folders.length === 0 && status.sources.length === 0) {
    all.push({
      mood: "none",
      text: "Nothing is being backed up yet.",
      next: "Add a folder of this machine, or let this machine keep the backups of another.",
    });
  }
  return all;
}

/** A sentence without its time, which is another all the time. */
export const announced = (one: Truth): string => (one.upTo ? `Everything ${one.text}` : one.text);
