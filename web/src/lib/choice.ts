// Grouping of snapshots into series, and the choice of the one to show.

import type { Snapshot } from "../api/model";

/** The snapshots of one folder of one source. */
export interface Series {
  /** Identifies the series in the address of a page. */
  key: string;
  source: string;
  sourcePeerId: string;
  folderId: string;
  folderName: string;
  /** Newest first. */
  snapshots: Snapshot[];
}

/** Groups snapshots into series, sorted by name. `snapshots` must be in the
 * backup server's order, oldest first. That order is authoritative: a source that
 * was reinstalled may have restarted its sequence numbers. */
export function groupBySeries(snapshots: Snapshot[]): Series[] {
  const found = new Map<string, Series>();
  for (const snapshot of snapshots) {
    const key = `${snapshot.source_peer_id}/${snapshot.folder_id}`;
    const series = found.get(key) ?? {
      key,
      source: snapshot.source,
      sourcePeerId: snapshot.source_peer_id,
      folderId: snapshot.folder_id,
      folderName: snapshot.folder_name,
      snapshots: [],
    };
    series.snapshots.push(snapshot);
    found.set(key, series);
  }
  for (const series of found.values()) {
    series.snapshots.reverse();
    // The folder may have been renamed: the newest snapshot has its current name.
    series.folderName = series.snapshots[0]?.folder_name ?? series.folderName;
  }
  return [...found.values()].sort(
    (a, b) => a.source.localeCompare(b.source) || a.folderName.localeCompare(b.folderName),
  );
}

/** Returns the newest snapshot made at or before `at`. */
export const newestAt = (series: Series, at: Date): Snapshot | undefined =>
  series.snapshots.find((snapshot) => new Date(snapshot.created_at) <= at);

/** Returns every directory on the way to `path`, outermost first, `path` included. */
export function breadcrumbs(path: string): { name: string; path: string }[] {
  const names = path.split("/").filter(Boolean);
  return names.map((name, index) => ({ name, path: names.slice(0, index + 1).join("/") }));
}

/** The snapshot that the address of a page requests. */
export interface Requested {
  series?: string | null;
  folder?: string | null;
  at?: string | null;
}

/** The snapshot to show. */
export interface Selection {
  series: Series;
  snapshot: Snapshot;
  /** Id of the newest snapshot of the series. */
  newest: string;
  /** True if a newer snapshot exists and the user has not chosen an older one. */
  hasNewer: boolean;
  /** True if the snapshot requested or shown before no longer exists. */
  isGone: boolean;
}

/**
 * Selects the snapshot to show: the requested one, else the one shown before,
 * else the newest. A snapshot that arrives never replaces the one on screen.
 */
export function selectSnapshot(
  all: Series[],
  requested: Requested,
  before?: { series: string; at: string },
): Selection | undefined {
  const series =
    all.find((one) => one.key === requested.series) ??
    all.find((one) => one.folderId === requested.folder) ??
    all.find((one) => one.key === before?.series) ??
    all[0];
  const newest = series?.snapshots[0];
  if (!series || !newest) return undefined;
  const at = requested.at ?? (before?.series === series.key ? before.at : undefined);
  const found = series.snapshots.find((one) => one.id === at);
  const snapshot = found ?? newest;
  return {
    series,
    snapshot,
    newest: newest.id,
    hasNewer: snapshot !== newest && requested.at == null,
    isGone: at !== undefined && !found,
  };
}
