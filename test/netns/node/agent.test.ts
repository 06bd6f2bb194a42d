import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { callUnixJson } from "../../../src/platform/unix-http-client.js";
import { eventually } from "../../helpers/eventually.js";
import { commandOf } from "../standalone/mesh.js";
import { agentCommand, agentEnvironment } from "./agent-process.js";

const directory = "/run/meltemi/agent-test";
const config = join(directory, "config");
const run = join(directory, "run");

const dataPlanes = (): number[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => commandOf(name).includes(` ztunnel --node n1 --run-dir ${run} `))
    .map(Number);

it("ends what it started where it has no configuration, and says so; leaves what an agent before it left", async () => {
  mkdirSync(directory, { recursive: true });
  const [program, args] = agentCommand(directory, config, run);
  const options = { env: agentEnvironment, extendEnv: false, reject: false, timeout: 30_000 } as const;

  const first = await execa(program, args, options);
  expect(first.exitCode).toBe(1);
  expect(first.stdout + first.stderr).toContain(`there is no directory ${config}`);
  expect(dataPlanes()).toEqual([]);
  expect(existsSync(join(run, "proxy.json"))).toBe(false);
  expect(readdirSync(run).filter((name) => name.endsWith(".sock"))).toEqual([]);

  mkdirSync(config);
  const killed = execa(program, args, options);
  await eventually("a data plane", async () => {
    const answer = await callUnixJson({ socketPath: join(run, "node-admin.sock"), path: "/status" }).catch(
      () => ({}),
    );
    return (
      (answer as { data_plane?: { ready?: boolean; pid?: number } }).data_plane?.pid !== undefined &&
      dataPlanes().length === 1
    );
  });
  killed.kill("SIGKILL");
  await killed;
  const left = dataPlanes();
  rmSync(config, { recursive: true });
  expect((await execa(program, args, options)).exitCode).toBe(1);
  expect(dataPlanes()).toEqual(left);
  expect((JSON.parse(readFileSync(join(run, "proxy.json"), "utf8")) as { pid: number }).pid).toBe(left[0]);

  mkdirSync(config);
  const last = execa(program, args, options);
  await eventually("the take-over", async () => {
    const answer = await callUnixJson({ socketPath: join(run, "node-admin.sock"), path: "/status" }).catch(
      () => ({}),
    );
    return (answer as { data_plane?: { pid?: number } }).data_plane?.pid === left[0];
  });
  last.kill("SIGTERM");
  expect((await last).exitCode).toBe(0);
  expect(dataPlanes()).toEqual([]);
  rmSync(directory, { recursive: true });
});
