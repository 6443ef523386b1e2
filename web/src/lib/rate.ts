// Measurement of the speed of a running job.

interface Sample {
  at: number;
  done: number;
}

/** Length of the measured period, in milliseconds. */
const WINDOW = 10_000;

/** Measures the speed of one job over the last `WINDOW` milliseconds. */
export class RateMeter {
  private seen: Sample[] = [];

  /** Records that `done` was reached at `at` (milliseconds). */
  note(at: number, done: number): void {
    const last = this.seen.at(-1);
    // The progress went back: another job runs under the same name.
    if (last && done < last.done) this.seen = [];
    if (last && at <= last.at) return;
    this.seen.push({ at, done });
    while (this.seen.length > 2 && at - (this.seen[1]?.at ?? at) > WINDOW) this.seen.shift();
  }

  /** Returns the progress per second, or `undefined` for less than 500 ms of samples. */
  perSecond(): number | undefined {
    const first = this.seen[0];
    const last = this.seen.at(-1);
    if (!first || !last || last.at - first.at < 500) return undefined;
    return ((last.done - first.done) * 1000) / (last.at - first.at);
  }

  /** Estimates the seconds left until `total`. Returns `undefined` if nothing moves. */
  secondsLeft(total: number): number | undefined {
    const rate = this.perSecond();
    const last = this.seen.at(-1);
    if (!rate || !last || rate <= 0) return undefined;
    return Math.max(0, (total - last.done) / rate);
  }
}
