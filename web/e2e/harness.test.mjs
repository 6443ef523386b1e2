// Tests of the harness: the tests end even if an instance does not.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";

import { end } from "./harness.mjs";

/** Starts a program that runs `script` and never ends. Returns when it is running. */
async function running(script) {
  const child = spawn(
    process.execPath,
    ["-e", `${script}; setInterval(() => {}, 1000); console.log("ready")`],
    {
      stdio: ["ignore", "pipe", "ignore"],
    },
  );
  await once(child.stdout, "data");
  return child;
}

test("a program that ends when it is asked to has ended", async () => {
  const child = await running("");
  await end(child);
  assert.equal(child.signalCode, "SIGTERM");
});

test("one that was killed meanwhile is not waited for", async () => {
  const child = await running("");
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
  assert.equal(child.exitCode, null);
  await end(child);
});

test("one that does not end is killed, and that is an error", async () => {
  const child = await running('process.on("SIGTERM", () => {})');
  await assert.rejects(end(child, 200), /did not end within 200 ms/);
  assert.equal(child.signalCode, "SIGKILL");
});
