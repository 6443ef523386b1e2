// End-to-end test: two real instances in a real browser, from pairing to restore.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";

import { strFromU8, unzipSync } from "fflate";

import { Instance, openBrowser, shots, temporary, until, watch } from "./harness.mjs";

const axeFile = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const HOSTILE = "in\u202Evoice\u0007\n<img src=x onerror=alert(1)>.txt";

let dir;
let a;
let b;
let browser;
let pageA;
let pageB;
let folder;
const faults = [];

before(async () => {
  dir = temporary();
  fs.rmSync(shots, { recursive: true, force: true });
  fs.mkdirSync(shots, { recursive: true });
  folder = path.join(dir, "Documents");
  fs.mkdirSync(path.join(folder, "letters/old"), { recursive: true });
  fs.mkdirSync(path.join(folder, "node_modules/x"), { recursive: true });
  fs.writeFileSync(path.join(folder, "report.txt"), "the first version\n");
  fs.writeFileSync(path.join(folder, "letters/one.txt"), "Dear reader");
  fs.writeFileSync(path.join(folder, "letters/old/two.txt"), "Yours truly");
  fs.writeFileSync(path.join(folder, "photo.raw"), Buffer.alloc(3_000_000, "photo"));
  fs.writeFileSync(path.join(folder, "node_modules/x/big.js"), Buffer.alloc(50_000, "x"));
  fs.writeFileSync(path.join(folder, HOSTILE), "harmless inside");
  a = await Instance.make(dir, "a");
  b = await Instance.make(dir, "b");
  await Promise.all([a.start(), b.start()]);
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  await Promise.all([a?.stop(), b?.stop()]);
  if (dir) fs.rmSync(dir, { recursive: true, force: true });
});

async function newPage() {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    acceptDownloads: true,
    permissions: ["clipboard-read", "clipboard-write"],
    timezoneId: "Europe/Berlin",
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  watch(page, faults);
  return page;
}

const go = (page, name) =>
  page.getByRole("navigation").getByRole("link", { name, exact: true }).click();

test("a browser is let in by a link that works once, and by nothing else", async () => {
  pageA = await newPage();
  await pageA.goto(`${a.url}/`);
  await pageA.getByRole("heading", { name: "Sign in" }).waitFor();
  await pageA.getByLabel("Or paste the token").fill("wrong");
  await pageA.getByRole("button", { name: "Sign in" }).click();
  await pageA.getByRole("alert").waitFor();
  await pageA.screenshot({ path: path.join(shots, "signin.png") });

  const link = a.run("ui");
  await pageA.goto(link);
  await pageA.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  assert.ok(!/key=|csrf=/.test(pageA.url()), "neither the key nor the code stays in an address");

  pageB = await newPage();
  await pageB.goto(link);
  await pageB.getByText("This link has already been used").waitFor();
  const token = fs.readFileSync(path.join(b.home, "data/api-token"), "utf8");
  await pageB.goto(`${b.url}/ui/`);
  await pageB.getByLabel("Or paste the token").fill(token);
  await pageB.getByRole("button", { name: "Sign in" }).click();
  await pageB.getByRole("heading", { name: "Overview", level: 1 }).waitFor();

  // The cookie alone cannot change anything, not even from the page's own origin.
  const status = await pageA.evaluate(
    async () =>
      (await fetch("/api/v1/poll", { method: "POST", credentials: "same-origin" })).status,
  );
  assert.equal(status, 401);
  // And the CSRF code cannot be read with it.
  const bare = await pageA.evaluate(async () => (await fetch("/api/v1/ui/session")).json());
  assert.deepEqual(bare, { signed_in: false });
  const cookies = await pageA.context().cookies();
  const session = cookies.find((cookie) => cookie.name.startsWith("archivist-"));
  assert.deepEqual([session.httpOnly, session.sameSite], [true, "Strict"]);
  const page = await fetch(`${a.url}/ui/`);
  const policy = page.headers.get("content-security-policy");
  assert.match(policy, /script-src 'nonce-[^' ]+';/);
  assert.ok(!policy.includes("unsafe") && policy.includes("frame-ancestors 'none'"), policy);
});

