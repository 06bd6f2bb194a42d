import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { catalogPolicy, catalogPort } from "../manifests.js";
import type { HttpSummary, World } from "../world.js";
import type { Row } from "./row.js";

const allowed = ["frontend", "courier"];

async function call(world: World, pod: string, requests = 3): Promise<HttpSummary> {
  const target = `http://${world.topology.pod("catalog-2").ip}:${catalogPort}/`;
  return world.client<HttpSummary>(pod, ["http", ...flags({ url: target, requests, keepalive: "false" })]);
}

export const refusal: Row = {
  name: "the wrong identity is refused, and the record names the policy",
  expected: "frontend: 3 of 3; intruder: 0 of 3, record on n2: shop/catalog-callers refused …/sa/intruder",
  noticed: "policy",
  attempt: async (world, broken) => {
    if (broken) {
      await world.apply("policy.yaml", catalogPolicy(allowed, { dryRun: true }));
      await eventually("the dry run to let the intruder in", async () =>
        (await call(world, "intruder", 1)).ok === 1 ? true : undefined,
      );
    }
    const before = (await world.records("n2")).length;
    const right = await call(world, "frontend");
    const wrong = await call(world, "intruder");
    const record = await eventually("a record of the intruder", async () =>
      (await world.records("n2"))
        .slice(before)
        .find((each) => String(each["src_identity"]).endsWith("/sa/intruder")),
    );
    if (broken) {
      await world.apply("policy.yaml", catalogPolicy(allowed));
      await eventually("the policy to be enforced again", async () =>
        (await call(world, "intruder", 1)).ok === 0 ? true : undefined,
      );
    }
    return {
      seen: `frontend: ${right.ok} of 3; intruder: ${wrong.ok} of 3, record: policy=${record["policy"] ?? "–"} reason=${record["reason"] ?? "–"} of ${record["src_identity"] ?? "–"}`,
      ok:
        right.ok === 3 &&
        wrong.ok === 0 &&
        record["policy"] === "shop/catalog-callers" &&
        record["reason"] === "policy_denied",
    };
  },
};

export const liveEdit: Row = {
  name: "a policy edited on disk comes into force",
  expected: "the intruder is let in, then refused again, each within seconds (aim: under one)",
  attempt: async (world) => {
    const timed = async (callers: readonly string[], ok: number): Promise<number> => {
      const started = performance.now();
      await world.apply("policy.yaml", catalogPolicy(callers));
      await eventually(
        `the edit to ${callers.join(", ")}`,
        async () => ((await call(world, "intruder", 1)).ok === ok ? true : undefined),
        {
          everyMs: 5,
        },
      );
      return performance.now() - started;
    };
    const opened = await timed([...allowed, "intruder"], 1);
    const closed = await timed(allowed, 0);
    return {
      seen: `let in after ${opened.toFixed(0)} ms, refused again after ${closed.toFixed(0)} ms`,
      ok: true,
    };
  },
};
