// Two real instances and a real browser.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, "../..");
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, "target");
const program = process.env.ARCHIVIST ?? path.join(target, "debug/archivist");

/** Where the screenshots go. */
export const shots = process.env.SCREENSHOTS ?? path.join(target, "ui-screenshots");

/** A port that is free now. */
async function freePort() {
  const server = net.createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Asks until the answer is there; fails after `limit` milliseconds. */
export async function until(what, ask, limit = 60_000) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > end) throw new Error(`it took too long: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** How long a program may take to end when it is asked to, in milliseconds. */
const END_LIMIT = 20_000;

/** Ends a program that was started here, and returns when it has ended. One that
 * does not within `limit` milliseconds is killed, and that is an error. */
export async function end(child, limit = END_LIMIT) {
  // Killed by a signal, it has no exit code, and "exit" has been told.
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  let timer;
  const late = new Promise((done) => {
    timer = setTimeout(done, limit, "late");
  });
  const first = await Promise.race([ended, late]);
  clearTimeout(timer);
  if (first !== "late") return;
  child.kill("SIGKILL");
  await ended;
  throw new Error(`the program ${child.pid} did not end within ${limit} ms`);
}

/** One instance, in a directory of its own, on ports of its own. */
export class Instance {
  static async make(dir, name) {
    const one = new Instance();
    one.name = name;
    one.home = path.join(dir, name);
    fs.mkdirSync(one.home, { recursive: true });
    const [listen, discovery, api, manifests, trigger] = await Promise.all(
      Array.from({ length: 5 }, freePort),
    );
    one.ports = { listen, discovery, api, manifests, trigger };
    one.url = `http://127.0.0.1:${api}`;
    fs.writeFileSync(
      path.join(one.home, "config.toml"),
      `# the settings of ${name}\n[node]\nlisten_port = ${listen}\ndiscovery_port = ${discovery}\n` +
        `api_port = ${api}\nbind = ["127.0.0.1"]\nmdns = false\ndisk_reserve = "0"\n` +
        `[manifest_server]\nport = ${manifests}\n[backup_server]\ntrigger_port = ${trigger}\n` +
        `poll_interval_secs = 5\n`,
    );
    return one;
  }

  async start() {
    this.log = fs.openSync(path.join(this.home, "log"), "a");
    this.process = spawn(program, ["--home", this.home, "daemon"], {
      stdio: ["ignore", this.log, this.log],
    });
    const ended = once(this.process, "exit");
    const answered = until(`${this.name} answers`, () =>
      fetch(`${this.url}/api/v1/status`).then(
        (answer) => answer.ok,
        () => false,
      ),
    );
    const first = await Promise.race([answered, ended.then(() => "ended")]);
    if (first === "ended") {
      throw new Error(
        `${this.name} did not start:\n${fs.readFileSync(path.join(this.home, "log"))}`,
      );
    }
  }

  async stop() {
    const { process: child, log } = this;
    if (!child) return;
    this.process = undefined;
    try {
      await end(child);
    } finally {
      fs.closeSync(log);
    }
  }

  /** Runs a command of this instance. */
  run(...args) {
    const done = spawnSync(program, ["--home", this.home, ...args], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(`archivist ${args.join(" ")}: ${done.stderr}`);
    return done.stdout.trim();
  }

  async status() {
    return (await fetch(`${this.url}/api/v1/status`)).json();
  }
}

/** The browser, with an empty profile. */
export async function openBrowser() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  return chromium.launch({
    executablePath,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** Notes what a page must not do: break its policy, throw, log errors. */
export function watch(page, faults) {
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    // What is asked while an instance is stopped fails, and is meant to.
    if (
      message.type() === "error" &&
      !/Failed to load resource|ERR_(CONNECTION|INCOMPLETE|EMPTY)/.test(text)
    ) {
      faults.push(`console: ${text}`);
    }
  });
}

/** A directory that is removed at the end. */
export function temporary() {
  return fs.mkdtempSync(path.join(os.tmpdir(), "archivist-ui-"));
}
