// Order of the list of restores.

import type { RestoreReport } from "../api/model";

/** Sorts restores: running ones first, then the newest. */
export function inOrder(reports: RestoreReport[]): RestoreReport[] {
  const isRunning = (report: RestoreReport) => Number(report.state === "running");
  return [...reports].sort((a, b) => isRunning(b) - isRunning(a) || b.id - a.id);
}
