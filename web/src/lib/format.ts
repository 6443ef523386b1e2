// Formatting of numbers, times and names.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** Formats bytes in binary units: `1.50 MiB`. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  // Write 1.00 MiB instead of 1024 KiB if the value would round up.
  if (unit > 0 && value >= 1023.95 && unit < UNITS.length - 1) {
    value = 1;
    unit += 1;
  }
  if (unit === 0) return `${value} B`;
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ${UNITS[unit]}`;
}

const WHOLE = new Intl.NumberFormat("en");

/** Formats an integer with thousands separators. */
export const count = (value: number): string => WHOLE.format(value);

/** Formats a number with its noun: `1 file`, `2 files`. */
export const counted = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`;

/** Formats seconds, rounded: `40 s`, `3 min`, `2 h 5 min`, `3 days`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.round(whole / 60)} min`;
  if (whole < 86_400) {
    const minutes = Math.round((whole % 3600) / 60);
    const hours = Math.floor(whole / 3600) + (minutes === 60 ? 1 : 0);
    return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes} min`;
  }
  return counted(Math.round(whole / 86_400), "day");
}

const two = (value: number) => String(value).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Formats a time in local time, without the parts that it shares with `now`. */
export function when(at: Date, now: Date): string {
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (at.toDateString() === now.toDateString()) return `${time}:${two(at.getSeconds())}`;
  const day = `${at.getDate()} ${MONTHS[at.getMonth()]}`;
  return at.getFullYear() === now.getFullYear()
    ? `${day}, ${time}`
    : `${day} ${at.getFullYear()}, ${time}`;
}

/** Formats a time to the millisecond, with its time zone. */
export function exact(at: Date): string {
  const offset = -at.getTimezoneOffset();
  const zone = `${offset < 0 ? "-" : "+"}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  const date = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return `${date} ${time}.${String(at.getMilliseconds()).padStart(3, "0")} ${zone}`;
}

/** Formats the time since `at`. */
export function ago(at: Date, now: Date): string {
  const seconds = (now.getTime() - at.getTime()) / 1000;
  if (seconds < 5) return "just now";
  return `${duration(seconds)} ago`;
}

/** Parses nanoseconds since 1970. Returns `undefined` if they are no valid time. */
export function fromNanoseconds(text: string): Date | undefined {
  if (!/^-?\d{1,30}$/.test(text)) return undefined;
  const milliseconds = Number(BigInt(text) / 1_000_000n);
  const at = new Date(milliseconds);
  return Number.isNaN(at.getTime()) ? undefined : at;
}

/** A piece of a name: plain text, or the escape sequence of an invisible character. */
export interface NamePart {
  text: string;
  isEscaped: boolean;
}

/**
 * Characters that are invisible or reorder text: control characters, marks and
 * overrides of bidirectional text, zero-width spaces, line separators, and lone
 * surrogates.
 */
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|[\u{e0000}-\u{e0fff}]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;

function escaped(character: string): string {
  switch (character) {
    case "\n":
      return "\\n";
    case "\r":
      return "\\r";
    case "\t":
      return "\\t";
    default:
      return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  }
}

/** Splits a name into pieces and escapes every invisible character. */
export function nameParts(name: string): NamePart[] {
  const parts: NamePart[] = [];
  let from = 0;
  for (const match of name.matchAll(UNSEEN)) {
    if (match.index > from) parts.push({ text: name.slice(from, match.index), isEscaped: false });
    parts.push({ text: escaped(match[0]), isEscaped: true });
    from = match.index + match[0].length;
  }
  if (from < name.length) parts.push({ text: name.slice(from), isEscaped: false });
  // Spaces at either end are invisible too.
  return parts.flatMap((part, index) => {
    if (part.isEscaped) return [part];
    const head = index === 0 ? (/^ +/.exec(part.text)?.[0] ?? "") : "";
    const rest = part.text.slice(head.length);
    const tail = index === parts.length - 1 ? (/ +$/.exec(rest)?.[0] ?? "") : "";
    const middle = rest.slice(0, rest.length - tail.length);
    const dots = (blanks: string): NamePart[] =>
      blanks ? [{ text: "\u2423".repeat(blanks.length), isEscaped: true }] : [];
    return [...dots(head), ...(middle ? [{ text: middle, isEscaped: false }] : []), ...dots(tail)];
  });
}

/** Returns a name with every invisible character escaped. */
export const visibleName = (name: string): string =>
  nameParts(name)
    .map((part) => part.text)
    .join("");

/** Returns the last component of a path. */
export const lastName = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

/** Shortens an id to its first and last six characters. */
export const shortId = (id: string): string =>
  id.length > 16 ? `${id.slice(0, 6)}…${id.slice(-6)}` : id;

/** Formats the permissions of a mode: `rw-r--r--`. */
export const permissions = (mode: number): string =>
  [6, 3, 0]
    .map((shift) => {
      const bits = (mode >> shift) & 7;
      return (bits & 4 ? "r" : "-") + (bits & 2 ? "w" : "-") + (bits & 1 ? "x" : "-");
    })
    .join("");

/** Returns a sentence about the directories of a folder that are left out. */
export function leftOutText(folder: { left_out?: { path: string; reason: string }[] }): string {
  const named = (folder.left_out ?? []).map(
    (dir) => `${visibleName(dir.path)} (${visibleName(dir.reason)})`,
  );
  return named.length === 0 ? "" : ` Not backed up: ${named.join(", ")}.`;
}
