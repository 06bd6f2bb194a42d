import { execa } from "execa";
import { LongRunning } from "../../demo/lab/long-running.js";
import { flags } from "../../demo/lab/flags.js";
import { eventually, netnsPath } from "../../demo/lab/command.js";
import type { Contender } from "./contender.js";

const markerBytes = 5_000;

interface Seen {
  readonly packets: number;
  readonly drops: number;
  readonly tls_records: number;
  readonly marker_found: boolean;
}

interface Exchange {
  readonly ok: boolean;
}

/** One exchange with the contender's echo server, of a text that a capture can find. */
async function exchange(testkit: string, contender: Contender, marker: string): Promise<boolean> {
  const args = [
    "client",
    "tcp",
    ...flags({ connect: contender.address("echo"), marker, sendBytes: markerBytes }),
  ];
  const result = await execa(
    "nsenter",
    [`--net=${netnsPath(contender.client.netns)}`, "--", testkit, ...args],
    {
      reject: false,
    },
  );
  const last = result.stdout.trim().split("\n").at(-1) ?? "";
  return last.startsWith("{") && (JSON.parse(last) as Exchange).ok;
}

/** Waits until the contender carries an exchange. */
export async function untilCarries(testkit: string, contender: Contender): Promise<void> {
  await eventually(`an exchange through ${contender.name}`, async () =>
    (await exchange(testkit, contender, "ready")) ? true : undefined,
  );
}

/**
 * Sends a marker while capturing on the link between the nodes: proof that this contender's connections
 * take the way they should. Gives why they do not, if so, and what was seen.
 */
export async function proveTheWay(
  testkit: string,
  contender: Contender,
): Promise<{ readonly problems: readonly string[]; readonly evidence: unknown }> {
  const marker = `marker-of-${contender.name}`;
  const capture = new LongRunning(undefined, testkit, [
    "capture",
    ...flags({ interface: contender.server.node.wire, marker }),
  ]);
  await capture.ready;
  const carried = await exchange(testkit, contender, marker);
  const seen = (await capture.stop()) as Seen;
  const problems = [
    ...(carried ? [] : ["the marker did not come back"]),
    ...(seen.packets > 0 ? [] : ["nothing was seen on the wire"]),
    ...(contender.encrypted && seen.marker_found ? ["the marker was readable on the wire"] : []),
    ...(contender.encrypted && seen.tls_records === 0 ? ["no TLS record was seen on the wire"] : []),
    ...(contender.encrypted || seen.marker_found ? [] : ["the marker was not seen on the wire"]),
  ];
  return { problems, evidence: { wire: seen } };
}
