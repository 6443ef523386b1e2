// The settings: which there are comes from the program; here is how they are
// called, grouped and written.

import type { KeyInfo } from "../api/model";
import { bytes, duration } from "./format";

/** The names of the groups, in the order of the page. */
export const GROUPS: { section: string; name: string; lead: string }[] = [
  {
    section: "manifest_server",
    name: "Manifest server",
    lead: "Tells backup servers what there is to pull.",
  },
  {
    section: "backup_server",
    name: "Backup server",
    lead: "Pulls from other machines, and keeps their versions.",
  },
  {
    section: "sync",
    name: "Backup of this machine",
    lead: "Where to, and how often versions are made.",
  },
  { section: "node", name: "This instance", lead: "Ports, peers, storage, log." },
];

/** Keys that few need: shown behind a switch. */
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

/** The keys of a group that are set one by one: tables of folders and sources
 * have pages of their own. */
export const keysOf = (keys: KeyInfo[], section: string): KeyInfo[] =>
  keys.filter(
    (key) =>
      key.path.startsWith(`${section}.`) &&
      !key.path.includes("[]") &&
      key.type !== "table" &&
      key.type !== "tables",
  );

/** The last words of a key, as a person reads them. */
export function label(path: string): string {
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

/** The value at a path of the configuration. */
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

/** The bytes of `500GB`, where it is such a text. */
export function parseSize(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text);
  const factor = match?.[2] === undefined ? undefined : FACTORS[match[2].toLowerCase()];
  return match && factor !== undefined ? Number(match[1]) * factor : undefined;
}

/** What a value comes to in units that people use, where that says more. */
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
    if (size === 0)
      return key.path.endsWith("disk_reserve") ? "nothing is kept free" : "no limit of its own";
    return `= ${bytes(Math.round(size))}${key.type === "rate" ? "/s" : ""}`;
  }
  return undefined;
}

/** What is wrong with what was typed, as far as it can be told here; the
 * program has the last word. */
export function wrong(key: KeyInfo, text: string): string | undefined {
  const value = text.trim();
  if (key.type === "number" || key.type === "port") {
    const number = Number(value);
    const [min, max] = [
      key.min ?? 0,
      key.max ?? (key.type === "port" ? 65_535 : Number.MAX_SAFE_INTEGER),
    ];
    if (!/^\d+$/.test(value) || number < min || number > max) return `It has to be ${key.allowed}.`;
  }
  if (key.type === "size" || key.type === "rate") {
    if (key.type === "rate" && value !== "0" && !/\/s$/.test(value))
      return `It has to be ${key.allowed}.`;
    const size = parseSize(value.replace(/\/s$/, ""));
    if (size === undefined) return `It has to be ${key.allowed}.`;
    if (size !== 0 && (size < (key.min ?? 0) || size > (key.max ?? Number.POSITIVE_INFINITY))) {
      return `It has to be ${key.allowed}.`;
    }
  }
  return undefined;
}

/** A value as it is typed: lists a line each. */
export function asText(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return value.map(String).join("\n");
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What was typed as a value of its kind. */
export function fromText(key: KeyInfo, text: string): unknown {
  if (key.type === "list")
    return text
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
  const value = text.trim();
  return key.type === "number" || key.type === "port" ? Number(value) : value;
}
