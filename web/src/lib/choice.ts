// Which snapshots there are to choose from.

import type { Snapshot } from "../api/model";

/** A folder of a machine that has snapshots. */
export interface Line {
  /** Names it in an address. */
  key: string;
  source: string;
  sourcePeerId: string;
  folderId: string;
  folderName: string;
  /** The newest first. */
  snapshots: Snapshot[];
}

/** The folders of all machines, by name, each with its snapshots. They are told
 * in the backup server's order, which is the one that counts: a source may have
 * begun to count anew. */
export function lines(snapshots: Snapshot[]): Line[] {
  const found = new Map<string, Line>();
  for (const snapshot of snapshots) {
    const key = `${snapshot.source_peer_id}/${snapshot.folder_id}`;
    const line = found.get(key) ?? {
      key,
      source: snapshot.source,
      sourcePeerId: snapshot.source_peer_id,
      folderId: snapshot.folder_id,
      folderName: snapshot.folder_name,
      snapshots: [],
    };
    line.snapshots.push(snapshot);
    found.set(key, line);
  }
  for (const line of found.values()) {
    line.snapshots.reverse();
    // A folder can have had another name before.
    line.folderName = line.snapshots[0]?.folder_name ?? line.folderName;
  }
  return [...found.values()].sort(
    (a, b) => a.source.localeCompare(b.source) || a.folderName.localeCompare(b.folderName),
  );
}

/** The newest snapshot that was made at or before `at`. */
export const newestAt = (line: Line, at: Date): Snapshot | undefined =>
  line.snapshots.find((snapshot) => new Date(snapshot.created_at) <= at);

/** The directories above a path, the folder itself first. */
export function trail(path: string): { name: string; path: string }[] {
  const names = path.split("/").filter(Boolean);
  return names.map((name, index) => ({ name, path: names.slice(0, index + 1).join("/") }));
}

/** What an address asks for. */
export interface Asked {
  line?: string | null;
  folder?: string | null;
  at?: string | null;
}

/** What is shown of all that there is. */
export interface Shown {
  line: Line;
  snapshot: Snapshot;
  /** The newest of the line. */
  newest: string;
  /** There is a newer one, and nobody has chosen an older one. */
  hasNewer: boolean;
  /** What was asked for, or shown before, is there no more. */
  isGone: boolean;
}

/**
 * What to show: what is asked for, else what was shown before, else the newest.
 * A snapshot that arrives never takes the place of the one that somebody is
 * looking at.
 */
export function choose(
  all: Line[],
  asked: Asked,
  before?: { line: string; at: string },
): Shown | undefined {
  const line =
    all.find((one) => one.key === asked.line) ??
    all.find((one) => one.folderId === asked.folder) ??
    all.find((one) => one.key === before?.line) ??
    all[0];
  const newest = line?.snapshots[0];
  if (!line || !newest) return undefined;
  const at = asked.at ?? (before?.line === line.key ? before.at : undefined);
  const found = line.snapshots.find((one) => one.id === at);
  const snapshot = found ?? newest;
  return {
    line,
    snapshot,
    newest: newest.id,
    hasNewer: snapshot !== newest && asked.at == null,
    isGone: at !== undefined && !found,
  };
}