test("a folder is added, with a preview of what is excluded", async () => {
  await pageA.getByRole("button", { name: "Choose a folder" }).click();
  const dialog = pageA.getByRole("dialog");
  await dialog.getByLabel("Folder to back up").fill(dir);
  await dialog.getByRole("button", { name: "Documents", exact: true }).click();
  await dialog.getByRole("button", { name: "Options: name, exclusions" }).click();
  await dialog.getByRole("textbox", { name: "Exclude" }).fill("node_modules/");
  await dialog.getByText("Excluded: 1 file, 48.8 KiB").waitFor();
  await dialog.getByText("node_modules/", { exact: true }).first().waitFor();
  await pageA.screenshot({ path: path.join(shots, "add-folder.png") });
  await dialog.getByRole("button", { name: "Back up this folder" }).click();
  await pageA.getByRole("article", { name: "Documents" }).waitFor();
  await pageA.getByText("no backup server is set").first().waitFor();
});

test("a code brings the two together, and the backup arrives", async () => {
  await pageA.getByRole("link", { name: "Pair with a backup server" }).click();
  await pageA.getByRole("button", { name: "Show a code" }).last().click();
  const code = await pageA.locator(".code").innerText();
  await pageB.getByRole("link", { name: "Enter a pairing code" }).click();
  await pageB.getByLabel("Pairing code").fill("AAAA-wrong");
  await pageB.getByRole("button", { name: "Pair", exact: true }).click();
  await pageB.getByRole("dialog").getByRole("alert").waitFor();
  await pageB.getByLabel("Pairing code").fill(code);
  await pageB.getByRole("button", { name: "Pair", exact: true }).click();
  await pageB.getByText("Paired with").waitFor();
  await pageA.getByText("Paired. This computer's folders").waitFor();
  await pageA.screenshot({ path: path.join(shots, "paired.png") });
  await pageA.getByRole("button", { name: "Close", exact: true }).last().click();
  await pageB.getByRole("button", { name: "Done" }).click();
  await go(pageA, "Overview");
  // Without a reload: events update the page.
  await pageA
    .getByText(/^Everything up to .* is on the backup server\.$/)
    .waitFor({ timeout: 90_000 });
  const [shown] = (await a.status()).folders;
  assert.equal(shown.backed_up_sequence, shown.sequence);
  // The first snapshot contains everything that is not excluded.
  assert.equal(shown.files, 5);
});

test("a change is backed up now", async () => {
  const before = (await a.status()).folders[0].backed_up_sequence;
  fs.writeFileSync(path.join(folder, "report.txt"), "the second version, longer\n");
  const card = pageA.getByRole("article", { name: "Documents" });
  await card.getByRole("button", { name: "Backup now" }).click();
  await card.getByText("Notify the backup server.").waitFor();
  await until("the receipt", async () => (await a.status()).folders[0].backed_up_sequence > before);
  const sequence = (await a.status()).folders[0].backed_up_sequence;
  await card.getByText(new RegExp(`^#${sequence},`)).waitFor();
  await card.getByText("The backup server has confirmed the snapshot.").waitFor();
  await pageA.screenshot({ path: path.join(shots, "backup-now.png") });
});

async function saved(page, click) {
  const [download] = await Promise.all([page.waitForEvent("download"), click()]);
  const file = path.join(dir, `download-${Date.now()}`);
  await download.saveAs(file);
  return { name: download.suggestedFilename(), bytes: fs.readFileSync(file), file };
}

