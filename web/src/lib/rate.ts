// How fast something goes, from what was seen of it.

interface Seen {
  at: number;
  done: number;
}

/** How far back the rate looks, in milliseconds. */
const WINDOW = 10_000;

/** The rate of one piece of work; it forgets what is long ago. */
export class RateMeter {
  private seen: Seen[] = [];

  /** Notes that `done` was reached at `at` (milliseconds). */
  note(at: number, done: number): void {
    const last = this.seen.at(-1);
    // Another piece of work under the same name.
    if (last && done < last.done) this.seen = [];
    if (last && at <= last.at) return;
    this.seen.push({ at, done });
    while (this.seen.length > 2 && at - (this.seen[1]?.at ?? at) > WINDOW) this.seen.shift();
  }

  /** A second's worth, where enough was seen. */
  perSecond(): number | undefined {
    const first = this.seen[0];
    const last = this.seen.at(-1);
    if (!first || !last || last.at - first.at < 500) return undefined;
    return ((last.done - first.done) * 1000) / (last.at - first.at);
  }

  /** Seconds that are left until `total`, where that can be told. */
  secondsLeft(total: number): number | undefined {
    const rate = this.perSecond();
    const last = this.seen.at(-1);
    if (!rate || !last || rate <= 0) return undefined;
    return Math.max(0, (total - last.done) / rate);
  }
}
