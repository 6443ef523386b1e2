// Labels, groups, units and validation of the settings. The list of settings
// itself comes from the program.

import type { KeyInfo } from "../api/model";
import { bytes, duration } from "./format";

/** The names of the groups, in the order of the page. */
export const GROUPS: { section: string; name: string; lead: string }[] = [
  {
    section: "manifest_server",
    name: "Manifest server",
    lead: "Tells backup servers which snapshots they can pull.",
  },
  {
    section: "backup_server",
    name: "Backup server",
    lead: "Pulls snapshots from sources and keeps them.",
  },
  {
    section: "sync",
    name: "Backup of this computer",
    lead: "Its backup server, and how often snapshots are made.",
  },
  { section: "node", name: "This instance", lead: "Ports, peers, storage and log." },
];

/** Keys that few users need. The page shows them only on request. */
const ADVANCED = new Set([
  "node.listen_port",
  "node.discovery_port",
  "node.api_port",
  "node.api_require_token",
  "node.bind",
  "node.announce_addresses",
  "node.bootstrap",
  "node.mdns",
  "sync.manifest_update_threshold",
  "sync.manifest_max_delay_ms",
  "sync.manifest_retry_interval_secs",
  "sync.manifest_max_retries",
  "sync.rescan_interval_secs",
  "backup_server.max_retries",
]);

export const isAdvanced = (key: KeyInfo): boolean => ADVANCED.has(key.path);

/** Returns the keys of a group that are set one by one. The tables of folders
 * and sources have pages of their own. */
export const keysOf = (keys: KeyInfo[], section: string): KeyInfo[] =>
  keys.filter(
    (key) =>
      key.path.startsWith(`${section}.`) &&
      !key.path.includes("[]") &&
      key.type !== "table" &&
      key.type !== "tables",
  );

/** Labels that say more than the name of the key. */
const LABELS: Record<string, string> = {
  "node.api_require_token": "Require the token for every API call",
  "node.bind": "Listen addresses",
  "node.mdns": "Find peers on the local network (mDNS)",
  "node.max_storage": "Storage quota",
  "node.disk_reserve": "Disk space to keep free",
  "sync.backup_peer_address": "Address of the backup server",
  "sync.backup_trigger_port": "Trigger port of the backup server",
  "sync.backup_auto_notify": "Notify the backup server of new snapshots",
  "sync.manifest_update_threshold": "Changed files that make a snapshot due",
  "sync.manifest_max_delay_ms": "Delay after the last change",
  "sync.rescan_interval_secs": "Interval between full scans",
  "sync.manifest_retry_interval_secs": "Interval between repeated notifications",
  "sync.manifest_max_retries": "Number of repeated notifications",
  "manifest_server.whitelisted_ips": "Allowed addresses",
  "backup_server.max_concurrent_downloads": "Folders pulled at the same time",
  "backup_server.keep.within": "Age up to which snapshots are only thinned",
  "backup_server.keep.last": "Newest snapshots to keep",
  "backup_server.keep.hourly": "Hourly snapshots to keep",
  "backup_server.keep.daily": "Daily snapshots to keep",
  "backup_server.keep.weekly": "Weekly snapshots to keep",
  "backup_server.keep.monthly": "Monthly snapshots to keep",
};

/** Returns the label of a key. */
export function label(path: string): string {
  const own = LABELS[path];
  if (own) return own;
  const words = path
    .split(".")
    .slice(1)
    .join(": ")
    .replaceAll("_", " ")
    .replace(/ secs$/, "")
    .replace(/ ms$/, "")
    .replace(/\bips\b/, "IPs")
    .replace(/\bapi\b/i, "API")
    .replace(/\bmdns\b/, "mDNS");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Returns the value at a path of the configuration. */
export function valueAt(config: unknown, path: string): unknown {
  let value = config;
  for (const name of path.split(".")) {
    if (!value || typeof value !== "object") return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

const FACTORS: Record<string, number> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  pb: 1e15,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
  pib: 1024 ** 5,
};

/** Parses a size such as `500GB`. Returns `undefined` for any other text. */
export function parseSize(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text);
  const factor = match?.[2] === undefined ? undefined : FACTORS[match[2].toLowerCase()];
  return match && factor !== undefined ? Number(match[1]) * factor : undefined;
}

/** Converts a value to a more readable unit. Returns `undefined` if that adds nothing. */
export function inUnits(key: KeyInfo, value: string): string | undefined {
  if (key.unit === "seconds" || key.unit === "milliseconds") {
    const number = Number(value);
    if (!/^\d+$/.test(value)) return undefined;
    const seconds = key.unit === "seconds" ? number : number / 1000;
    return seconds >= 60 || key.unit === "milliseconds"
      ? `= ${seconds < 1 ? `${number} ms` : duration(seconds)}`
      : undefined;
  }
  if (key.type === "size" || key.type === "rate") {
    const size = parseSize(value.replace(/\/s$/, ""));
    if (size === undefined) return undefined;
    if (size === 0) return key.path.endsWith("disk_reserve") ? "no space is kept free" : "no limit";
    return `= ${bytes(Math.round(size))}${key.type === "rate" ? "/s" : ""}`;
  }
  return undefined;
}

/** Checks a typed value and returns the error, if any. The program checks the
 * value again when it is applied. */
export function wrong(key: KeyInfo, text: string): string | undefined {
  const value = text.trim();
  if (key.type === "number" || key.type === "port") {
    const number = Number(value);
    const [min, max] = [
      key.min ?? 0,
      key.max ?? (key.type === "port" ? 65_535 : Number.MAX_SAFE_INTEGER),
    ];
    if (!/^\d+$/.test(value) || number < min || number > max) return `Must be ${key.allowed}.`;
  }
  if (key.type === "size" || key.type === "rate") {
    if (key.type === "rate" && value !== "0" && !/\/s$/.test(value))
      return `Must be ${key.allowed}.`;
    const size = parseSize(value.replace(/\/s$/, ""));
    if (size === undefined) return `Must be ${key.allowed}.`;
    if (size !== 0 && (size < (key.min ?? 0) || size > (key.max ?? Number.POSITIVE_INFINITY))) {
      return `Must be ${key.allowed}.`;
    }
  }
  return undefined;
}

/** Converts a value to text for the form: one line per list item. */
export function asText(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return value.map(String).join("\n");
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Converts typed text to a value of the key's type. */
export function fromText(key: KeyInfo, text: string): unknown {
  if (key.type === "list")
    return text
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
  const value = text.trim();
  return key.type === "number" || key.type === "port" ? Number(value) : value;
}