async function restoreOlder(page, target) {
  await go(page, "Restore");
  const snapshots = page.locator(".timeline button");
  await snapshots.first().waitFor();
  await page.getByRole("button", { name: "File report.txt", exact: true }).click();
  const drawer = page.getByRole("dialog");
  await drawer.getByText("Versions of this file").waitFor();
  const versions = drawer.getByRole("button", { name: /^Download from snapshot/ });
  await until("both versions", async () => (await versions.count()) === 2);
  const newest = await saved(page, () =>
    drawer.getByRole("button", { name: "Download", exact: true }).click(),
  );
  assert.equal(newest.bytes.toString(), "the second version, longer\n");
  assert.equal(newest.name, "report.txt");
  const oldest = await saved(page, () => versions.last().click());
  assert.equal(oldest.bytes.toString(), "the first version\n");
  await page.keyboard.press("Escape");

  await snapshots.last().click();
  await page.getByText("Snapshot #1,").waitFor();
  await page.getByRole("button", { name: "Restore everything" }).click();
  await page.getByLabel("Target directory").fill(target);
  await page.getByRole("button", { name: "Restore", exact: true }).click();
  await page.getByText(/^Restore \d+ finished:/).waitFor();
  const compared = spawnSync("diff", [
    "-r",
    "--exclude=node_modules",
    "--exclude=report.txt",
    folder,
    target,
  ]);
  assert.equal(compared.stdout.toString() + compared.stderr.toString(), "");
  assert.equal(fs.readFileSync(path.join(target, "report.txt"), "utf8"), "the first version\n");
  assert.ok(!fs.existsSync(path.join(target, "node_modules")));
}

test("an older snapshot is restored on the backup server, byte for byte", async () => {
  await restoreOlder(pageB, path.join(dir, "restored-on-b"));
});

test("and on the source, through the backup server", async () => {
  await restoreOlder(pageA, path.join(dir, "restored-on-a"));
});

test("a directory comes as a zip, and names are searched", async () => {
  await go(pageB, "Restore");
  await pageB.getByRole("button", { name: "letters" }).click();
  await pageB.getByRole("button", { name: "one.txt" }).waitFor();
  const zip = await saved(pageB, () =>
    pageB.getByRole("button", { name: "Zip of this directory" }).click(),
  );
  assert.equal(zip.name, "letters.zip");
  const content = Object.entries(unzipSync(zip.bytes)).map(([name, bytes]) => [
    name,
    strFromU8(bytes),
  ]);
  assert.deepEqual(content, [
    ["old/", ""],
    ["old/two.txt", "Yours truly"],
    ["one.txt", "Dear reader"],
  ]);
  await pageB.getByPlaceholder("Search names in this snapshot").fill("TWO");
  await pageB.getByText("1 name contains").waitFor();
  await pageB.getByRole("button", { name: "letters/old/two.txt" }).waitFor();
  await pageB.getByPlaceholder("Search names in this snapshot").fill("");
});

test("a hostile name is shown for what it is", async () => {
  await go(pageB, "Overview");
  await go(pageB, "Restore");
  const row = pageB.locator(".row-button", {
    hasText: "in\\u{202e}voice\\u{7}\\n<img src=x onerror=alert(1)>.txt",
  });
  await row.waitFor();
  assert.equal(await row.locator("img").count(), 0);
  assert.equal(await row.locator(".escaped").count(), 3);
  await row.click();
  const got = await saved(pageB, () =>
    pageB.getByRole("button", { name: "Download", exact: true }).click(),
  );
  assert.equal(got.bytes.toString(), "harmless inside");
  await pageB.screenshot({ path: path.join(shots, "hostile-name.png") });
  await pageB.keyboard.press("Escape");
});

