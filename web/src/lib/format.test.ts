import { describe, expect, it } from "vitest";

import {
  ago,
  bytes,
  counted,
  duration,
  exact,
  fromNanoseconds,
  nameParts,
  permissions,
  shortId,
  visibleName,
  when,
} from "./format";

describe("bytes", () => {
  it("are in binary units and never 1024 of one", () => {
    expect(bytes(0)).toBe("0 B");
    expect(bytes(1023)).toBe("1023 B");
    expect(bytes(1024)).toBe("1.00 KiB");
    expect(bytes(1536)).toBe("1.50 KiB");
    expect(bytes(1024 ** 2 - 1)).toBe("1.00 MiB");
    expect(bytes(25.8 * 1024 ** 2)).toBe("25.8 MiB");
    expect(bytes(500 * 1024 ** 3)).toBe("500 GiB");
    expect(bytes(Number.MAX_SAFE_INTEGER)).toBe("8.00 PiB");
  });
});

describe("duration", () => {
  it("says what people say", () => {
    expect(duration(0.4)).toBe("0 s");
    expect(duration(59)).toBe("59 s");
    expect(duration(61)).toBe("1 min");
    expect(duration(3600)).toBe("1 h");
    expect(duration(2 * 3600 + 300)).toBe("2 h 5 min");
    expect(duration(2 * 3600 - 10)).toBe("2 h");
    expect(duration(3 * 86_400)).toBe("3 days");
    expect(duration(Number.NaN)).toBe("");
    expect(duration(Number.POSITIVE_INFINITY)).toBe("");
  });
});

describe("moments", () => {
  const now = new Date("2026-11-22T12:00:00Z");
  it("are as short as can be", () => {
    expect(when(new Date("2026-11-22T10:04:31Z"), now)).toBe("10:04:31");
    expect(when(new Date("2026-11-20T10:04:31Z"), now)).toBe("20 Nov, 10:04");
    expect(when(new Date("2025-11-20T10:04:31Z"), now)).toBe("20 Nov 2025, 10:04");
    expect(exact(new Date("2026-11-22T10:04:31.005Z"))).toBe("2026-11-22 10:04:31.005 +00:00");
    expect(ago(new Date("2026-11-22T11:58:00Z"), now)).toBe("2 min ago");
    // Never negative, even if the other clock is ahead.
    expect(ago(new Date("2026-11-22T12:00:30Z"), now)).toBe("just now");
  });
  it("come from nanoseconds beyond what numbers carry", () => {
    expect(fromNanoseconds("1700000000123456789")?.toISOString()).toBe("2023-11-14T22:13:20.123Z");
    expect(fromNanoseconds("-1000000")?.getTime()).toBe(-1);
    expect(fromNanoseconds("99999999999999999999999999")).toBeUndefined();
    expect(fromNanoseconds("x")).toBeUndefined();
  });
});

describe("names", () => {
  it("hide nothing", () => {
    expect(visibleName("plain ünïcode 文件.txt")).toBe("plain ünïcode 文件.txt");
    expect(visibleName("evil\u202Egpj.exe")).toBe("evil\\u{202e}gpj.exe");
    expect(visibleName("a\nb\tc\u0000\u001b[31m")).toBe("a\\nb\\tc\\u{0}\\u{1b}[31m");
    expect(visibleName("\u2066x\u2069\u200b\ufeff")).toBe("\\u{2066}x\\u{2069}\\u{200b}\\u{feff}");
    expect(visibleName("\u{e0041}")).toBe("\\u{e0041}");
    expect(visibleName("half \ud800 pair")).toBe("half \\u{d800} pair");
    expect(visibleName(" a b ")).toBe("␣a b␣");
    expect(visibleName("   ")).toBe("␣␣␣");
    expect(visibleName("👩‍👩‍👧")).toContain("👩");
  });
  it("keep apart what was escaped and what looks like it", () => {
    expect(nameParts("\\n\n")).toEqual([
      { text: "\\n", isEscaped: false },
      { text: "\\n", isEscaped: true },
    ]);
    expect(nameParts("")).toEqual([]);
  });
});

it("counts with nouns", () => {
  expect(counted(1, "file")).toBe("1 file");
  expect(counted(1234, "file")).toBe("1,234 files");
  expect(counted(2, "entry", "entries")).toBe("2 entries");
});

it("writes modes and short ids", () => {
  expect(permissions(0o644)).toBe("rw-r--r--");
  expect(permissions(0o4751)).toBe("rwxr-x--x");
  expect(shortId("16Uiu2HAmAAAAAAAAAAAAAAbbbbbb")).toBe("16Uiu2…bbbbbb");
  expect(shortId("short")).toBe("short");
});
