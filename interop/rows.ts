import { flags } from "../demo/lab/flags.js";
import { eventually } from "../demo/lab/command.js";
import { balance } from "../demo/rows/balance.js";
import type { Observation, Row } from "../demo/rows/row.js";
import { source } from "../demo/rows/source.js";
import { wire } from "../demo/rows/wire.js";
import { liveEdit } from "../demo/rows/policy.js";
import { catalogPort, mtls, ledgerPort } from "../demo/manifests.js";
import type { HttpSummary, World } from "../demo/world.js";

/** What a data plane wrote of one connection, whichever it is. */
export interface Witness {
  readonly line: string;
  readonly source: string;
  readonly destination: string;
  readonly failed: boolean;
}

/** The access records of a node's data plane so far. */
export type Witnesses = (node: "n1" | "n2") => Promise<readonly Witness[]>;

const spiffe = (account: string): string => `spiffe://cluster.local/ns/shop/sa/${account}`;

type Family = "IPv4" | "IPv6";

async function callCatalog(world: World, pod: string, family: Family): Promise<HttpSummary> {
  const { ip, ip6 } = world.topology.pod("catalog-2");
  const url = `http://${family === "IPv4" ? ip : `[${ip6}]`}:${catalogPort}/`;
  return world.client<HttpSummary>(pod, ["http", ...flags({ url, requests: 3, keepalive: "false" })]);
}

/** The first new record of a node that names both identities. */
function recordOf(
  witnesses: Witnesses,
  node: "n1" | "n2",
  mark: number,
  account: string,
  failed: boolean,
): Promise<Witness> {
  return eventually(`${node}'s record of ${account} -> catalog`, async () =>
    (await witnesses(node))
      .slice(mark)
      .find(
        (each) =>
          each.source === spiffe(account) &&
          each.failed === failed &&
          (failed || each.destination === spiffe("catalog")),
      ),
  );
}

function identities(witnesses: Witnesses, family: Family): Row {
  return {
    name: `over ${family} each end knows who the other is, and the wrong identity is refused`,
    expected:
      "frontend 3 of 3, from its own address, and intruder 0 of 3; both ends' own records name frontend -> catalog; n2's names the intruder",
    attempt: async (world): Promise<Observation> => {
      const marks = { n1: (await witnesses("n1")).length, n2: (await witnesses("n2")).length };
      const right = await callCatalog(world, "frontend", family);
      const wrong = await callCatalog(world, "intruder", family);
      const { ip, ip6 } = world.topology.pod("frontend");
      const callers = Object.keys(right.clients);
      const lines = [
        await recordOf(witnesses, "n1", marks.n1, "frontend", false),
        await recordOf(witnesses, "n2", marks.n2, "frontend", false),
        await recordOf(witnesses, "n2", marks.n2, "intruder", true),
      ];
      return {
        seen: `frontend ${right.ok} of 3 from ${callers.join(", ")}, intruder ${wrong.ok} of 3\n${lines.map(({ line }) => `                ${line}`).join("\n")}`,
        ok: right.ok === 3 && wrong.ok === 0 && callers.join() === (family === "IPv4" ? ip : `[${ip6}]`),
      };
    },
  };
}

const strict: Row = {
  name: "STRICT refuses plaintext, PERMISSIVE lets it in",
  expected: "outsider -> ledger: in, refused, in",
  attempt: async (world): Promise<Observation> => {
    const connect = `${world.topology.pod("ledger").ip}:${ledgerPort}`;
    const seen: string[] = [];
    for (const [mode, expected] of [
      ["PERMISSIVE", true],
      ["STRICT", false],
      ["PERMISSIVE", true],
    ] as const) {
      await world.apply("mtls.yaml", mtls(mode));
      await eventually(`${mode} to be in force`, async () => {
        const answer = await world.client<{ ok: boolean }>("outsider", [
          "tcp",
          ...flags({ connect, sendBytes: 100, halfClose: true }),
        ]);
        return answer.ok === expected ? true : undefined;
      });
      seen.push(expected ? "in" : "refused");
    }
    return { seen: seen.join(", "), ok: true };
  },
};

export const interopRows = (witnesses: Witnesses): readonly Row[] => [
  balance,
  wire,
  source,
  identities(witnesses, "IPv4"),
  identities(witnesses, "IPv6"),
  strict,
  liveEdit,
];