test("wrong settings are reported at their field, and change nothing", async () => {
  await go(pageA, "Settings");
  const limit = pageA.getByRole("textbox", { name: "Upload limit" });
  await limit.fill("fast");
  await pageA.getByText(/Must be a rate/).waitFor();
  assert.ok(
    await pageA
      .getByRole("form", { name: "Upload limit" })
      .getByRole("button", { name: "Apply" })
      .isDisabled(),
  );
  await limit.fill("10MB/s");
  await pageA.getByText("= 9.54 MiB/s").waitFor();
  await pageA
    .getByRole("form", { name: "Upload limit" })
    .getByRole("button", { name: "Apply" })
    .click();
  await pageA.getByRole("form", { name: "Upload limit" }).getByText("Applied.").waitFor();
  assert.equal(a.run("config", "get", "sync.upload_limit"), "10MB/s");
  const text = fs.readFileSync(path.join(a.home, "config.toml"), "utf8");
  assert.ok(text.startsWith("# the settings of a\n"), "comments stay");
  // The page shows the program's answer to a value that only the program can check.
  const allowed = pageA.getByRole("textbox", { name: "Allowed addresses" });
  const before = a.run("config", "get", "manifest_server.whitelisted_ips");
  await allowed.fill("not an address");
  await pageA
    .getByRole("form", { name: "Allowed addresses" })
    .getByRole("button", { name: "Apply" })
    .click();
  await pageA
    .getByRole("form", { name: "Allowed addresses" })
    .getByText(/whitelisted_ips/)
    .waitFor();
  await pageA.screenshot({ path: path.join(shots, "wrong-setting.png") });
  assert.equal(a.run("config", "get", "manifest_server.whitelisted_ips"), before);
  await pageA
    .getByRole("form", { name: "Allowed addresses" })
    .getByRole("button", { name: "Undo" })
    .click();
  // After Undo the field is not edited any more, so it shows a change made elsewhere.
  await limit.fill("20MB/s");
  await pageA
    .getByRole("form", { name: "Upload limit" })
    .getByRole("button", { name: "Undo" })
    .click();
  a.run("config", "set", "sync.upload_limit", "5MB/s");
  await until("the new limit", async () => (await limit.inputValue()) === "5MB/s");
  assert.equal(
    await pageA
      .getByRole("form", { name: "Upload limit" })
      .getByRole("button", { name: "Apply" })
      .count(),
    0,
  );
  // A setting that needs a restart says so.
  await pageA.getByRole("switch", { name: "Show all settings" }).focus();
  await pageA.keyboard.press("Space");
  const port = pageA.getByRole("form", { name: "Port", exact: true });
  await port.getByRole("textbox").fill("18085");
  await port.getByRole("button", { name: "Apply" }).click();
  await pageA.getByText(/Restart needed/).waitFor();
  await port.getByRole("textbox").fill(String(a.ports.manifests));
  await port.getByRole("button", { name: "Apply" }).click();
  await pageA.getByText(/Restart needed/).waitFor({ state: "detached" });
});

test("the connection is tested step by step", async () => {
  await go(pageA, "Devices");
  await pageA.getByRole("button", { name: "Test the connection to the backup server" }).click();
  const steps = pageA.getByLabel("Backup server of this computer").getByRole("status");
  await steps.getByText("P2P connection.").waitFor();
  assert.equal(await steps.getByLabel("passed").count(), 4, await steps.innerText());
  await pageA.screenshot({ path: path.join(shots, "connection-test.png") });
});

test("the receipts are verified, listed and exported", async () => {
  const card = pageA.getByLabel("Receipts", { exact: true });
  await card.getByText(/^Documents.*: \d+ receipts, the newest for snapshot #\d+/).waitFor();
  await card.getByRole("button", { name: "Verify and list the receipts" }).click();
  await card.getByText("verified", { exact: true }).first().waitFor();
  const expected = JSON.parse(a.run("receipts", "--json"));
  const rows = await card.getByRole("row").allInnerTexts();
  assert.equal(rows.length, expected.length + 1, rows.join("\n"));
  assert.match(rows[1], new RegExp(`#${expected.at(-1).sequence}\\b`));
  await pageA.screenshot({ path: path.join(shots, "receipts.png"), fullPage: true });
  const file = await saved(pageA, () =>
    card.getByRole("button", { name: "Export as JSON" }).click(),
  );
  assert.equal(file.name, "receipts.json");
  assert.deepEqual(JSON.parse(file.bytes), expected);
});

test("prune shows what it would delete, and verify finds nothing missing", async () => {
  await go(pageB, "Backup server");
  await pageB.getByRole("button", { name: "Prune …" }).click();
  await pageB.getByText("No snapshot to remove").waitFor();
  await pageB.getByRole("dialog").getByRole("button", { name: "Close" }).last().click();
  await pageB.getByLabel("Read and compare every byte").check();
  await pageB.getByRole("button", { name: "Verify now" }).click();
  await pageB.getByText(/^No data is missing: .* read and compared/).waitFor();
});

const PAGES = [
  "Overview",
  "Folders",
  "Restore",
  "Backup server",
  "Devices",
  "Settings",
  "Events and logs",
];

async function accessible(page, where) {
  await page.evaluate(fs.readFileSync(axeFile, "utf8"));
  const found = await page.evaluate(() =>
    globalThis.axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    }),
  );
  const told = found.violations.map(
    (one) =>
      `${where}: ${one.id}: ${one.nodes
        .slice(0, 4)
        .map((node) => `${node.target} ${node.failureSummary}`)
        .join("\n   ")}`,
  );
  assert.deepEqual(told, []);
}

