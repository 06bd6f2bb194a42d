/** What a pod's owner has left out of capture, and what is not TCP. */
import { expect } from "vitest";
import { eventually } from "../../../helpers/eventually.js";
import { datagram } from "../../node/probes.js";
import { get } from "../lab/kit.js";
import { traces } from "../lab/kernel.js";
import { ports } from "../lab/world.js";
import type { Case, Place } from "./case.js";

/** One request between the joiner and somebody on the other node. @returns its client's own address */
async function ask(place: Place, from: string, to: string, port: number): Promise<string> {
  const url = `http://${place.at(to, port)}/`;
  const attempt = await get(place.pod(from).netns, url, "--keepalive", "false");
  expect(attempt, `${from} to ${to}:${port}`).toMatchObject({ status: 200, server: to });
  return attempt.local ?? "";
}

interface Expected {
  readonly from: string;
  readonly to: string;
  readonly port: number;
  readonly captured: boolean;
}

/** The joiner's node has a record of what is captured, and none of the rest. */
async function joinedWith(
  place: Place,
  annotations: Readonly<Record<string, string>>,
  expected: readonly Expected[],
): Promise<void> {
  const { lab } = place;
  const before = await traces(place.pod("joiner"));
  await lab.enrol("joiner", { annotations });
  const [direct, carried]: [string[], string[]] = [[], []];
  for (const { from, to, port, captured } of expected)
    (captured ? carried : direct).push(await ask(place, from, to, port));
  expect(carried.length > 0 && direct.length > 0, "both kinds are tried").toBe(true);
  for (const source of carried) {
    const [outbound] = expected.filter(({ captured }) => captured);
    const direction = outbound?.from === "joiner" ? "outbound" : "inbound";
    await lab.records.of("n1", direction, source);
  }
  for (const source of direct) expect(lab.records.has("n1", source), source).toBe(false);
  await lab.unenrol("joiner");
  expect(await lab.gone("joiner", before)).toEqual(before);
}

export const optOuts: readonly Case[] = [
  {
    name: "excluded inbound ports are left alone, and others are not",
    captured: ["server"],
    run: (place) =>
      joinedWith(place, { "meltemi.io/exclude-inbound-ports": String(ports.spareHttp) }, [
        { from: "outsider", to: "joiner", port: ports.spareHttp, captured: false },
        { from: "outsider", to: "joiner", port: ports.http, captured: true },
      ]),
  },
  {
    name: "excluded outbound ports are left alone, and others are not",
    captured: ["server"],
    run: (place) =>
      joinedWith(place, { "traffic.sidecar.istio.io/excludeOutboundPorts": String(ports.spareHttp) }, [
        { from: "joiner", to: "outsider", port: ports.spareHttp, captured: false },
        { from: "joiner", to: "outsider", port: ports.http, captured: true },
      ]),
  },
  {
    name: "excluded ranges are left alone, and other addresses are not",
    captured: ["server"],
    run: (place) =>
      joinedWith(
        place,
        { "meltemi.io/exclude-outbound-cidrs": `${place.ip("outsider")}/${place.family === 4 ? 32 : 128}` },
        [
          { from: "joiner", to: "outsider", port: ports.http, captured: false },
          { from: "joiner", to: "server", port: ports.http, captured: true },
        ],
      ),
  },
  {
    name: "ambient.istio.io/bypass-inbound-capture leaves inbound connections alone, and outbound ones not",
    captured: ["server"],
    run: async (place) => {
      const { lab } = place;
      await lab.enrol("joiner", { annotations: { "ambient.istio.io/bypass-inbound-capture": "true" } });
      const into = await ask(place, "outsider", "joiner", ports.http);
      const out = await ask(place, "joiner", "outsider", ports.http);
      await lab.records.of("n1", "outbound", out);
      expect(lab.records.has("n1", into)).toBe(false);
      await lab.unenrol("joiner");
    },
  },
  {
    name: "UDP passes as it is, and is counted",
    captured: ["client", "server"],
    run: async (place) => {
      const passed = (): Promise<number> =>
        place.lab.metric("n1", 'meltemi_capture_passed_total{reason="udp"}');
      const before = await passed();
      expect(await datagram(place.pod("outsider").netns, place.ip("server"), ports.udp)).toBe("datagram");
      await eventually("both datagrams to be counted", async () => (await passed()) >= before + 2);
    },
  },
  {
    name: "UDP is refused where the namespace asks for it, and counted, and passes again afterwards",
    captured: ["client", "server"],
    run: async (place) => {
      const { lab } = place;
      const refused = (): Promise<number> =>
        lab.metric("n1", 'meltemi_capture_dropped_total{reason="udp_refused"}');
      const answer = (): Promise<string> =>
        datagram(place.pod("outsider").netns, place.ip("server"), ports.udp, 200);
      const before = await refused();
      lab.writeNamespace({ "meltemi.io/udp": "refuse" });
      await eventually("UDP to be refused", async () => (await answer()) === "timeout");
      await eventually("the refusal to be counted", async () => (await refused()) > before);
      lab.writeNamespace({});
      await eventually("UDP to pass again", async () => (await answer()) === "datagram");
    },
  },
];
