import { existsSync } from "node:fs";
import { join } from "node:path";
import { Command, Option } from "commander";
import { messageOf } from "../src/domain/error.js";
import { renderTable, type RowResult } from "../demo/report.js";
import { expectationOf } from "../demo/rows/row.js";
import { World } from "../demo/world.js";
import { eventually } from "../demo/lab/command.js";
import { hostIp } from "../demo/lab/topology.js";
import { interopRows, type Witness, type Witnesses } from "./rows.js";
import { fileHash, Ztunnel, ztunnelLog } from "./ztunnel.js";

/** Whose data plane each node runs; calls go from n1 to n2. */
const scenarios = {
  "ztunnel-ztunnel": ["n1", "n2"],
  "meltemi-ztunnel": ["n2"],
  "ztunnel-meltemi": ["n1"],
} as const;
type Scenario = keyof typeof scenarios;

const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** A ztunnel writes `src.identity`, we write `src_identity`. */
function witness(record: Readonly<Record<string, unknown>>): Witness {
  const field = (name: string): string => text(record[`src.${name}`] ?? record[`src_${name}`]);
  return {
    line: JSON.stringify(record),
    source: field("identity"),
    destination: text(record["dst.identity"] ?? record["dst_identity"]),
    failed: record["error"] !== undefined || record["reason"] !== undefined,
  };
}

async function main(): Promise<number> {
  const program = new Command("npm run interop --")
    .addOption(new Option("--scenario <name>").choices(Object.keys(scenarios)).makeOptionMandatory())
    .requiredOption("--ztunnel <path>", "a real ztunnel, built outside this repository")
    .parse();
  const { scenario, ztunnel: binary } = program.opts<{ scenario: Scenario; ztunnel: string }>();
  const foreign: readonly string[] = scenarios[scenario];
  process.stdout.write(`\n# ${scenario} (peer: sha256 ${await fileHash(binary)})\n`);

  const world = new World(foreign);
  const peers = new Map<string, Ztunnel>();
  try {
    await world.up((step) => process.stderr.write(`        ${step}\n`));
    const rootCertificate = join(world.run, "control-plane", "root-cert.pem");
    // A ztunnel takes the path for a certificate when there is no such file yet.
    await eventually("the control plane's root", () => (existsSync(rootCertificate) ? true : undefined));
    for (const node of world.topology.nodes.filter(({ name }) => foreign.includes(name))) {
      const peer = await Ztunnel.start({
        binary,
        nodeName: node.name,
        netns: node.netns,
        zdsSocket: join(world.run, "nodes", node.name, "zds.sock"),
        controlPlane: `${hostIp}:15012`,
        rootCertificate,
        tokenFile: join(world.state, "tokens", node.name),
        logFile: ztunnelLog("/run/meltemi/demo", node.name),
        directory: `/run/meltemi/demo/ztunnel-${node.name}`,
      });
      peers.set(node.name, peer);
    }
    await world.allEnrolled();
    const witnesses: Witnesses = async (node) => {
      const records = await (peers.get(node)?.log() ?? world.records(node));
      return records.filter((record) => text(record["scope"]) === "access").map(witness);
    };
    const results: RowResult[] = [];
    for (const row of interopRows(witnesses)) {
      process.stderr.write(`        ${row.name}\n`);
      const seen = await row
        .attempt(world, false)
        .catch((error: unknown) => ({ seen: messageOf(error), ok: false }));
      results.push({ name: row.name, expected: expectationOf(row, world), ...seen });
    }
    process.stdout.write(`${renderTable(results)}\n`);
    return results.every((row) => row.ok) ? 0 : 1;
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    for (const [node, peer] of peers)
      process.stderr.write(
        `ztunnel on ${node}:\n${JSON.stringify((await peer.log()).slice(-8), undefined, 1)}\n`,
      );
    return 1;
  } finally {
    await world.down();
    for (const peer of peers.values()) peer.stop();
  }
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`interop could not run: ${messageOf(error)}\n`);
    process.exit(1);
  },
);