for (const [which, page] of [
  ["a", () => pageA],
  ["b", () => pageB],
]) {
  for (const scheme of ["light", "dark"]) {
    for (const width of [1280, 360]) {
      test(`every page of ${which}, ${scheme}, at ${width}: a picture, no violation, no overflow`, async () => {
        const one = page();
        await one.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
        await one.setViewportSize({ width, height: 900 });
        for (const name of PAGES) {
          if (width === 360) await one.getByRole("button", { name: "Show the pages" }).click();
          await go(one, name);
          await one.getByRole("heading", { name, level: 1 }).waitFor();
          await until(
            "it is loaded",
            async () => (await one.getByLabel("Loading", { exact: true }).count()) === 0,
          );
          const slug = name.toLowerCase().replaceAll(" ", "-");
          const wide = await one.evaluate(
            () => document.documentElement.scrollWidth - window.innerWidth,
          );
          assert.ok(wide <= 0, `${name} is ${wide} px too wide`);
          await one.screenshot({
            path: path.join(shots, `${slug}-${which}-${scheme}-${width}.png`),
            fullPage: true,
          });
          await accessible(one, `${name}, ${scheme}, ${width}`);
        }
      });
    }
  }
}

test("all of it can be reached by the keyboard", async () => {
  await pageA.setViewportSize({ width: 1280, height: 900 });
  await go(pageA, "Overview");
  await pageA.reload();
  await pageA.getByRole("button", { name: "Backup now" }).waitFor();
  await pageA.keyboard.press("Tab");
  assert.equal(
    await pageA.evaluate(() => document.activeElement?.textContent),
    "Skip to the content",
  );
  const seen = new Set();
  for (let steps = 0; steps < 60; steps += 1) {
    await pageA.keyboard.press("Tab");
    seen.add(await pageA.evaluate(() => document.activeElement?.textContent ?? ""));
  }
  for (const name of [...PAGES, "Backup now", "Pause", "Add a folder"]) {
    assert.ok(seen.has(name), `${name} is not reached`);
  }
});

test("the backup server is stopped and started: both pages say so and recover without a reload", async () => {
  await pageB.setViewportSize({ width: 1280, height: 900 });
  await go(pageB, "Overview");
  await pageB.evaluate(() => {
    globalThis.wasNotReloaded = true;
  });
  await b.stop();
  // The band says so, and so does each part of the page whose request failed.
  const noAnswer = pageB.getByText("Archivist on this computer does not answer").first();
  await noAnswer.waitFor();
  await pageB.screenshot({ path: path.join(shots, "stopped.png") });
  // Meanwhile the source reports that a change is not safe.
  fs.writeFileSync(path.join(folder, "report.txt"), "the third version\n");
  await go(pageA, "Overview");
  await pageA
    .locator(".band")
    .getByText(/Not all of Documents is on the backup server yet/)
    .waitFor();
  await b.start();
  await noAnswer.waitFor({ state: "detached" });
  assert.equal(await pageB.evaluate(() => globalThis.wasNotReloaded), true);
  // The session is still valid, and the backup continues.
  await go(pageB, "Backup server");
  await pageB.getByRole("button", { name: "Poll all now" }).click();
  await pageA
    .getByText(/^Everything up to .* is on the backup server\.$/)
    .waitFor({ timeout: 90_000 });
  await pageB.getByRole("cell", { name: "#3" }).first().waitFor();
});

test("what happened is in the journal", async () => {
  await go(pageA, "Events and logs");
  await pageA.getByText("The backup server confirmed snapshot 3 of Documents.").waitFor();
  await pageA.getByRole("tab", { name: "Debug log" }).click();
  await pageA.getByRole("log").getByText("archivist is running").waitFor();
});

