import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { catalogCallers, catalogPolicy, catalogPort, ledgerPort } from "../manifests.js";
import type { HttpSummary, World } from "../world.js";
import { errorsOf } from "./balance.js";
import type { Row } from "./row.js";

interface HoldSummary {
  readonly echoed: number;
  readonly ended: string;
}

const catalogUrl = (world: World): string => `http://${world.topology.pod("catalog-2").ip}:${catalogPort}/`;

export const deciders: Row = {
  name: "agents and control plane killed: traffic goes on",
  expected:
    "no failed request over new connections, and a held one stays, while all of them are dead and restarted",
  attempt: async (world) => {
    const target = `${world.topology.pod("ledger").ip}:${ledgerPort}`;
    const held = world.continuous<HoldSummary>("frontend", [
      "hold",
      ...flags({ connect: target, intervalMs: 20 }),
    ]);
    const load = world.continuous<HttpSummary>("frontend", [
      "http",
      ...flags({ url: catalogUrl(world), intervalMs: 5, keepalive: "false", untilSignal: true }),
    ]);
    const killed = await world.kill("control-plane", "node-n1", "node-n2");
    // They come back by themselves; until then, and after, nothing is lost.
    await eventually("the control plane and the agents to be back", async () => {
      const now = await world.processes();
      return [...killed].every(([name, pid]) => (now.get(name) ?? pid) !== pid) ? true : undefined;
    });
    await world.allEnrolled();
    const [summary, hold] = [await load.stop(), await held.stop()];
    return {
      seen: `${summary.ok} of ${summary.requests} requests answered${errorsOf(summary)}; the held connection ${hold.ended === "signal" ? "stayed" : `ended: ${hold.ended}`} (${hold.echoed} echoes)`,
      ok:
        summary.requests > 0 && summary.ok === summary.requests && hold.ended === "signal" && hold.echoed > 0,
    };
  },
};

/** Waits until more connections of the front end have ended in order. */
async function answered(world: World, what: string): Promise<void> {
  const ended = async (): Promise<number> =>
    (await world.records("n1")).filter(
      (each) => each["src_workload"] === "frontend" && each["reason"] === undefined,
    ).length;
  const before = await ended();
  await eventually(what, async () => ((await ended()) > before ? true : undefined));
}

const marker = "not-a-word-of-this-in-plaintext";

export const dataPlane: Row = {
  name: "data plane killed: no plaintext leaves, and traffic returns by itself",
  expected:
    "attempts through the fault, none of their bytes readable on the wire; service again without help",
  noticed: "failopen",
  attempt: async (world, broken) => {
    const pod = world.topology.pod("frontend");
    const capture = await world.capture(pod.node.wire, marker);
    const url = `${catalogUrl(world)}${marker}`;
    const load = world.continuous<HttpSummary>("frontend", [
      "http",
      ...flags({ url, intervalMs: 5, keepalive: "false", timeoutMs: 500, untilSignal: true }),
    ]);
    await answered(world, "the first answers");
    const started = performance.now();
    const killed = await world.kill("proxy-n1");
    // What a mesh that fails open does: the capture goes when the proxy is gone.
    if (broken) {
      // The other end refuses who comes without an identity: what is to be seen here is that it got so far.
      await world.apply("policy.yaml", catalogPolicy(catalogCallers, { dryRun: true }));
      await world.setInMesh(pod.name, false);
      await eventually("a request past the capture", async () => {
        const past = ["http", ...flags({ url, requests: 1, timeoutMs: 500 })];
        return (await world.client<HttpSummary>(pod, past)).ok === 1;
      });
      await world.setInMesh(pod.name, true);
      await world.apply("policy.yaml", catalogPolicy(catalogCallers));
    }
    await eventually("the data plane to be back", async () => {
      const now = (await world.processes()).get("proxy-n1");
      return now !== undefined && now !== killed.get("proxy-n1") ? true : undefined;
    });
    await eventually("an answer", async () => {
      const again = await world.client<HttpSummary>("frontend", [
        "http",
        ...flags({ url: catalogUrl(world), requests: 1, timeoutMs: 500 }),
      ]);
      return again.ok === 1 ? true : undefined;
    });
    const back = performance.now() - started;
    await world.allEnrolled();
    await answered(world, "answers after the fault");
    const [summary, wire] = [await load.stop(), await capture.stop()];
    return {
      seen:
        `${summary.requests} attempts, ${summary.requests - summary.ok} of them failed${errorsOf(summary)}; ` +
        `wire: ${wire.marker_found ? "PLAINTEXT" : "no plaintext"} in ${wire.packets} packets, ${wire.drops} dropped; service again after ${back.toFixed(0)} ms`,
      ok: !wire.marker_found && wire.packets > 0 && wire.drops === 0 && summary.ok > 0,
    };
  },
};
