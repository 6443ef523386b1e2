// In which order restores are shown.

import type { RestoreReport } from "../api/model";

/** Those that run first, then the newest: none that runs is left out. */
export function inOrder(reports: RestoreReport[]): RestoreReport[] {
  const isRunning = (report: RestoreReport) => Number(report.state === "running");
  return [...reports].sort((a, b) => isRunning(b) - isRunning(a) || b.id - a.id);
}
