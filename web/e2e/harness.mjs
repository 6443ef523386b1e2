// Test harness: two real instances and a real browser.

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

/** Directory of the screenshots. */
export const shots = process.env.SCREENSHOTS ?? path.join(target, "ui-screenshots");

/** Returns a port that is free now. */
async function freePort() {
  const server = net.createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Calls `ask` until it returns a truthy value. Throws after `limit` milliseconds. */
export async function until(what, ask, limit = 60_000) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > end) throw new Error(`timed out after ${limit} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** Time that a program may take to end after SIGTERM, in milliseconds. */
const END_LIMIT = 20_000;

/** Sends SIGTERM to a child process and returns when it has ended. Kills it and
 * throws if it has not ended within `limit` milliseconds. */
export async function end(child, limit = END_LIMIT) {
  // A process killed by a signal has no exit code, and its "exit" event has passed.
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

/** An instance with its own directory and its own ports. */
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

  /** Runs a command on this instance. */
  run(...args) {
    const done = spawnSync(program, ["--home", this.home, ...args], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(`archivist ${args.join(" ")}: ${done.stderr}`);
    return done.stdout.trim();
  }

  async status() {
    return (await fetch(`${this.url}/api/v1/status`)).json();
  }
}

/** Opens the browser with an empty profile. */
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

/** Records violations of the page's policy, exceptions and logged errors in `faults`. */
export function watch(page, faults) {
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    // Requests to a stopped instance fail, as they should.
    if (
      message.type() === "error" &&
      !/Failed to load resource|ERR_(CONNECTION|INCOMPLETE|EMPTY)/.test(text)
    ) {
      faults.push(`console: ${text}`);
    }
  });
}

/** Makes a temporary directory. The caller removes it. */
export function temporary() {
  return fs.mkdtempSync(path.join(os.tmpdir(), "archivist-ui-"));
}
