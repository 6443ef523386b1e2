// What happened on each day, for the charts.

import type { Snapshot, TrafficDay } from "../api/model";

/** A day of the chart. */
export interface Day {
  /** `2026-11-22`, in local time. */
  day: string;
  /** Versions that were received. */
  versions: number;
  /** What the newest versions hold together at its end, in bytes. */
  bytes: number;
  /** What was sent to other machines, in bytes. */
  sent: number;
  /** What was received from other machines, in bytes. */
  received: number;
}

const key = (at: Date) =>
  `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, "0")}-${String(at.getDate()).padStart(2, "0")}`;

/** The last `days` days up to `now`, those without a version too. */
export function byDay(
  snapshots: Snapshot[],
  traffic: TrafficDay[],
  now: Date,
  days: number,
): Day[] {
  const sorted = snapshots
    .map((snapshot) => ({ snapshot, at: new Date(snapshot.received_at) }))
    .sort((a, b) => a.at.getTime() - b.at.getTime());
  const travelled = new Map(traffic.map((one) => [one.day, one]));
  const newest = new Map<string, number>();
  const result: Day[] = [];
  let next = 0;
  for (let back = days - 1; back >= 0; back -= 1) {
    const day = new Date(now.getFullYear(), now.getMonth(), now.getDate() - back);
    const end = new Date(now.getFullYear(), now.getMonth(), now.getDate() - back + 1).getTime();
    let versions = 0;
    for (let one = sorted[next]; one && one.at.getTime() < end; one = sorted[next]) {
      newest.set(`${one.snapshot.source_peer_id}/${one.snapshot.folder_id}`, one.snapshot.bytes);
      if (one.at >= day) versions += 1;
      next += 1;
    }
    const { sent_bytes: sent = 0, received_bytes: received = 0 } = travelled.get(key(day)) ?? {};
    const held = [...newest.values()].reduce((a, b) => a + b, 0);
    result.push({ day: key(day), versions, bytes: held, sent, received });
  }
  return result;
}
