// The whole story, on two real instances, in a real browser.

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

test("a browser is let in by a link that counts once, and by nothing else", async () => {
  pageA = await newPage();
  await pageA.goto(`${a.url}/`);
  await pageA.getByRole("heading", { name: "Let this browser in" }).waitFor();
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
  await pageB.getByText("That link was used already").waitFor();
  const token = fs.readFileSync(path.join(b.home, "data/api-token"), "utf8");
  await pageB.goto(`${b.url}/ui/`);
  await pageB.getByLabel("Or paste the token").fill(token);
  await pageB.getByRole("button", { name: "Sign in" }).click();
  await pageB.getByRole("heading", { name: "Overview", level: 1 }).waitFor();

  // The cookie alone changes nothing, from the page's own origin even.
  const status = await pageA.evaluate(
    async () =>
      (await fetch("/api/v1/poll", { method: "POST", credentials: "same-origin" })).status,
  );
  assert.equal(status, 401);
  // And has no way to the code that changes carry.
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

test("a folder is added, with a look at what is left out", async () => {
  await pageA.getByRole("button", { name: "Choose a folder" }).click();
  const dialog = pageA.getByRole("dialog");
  await dialog.getByLabel("Folder to back up").fill(dir);
  await dialog.getByRole("button", { name: "Documents", exact: true }).click();
  await dialog.getByRole("button", { name: "Name it, or leave something out" }).click();
  await dialog.getByLabel("Leave out").fill("node_modules/");
  await dialog.getByText("Left out: 1 file, 48.8 KiB").waitFor();
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
  await pageA.getByText("Paired. This machine's folders").waitFor();
  await pageA.screenshot({ path: path.join(shots, "paired.png") });
  await pageA.getByRole("button", { name: "Close", exact: true }).last().click();
  await pageB.getByRole("button", { name: "Done" }).click();
  await go(pageA, "Overview");
  // Without a reload: by events alone.
  await pageA
    .getByText(/^Everything up to .* is on the backup server\.$/)
    .waitFor({ timeout: 90_000 });
  const [shown] = (await a.status()).folders;
  assert.equal(shown.backed_up_sequence, shown.sequence);
  // The first version: all but what is left out.
  assert.equal(shown.files, 5);
});

test("a change is backed up now", async () => {
  const before = (await a.status()).folders[0].backed_up_sequence;
  fs.writeFileSync(path.join(folder, "report.txt"), "the second version, longer\n");
  const card = pageA.getByRole("article", { name: "Documents" });
  await card.getByRole("button", { name: "Backup now" }).click();
  await card.getByText("Tell it to look.").waitFor();
  await until("the receipt", async () => (await a.status()).folders[0].backed_up_sequence > before);
  const sequence = (await a.status()).folders[0].backed_up_sequence;
  await card.getByText(new RegExp(`^#${sequence},`)).waitFor();
  await card.getByText("The backup server has all of it.").waitFor();
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
  const moments = page.locator(".timeline button");
  await moments.first().waitFor();
  await page.getByRole("button", { name: "File report.txt", exact: true }).click();
  const drawer = page.getByRole("dialog");
  await drawer.getByText("Versions of this file").waitFor();
  const versions = drawer.getByRole("link", { name: /^Download version/ });
  await until("both versions", async () => (await versions.count()) === 2);
  const newest = await saved(page, () =>
    drawer.getByRole("link", { name: "Download", exact: true }).click(),
  );
  assert.equal(newest.bytes.toString(), "the second version, longer\n");
  assert.equal(newest.name, "report.txt");
  const oldest = await saved(page, () => versions.last().click());
  assert.equal(oldest.bytes.toString(), "the first version\n");
  await page.keyboard.press("Escape");

  await moments.last().click();
  await page.getByText("Version #1,").waitFor();
  await page.getByRole("button", { name: "Restore all of it" }).click();
  await page.getByLabel("Into the directory").fill(target);
  await page.getByRole("button", { name: "Restore", exact: true }).click();
  await page.getByText(/^Restore \d+ is done:/).waitFor();
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

test("an older version is restored on the backup server, byte for byte", async () => {
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
    pageB.getByRole("link", { name: "Zip of this directory" }).click(),
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
  await pageB.getByPlaceholder("Search names in this version").fill("TWO");
  await pageB.getByText("1 name with").waitFor();
  await pageB.getByRole("button", { name: "letters/old/two.txt" }).waitFor();
  await pageB.getByPlaceholder("Search names in this version").fill("");
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
    pageB.getByRole("link", { name: "Download", exact: true }).click(),
  );
  assert.equal(got.bytes.toString(), "harmless inside");
  await pageB.screenshot({ path: path.join(shots, "hostile-name.png") });
  await pageB.keyboard.press("Escape");
});

test("wrong settings are told where they are typed, and change nothing", async () => {
  await go(pageA, "Settings");
  const limit = pageA.getByRole("textbox", { name: "Upload limit" });
  await limit.fill("fast");
  await pageA.getByText(/It has to be a rate/).waitFor();
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
  // What only the program can know is its answer.
  const allowed = pageA.getByRole("textbox", { name: "Whitelisted IPs" });
  const before = a.run("config", "get", "manifest_server.whitelisted_ips");
  await allowed.fill("not an address");
  await pageA
    .getByRole("form", { name: "Whitelisted IPs" })
    .getByRole("button", { name: "Apply" })
    .click();
  await pageA
    .getByRole("form", { name: "Whitelisted IPs" })
    .getByText(/whitelisted_ips/)
    .waitFor();
  await pageA.screenshot({ path: path.join(shots, "wrong-setting.png") });
  assert.equal(a.run("config", "get", "manifest_server.whitelisted_ips"), before);
  await pageA
    .getByRole("form", { name: "Whitelisted IPs" })
    .getByRole("button", { name: "Undo" })
    .click();
  // What was undone is no edit: what is changed elsewhere is shown.
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
  // One that needs a restart says so.
  await pageA.getByRole("switch", { name: "Show all settings" }).focus();
  await pageA.keyboard.press("Space");
  const port = pageA.getByRole("form", { name: "Port", exact: true });
  await port.getByRole("textbox").fill("18085");
  await port.getByRole("button", { name: "Apply" }).click();
  await pageA.getByText(/A restart is needed/).waitFor();
  await port.getByRole("textbox").fill(String(a.ports.manifests));
  await port.getByRole("button", { name: "Apply" }).click();
  await pageA.getByText(/A restart is needed/).waitFor({ state: "detached" });
});

test("the connection is tested step by step", async () => {
  await go(pageA, "Devices");
  await pageA.getByRole("button", { name: "Test the connection to the backup server" }).click();
  const steps = pageA.getByLabel("Backup server of this machine").getByRole("status");
  await steps.getByText("P2P connection.").waitFor();
  assert.equal(await steps.getByLabel("works").count(), 4, await steps.innerText());
  await pageA.screenshot({ path: path.join(shots, "connection-test.png") });
});

test("prune shows what would go, and verify what is there", async () => {
  await go(pageB, "Backup server");
  await pageB.getByRole("button", { name: "Prune …" }).click();
  await pageB.getByText("Nothing is to be removed").waitFor();
  await pageB.getByRole("dialog").getByRole("button", { name: "Close" }).last().click();
  await pageB.getByLabel("Read and compare every byte").check();
  await pageB.getByRole("button", { name: "Verify now" }).click();
  await pageB.getByText(/^All is there: .* read and compared/).waitFor();
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
  await pageB.getByText("Archivist on this machine does not answer").waitFor();
  await pageB.screenshot({ path: path.join(shots, "stopped.png") });
  // Meanwhile the source says that it is not safe.
  fs.writeFileSync(path.join(folder, "report.txt"), "the third version\n");
  await go(pageA, "Overview");
  await pageA
    .locator(".band")
    .getByText(/Not all of Documents is on the backup server yet/)
    .waitFor();
  await b.start();
  await pageB.getByText("Archivist on this machine does not answer").waitFor({ state: "detached" });
  assert.equal(await pageB.evaluate(() => globalThis.wasNotReloaded), true);
  // The session goes on, and so does the backup.
  await go(pageB, "Backup server");
  await pageB.getByRole("button", { name: "Poll all now" }).click();
  await pageA
    .getByText(/^Everything up to .* is on the backup server\.$/)
    .waitFor({ timeout: 90_000 });
  await pageB.getByRole("cell", { name: "#3" }).first().waitFor();
});

test("what happened is in the journal", async () => {
  await go(pageA, "Events and logs");
  await pageA.getByText(/The backup server has version 3 of Documents, whole/).waitFor();
  await pageA.getByRole("tab", { name: "Debug log" }).click();
  await pageA.getByRole("log").getByText("archivist is running").waitFor();
});

test("what is not known yet is not said: neither alarms nor zeros", async () => {
  const cases = [
    [() => pageA, "/ui/", "config", /no backup server is set/, /^Everything up to/],
    [() => pageA, "/ui/devices", "config", /No backup server is set/, /^\/ip4\/.*\/p2p\//],
    [() => pageA, "/ui/devices", "peers", /No(t|( peer is)) connected/, /^Connected/],
    [() => pageA, "/ui/restore", "config", /holds no backups/, /^Version #/],
    [
      () => pageB,
      "/ui/server",
      "snapshots",
      /^0 versions|^0$|none yet/,
      /^\d+ versions of 1 folder/,
    ],
    [() => pageA, "/ui/events", "journal", /Nothing has happened/, /has version 3 of Documents/],
  ];
  for (const [which, address, held, mustNot, must] of cases) {
    const page = which();
    let release;
    const gate = new Promise((done) => {
      release = done;
    });
    let asked;
    const isAsked = new Promise((done) => {
      asked = done;
    });
    const matches = (url) => url.pathname === `/api/v1/${held}`;
    await page.route(matches, async (route) => {
      asked();
      await gate;
      await route.continue();
    });
    await page.goto(`${new URL(page.url()).origin}${address}`);
    await isAsked;
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.getByLabel("Loading", { exact: true }).or(page.getByText(/ …$/)).first().waitFor();
    assert.equal(await page.getByText(mustNot).count(), 0, `${address} while ${held} is not known`);
    release();
    await page.getByText(must).first().waitFor();
    await page.unroute(matches);
  }
});

test("what is looked at stays when a newer version comes", async () => {
  await go(pageB, "Overview");
  await go(pageB, "Restore");
  const chosen = pageB.getByRole("checkbox", { name: "Choose photo.raw" });
  await chosen.check();
  const before = await pageB.getByText(/^Version #/).innerText();
  fs.writeFileSync(path.join(folder, "report.txt"), "the fourth version\n");
  await pageB.getByText("A newer version has come.").waitFor({ timeout: 60_000 });
  assert.ok(await chosen.isChecked(), "what was chosen stays");
  assert.equal(await pageB.getByText(/^Version #/).innerText(), before);
  await pageB.screenshot({ path: path.join(shots, "newer.png") });
  await pageB.getByRole("button", { name: "Show the newest" }).click();
  await pageB.getByText("A newer version has come.").waitFor({ state: "detached" });
  assert.notEqual(await pageB.getByText(/^Version #/).innerText(), before);
  assert.ok(!(await chosen.isChecked()));
});

test("a folder is paused, resumed and removed", async () => {
  await go(pageA, "Folders");
  const card = pageA.getByRole("article", { name: "Documents" });
  await card.getByRole("button", { name: "Pause", exact: true }).click();
  await card.getByText("Paused: changes are not backed up.").waitFor();
  await card.getByRole("button", { name: "Resume", exact: true }).click();
  await card.getByText(/^All of it up to/).waitFor();
  await card.getByRole("button", { name: "Edit" }).click();
  await pageA.getByRole("textbox", { name: "Name" }).fill("Papers");
  await pageA.getByRole("button", { name: "Apply" }).click();
  await pageA
    .getByRole("article", { name: "Papers" })
    .getByRole("button", { name: "Remove" })
    .click();
  await pageA.screenshot({ path: path.join(shots, "remove-folder.png") });
  await pageA.getByRole("button", { name: "Stop backing it up" }).click();
  await pageA.getByText("No folder of this machine is backed up.").waitFor();
  assert.ok(fs.existsSync(path.join(folder, "report.txt")), "the folder itself is not touched");
});

test("a browser leaves, and one whose session is over is asked in again", async () => {
  await pageB.getByRole("button", { name: "Sign out" }).click();
  await pageB.getByRole("heading", { name: "Let this browser in" }).waitFor();
  await pageB.reload();
  await pageB.getByRole("heading", { name: "Let this browser in" }).waitFor();
  // By what only looks, too: the journal is asked for again and again.
  await go(pageA, "Events and logs");
  await pageA.context().clearCookies();
  await pageA.getByRole("heading", { name: "Let this browser in" }).waitFor();
});

test("no page broke its policy or threw", () => {
  assert.deepEqual(faults, []);
});
