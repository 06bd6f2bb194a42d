/** Joining and leaving: what was open stays, what is new is captured at once, and nothing is left behind. */
import { expect } from "vitest";
import { eventually } from "../../../helpers/eventually.js";
import { get, type Held } from "../lab/kit.js";
import { inForce, traces } from "../lab/kernel.js";
import { ports } from "../lab/world.js";
import type { Case, Place } from "./case.js";

/** Kinds of connections that are open while a pod joins or leaves. */
const kinds = {
  busy: ["--interval-ms", "20"],
  bulk: ["--interval-ms", "1", "--bytes", "65536"],
  idle: ["--silent"],
} as const;

/** Connections of the pod `joiner` in both directions, of each kind, open now; `end` tells how they fared. */
async function open(place: Place): Promise<{ end(): Promise<void> }> {
  const directions = [
    { netns: place.pod("joiner").netns, to: place.at("outsider", ports.echo) },
    { netns: place.pod("outsider").netns, to: place.at("joiner", ports.echo) },
  ];
  const held = await Promise.all(
    directions.flatMap(({ netns, to }) =>
      Object.entries(kinds).map(async ([kind, flags]) => ({
        what: `${kind} to ${to}`,
        client: await place.lab.kit(
          netns,
          "client",
          "hold",
          "--connect",
          to,
          "--timeout-ms",
          "5000",
          ...flags,
        ),
      })),
    ),
  );
  return {
    end: async () => {
      for (const { what, client } of held) {
        const { ended, echoed } = (await client.stop()) as Held;
        // It says so only if the connection still echoed after the signal.
        expect(ended, what).toBe("signal");
        expect(echoed, what).toBeGreaterThan(1);
      }
    },
  };
}

/** New connections of the joiner, both ways. @returns their clients' addresses */
async function fresh(place: Place): Promise<{ out: string; into: string }> {
  const ask = async (from: string, to: string): Promise<string> => {
    const url = `http://${place.at(to, ports.http)}/`;
    const attempt = await get(place.pod(from).netns, url, "--keepalive", "false");
    expect(attempt, `${from} to ${to}`).toMatchObject({ status: 200, server: to });
    return attempt.local ?? "";
  };
  return { out: await ask("joiner", "outsider"), into: await ask("outsider", "joiner") };
}

export const enrolment: readonly Case[] = [
  {
    name: "joining leaves open connections alone and captures new ones at once; leaving ends neither; nothing is left",
    captured: [],
    run: async (place) => {
      const { lab } = place;
      const joiner = place.pod("joiner");
      const before = await traces(joiner);
      const fromBefore = await open(place);
      await lab.enrol("joiner");
      expect((await inForce(joiner)).modes).toEqual([place.mode]);
      const first = await fresh(place);
      await lab.records.of("n1", "outbound", first.out);
      await lab.records.of("n1", "inbound", first.into);

      const carried = await open(place);
      await lab.unenrol("joiner");
      await eventually(
        "new connections to be left alone",
        async () => (await inForce(joiner)).modes.length === 0,
      );
      const direct = await fresh(place);
      await fromBefore.end();
      await carried.end();
      expect(await lab.gone("joiner", before), "traces in the pod and on its node").toEqual(before);
      expect(lab.records.has("n1", direct.out), "captured after it has left, outbound").toBe(false);
      expect(lab.records.has("n1", direct.into), "captured after it has left, inbound").toBe(false);
    },
  },
];
