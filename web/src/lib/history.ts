// Figures per day, for the charts.

import type { Snapshot, TrafficDay } from "../api/model";

/** The figures of one day. */
export interface Day {
  /** `2026-11-22`, in local time. */
  day: string;
  /** Number of snapshots received. */
  snapshots: number;
  /** Total size of the newest snapshot of each folder at the end of the day, in bytes. */
  bytes: number;
  /** Bytes sent to other computers. */
  sent: number;
  /** Bytes received from other computers. */
  received: number;
}

const key = (at: Date) =>
  `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, "0")}-${String(at.getDate()).padStart(2, "0")}`;

/** Returns the last `days` days up to `now`, including days without a snapshot. */
export function byDay(
  snapshots: Snapshot[],
  traffic: TrafficDay[],
  now: Date,
  days: number,
): Day[] {
  const sorted = snapshots
    .map((snapshot) => ({ snapshot, at: new Date(snapshot.received_at) }))
    .sort((a, b) => a.at.getTime() - b.at.getTime());
  const trafficOf = new Map(traffic.map((one) => [one.day, one]));
  const newest = new Map<string, number>();
  const result: Day[] = [];
  let next = 0;
  for (let back = days - 1; back >= 0; back -= 1) {
    const day = new Date(now.getFullYear(), now.getMonth(), now.getDate() - back);
    const end = new Date(now.getFullYear(), now.getMonth(), now.getDate() - back + 1).getTime();
    let received = 0;
    for (let one = sorted[next]; one && one.at.getTime() < end; one = sorted[next]) {
      newest.set(`${one.snapshot.source_peer_id}/${one.snapshot.folder_id}`, one.snapshot.bytes);
      if (one.at >= day) received += 1;
      next += 1;
    }
    const { sent_bytes = 0, received_bytes = 0 } = trafficOf.get(key(day)) ?? {};
    result.push({
      day: key(day),
      snapshots: received,
      bytes: [...newest.values()].reduce((a, b) => a + b, 0),
      sent: sent_bytes,
      received: received_bytes,
    });
  }
  return result;
}