test("what is not known yet is not said: neither alarms nor zeros", async () => {
  const cases = [
    [() => pageA, "/ui/", "config", /no backup server is set/, /^Everything up to/],
    [() => pageA, "/ui/devices", "config", /No backup server is set/, /^\/ip4\/.*\/p2p\//],
    [() => pageA, "/ui/devices", "peers", /No(t|( peer is)) connected/, /^Connected/],
    [() => pageA, "/ui/restore", "config", /stores no backups/, /^Snapshot #/],
    [
      () => pageB,
      "/ui/server",
      "snapshots",
      /^0 snapshots|^0$|none yet/,
      /^\d+ snapshots of 1 folder/,
    ],
    [() => pageA, "/ui/events", "journal", /No events yet/, /confirmed snapshot 3 of Documents/],
  ];
  for (const [which, address, delayed, mustNot, must] of cases) {
    const page = which();
    let release;
    const gate = new Promise((done) => {
      release = done;
    });
    let requested;
    const isRequested = new Promise((done) => {
      requested = done;
    });
    const matches = (url) => url.pathname === `/api/v1/${delayed}`;
    await page.route(matches, async (route) => {
      requested();
      await gate;
      await route.continue();
    });
    await page.goto(`${new URL(page.url()).origin}${address}`);
    await isRequested;
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.getByLabel("Loading", { exact: true }).or(page.getByText(/ …$/)).first().waitFor();
    assert.equal(
      await page.getByText(mustNot).count(),
      0,
      `${address} while ${delayed} is not known`,
    );
    release();
    await page.getByText(must).first().waitFor();
    await page.unroute(matches);
  }
});

test("the snapshot on screen stays when a newer one arrives", async () => {
  await go(pageB, "Overview");
  await go(pageB, "Restore");
  const chosen = pageB.getByRole("checkbox", { name: "Select photo.raw" });
  await chosen.check();
  const before = await pageB.getByText(/^Snapshot #/).innerText();
  fs.writeFileSync(path.join(folder, "report.txt"), "the fourth version\n");
  await pageB.getByText("A newer snapshot has arrived.").waitFor({ timeout: 60_000 });
  assert.ok(await chosen.isChecked(), "the selection stays");
  assert.equal(await pageB.getByText(/^Snapshot #/).innerText(), before);
  await pageB.screenshot({ path: path.join(shots, "newer.png") });
  await pageB.getByRole("button", { name: "Show the newest" }).click();
  await pageB.getByText("A newer snapshot has arrived.").waitFor({ state: "detached" });
  assert.notEqual(await pageB.getByText(/^Snapshot #/).innerText(), before);
  assert.ok(!(await chosen.isChecked()));
});

test("a folder is paused, resumed and removed", async () => {
  await go(pageA, "Folders");
  const card = pageA.getByRole("article", { name: "Documents" });
  await card.getByRole("button", { name: "Pause", exact: true }).click();
  await card.getByText("Paused: changes are not backed up.").waitFor();
  await card.getByRole("button", { name: "Resume", exact: true }).click();
  await card.getByText(/^All changes up to/).waitFor();
  await card.getByRole("button", { name: "Edit" }).click();
  await pageA.getByRole("textbox", { name: "Name" }).fill("Papers");
  await pageA.getByRole("button", { name: "Apply" }).click();
  await pageA
    .getByRole("article", { name: "Papers" })
    .getByRole("button", { name: "Remove" })
    .click();
  await pageA.screenshot({ path: path.join(shots, "remove-folder.png") });
  await pageA.getByRole("button", { name: "Stop backing it up" }).click();
  await pageA.getByText("No folder of this computer is backed up.").waitFor();
  assert.ok(fs.existsSync(path.join(folder, "report.txt")), "the folder itself is not touched");
});

test("a browser signs out, and one whose session has ended must sign in again", async () => {
  await pageB.getByRole("button", { name: "Sign out" }).click();
  await pageB.getByRole("heading", { name: "Sign in" }).waitFor();
  await pageB.reload();
  await pageB.getByRole("heading", { name: "Sign in" }).waitFor();
  // Reading is enough to notice it: the page polls the journal.
  await go(pageA, "Events and logs");
  await pageA.context().clearCookies();
  await pageA.getByRole("heading", { name: "Sign in" }).waitFor();
});

test("no page broke its policy or threw", () => {
  assert.deepEqual(faults, []);
});
