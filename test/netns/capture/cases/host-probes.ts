/** The host's own probes pass in strict mode; who merely looks like the host does not. */
import { expect } from "vitest";
import { runIn } from "../../../../demo/lab/command.js";
import { eventually } from "../../../helpers/eventually.js";
import { exchange, get, type Attempt } from "../lab/kit.js";
import { ports } from "../lab/world.js";
import type { Case, Place } from "./case.js";

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: strict, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

const host = (address: string | undefined): string =>
  address?.replace(/:\d+$/, "").replace(/^\[|\]$/g, "") ?? "";

const asks = (place: Place, netns: string): Promise<Attempt> =>
  get(netns, `http://${place.at("server", ports.http)}/`, "--keepalive", "false");

/** A client that the pod sees with the node's own address, and which is not the node. */
interface Impostor {
  ask(): Promise<Attempt>;
  end(): Promise<void>;
}

/** A client of another node, masqueraded on its way in, as a NodePort's are. */
async function masqueraded(place: Place): Promise<Impostor> {
  const node = place.lab.node("n1");
  const family = place.family === 4 ? "ip" : "ip6";
  const script = `table ${family} impostor {
  chain out { type nat hook postrouting priority srcnat; ${family} saddr ${place.ip("outsider")} oifname "pods" masquerade; }
}`;
  await runIn(node.netns, "nft", ["-f", "-"], script);
  return {
    ask: () => asks(place, place.pod("outsider").netns),
    end: async () => {
      await runIn(node.netns, "nft", ["delete", "table", family, "impostor"]);
    },
  };
}

/** A pod on the same link that has taken the node's address and answers for it. */
async function sameAddress(place: Place): Promise<Impostor> {
  const [v, address] = [`-${place.family}`, place.bridgeIp("n1")];
  const { netns } = place.pod("neighbour");
  const server = place.pod("server").netns;
  const bits = place.family === 4 ? 32 : 128;
  await runIn(netns, "ip", [v, "address", "add", `${address}/${bits}`, "dev", "lo"]);
  await runIn(netns, "ip", [v, "route", "add", place.ip("server"), "dev", "eth0", "src", address]);
  await runIn(netns, "sysctl", ["-q", "-w", "net.ipv4.conf.all.arp_ignore=1"]);
  const answersAs = async (mac: string): Promise<void> => {
    await runIn(server, "ip", [v, "neighbour", "replace", address, "lladdr", mac, "dev", "eth0"]);
  };
  return {
    // It answers for the address while it asks only: everybody else of the pod's peers is behind it.
    ask: async () => {
      await answersAs(place.mac("neighbour"));
      try {
        return await asks(place, netns);
      } finally {
        await answersAs(place.mac("n1"));
      }
    },
    end: async () => {
      await runIn(netns, "ip", [v, "route", "del", place.ip("server"), "dev", "eth0", "src", address]);
      await runIn(netns, "ip", [v, "address", "del", `${address}/${bits}`, "dev", "lo"]);
      await runIn(netns, "sysctl", ["-q", "-w", "net.ipv4.conf.all.arp_ignore=0"]);
    },
  };
}

/** A health check as gRPC makes it: HTTP/2 without TLS, one POST. */
async function grpcLike(place: Place, netns: string): Promise<string> {
  const script = `
    const session = require("node:http2").connect(${JSON.stringify(`http://${place.at("server", ports.http2)}`)});
    const say = (text) => { console.log(text); process.exit(0); };
    setTimeout(() => say("timeout"), 2000);
    session.on("error", (error) => say(error.code));
    const request = session.request({ ":method": "POST", ":path": "/grpc.health.v1.Health/Check", "content-type": "application/grpc" });
    request.on("response", (headers) => say(String(headers[":status"])));
    request.end();`;
  return (await runIn(netns, process.execPath, ["-e", script])).trim();
}

async function underStrict(place: Place, action: () => Promise<void>): Promise<void> {
  const outside = place.pod("outsider").netns;
  place.lab.apply("strict.yaml", strict);
  try {
    await eventually("plaintext to be refused", async () => (await asks(place, outside)).status !== 200);
    await action();
  } finally {
    place.lab.withdraw("strict.yaml");
    await eventually("plaintext to be served", async () => (await asks(place, outside)).status === 200);
  }
}

async function probesPass(place: Place): Promise<void> {
  const { netns } = place.lab.node("n1");
  const answered = await asks(place, netns);
  expect(answered, JSON.stringify(answered)).toMatchObject({ status: 200, server: "server" });
  expect(host(answered.client)).toBe(place.bridgeIp("n1"));
  const greeted = ["--expect-greeting", "welcome"];
  expect(await exchange(netns, place.at("server", ports.greeting), ...greeted)).toMatchObject({ ok: true });
  expect(await grpcLike(place, netns)).toBe("200");
  // A probe that finds nobody must not succeed because a proxy listens.
  expect((await exchange(netns, place.at("server", 7))).error).toBe("refused");
}

export const hostProbes: readonly Case[] = [
  {
    name: "HTTP, TCP and gRPC-like probes of the host pass under STRICT, to the application itself",
    captured: ["server"],
    run: (place) => underStrict(place, () => probesPass(place)),
  },
  {
    name: "they pass again after the host's rules were flushed",
    captured: ["server"],
    run: (place) =>
      underStrict(place, async () => {
        await runIn(place.lab.node("n1").netns, "nft", ["flush", "ruleset"]);
        await eventually(
          "the probe to pass",
          async () => (await asks(place, place.lab.node("n1").netns)).status === 200,
          30_000,
        );
        await probesPass(place);
      }),
  },
  ...Object.entries({
    "a client masqueraded to the node's address": masqueraded,
    "another pod with the node's address": sameAddress,
  }).map(([who, become]) => ({
    name: `${who} does not pass for the host under STRICT`,
    captured: ["server"],
    run: async (place: Place) => {
      const impostor = await become(place);
      try {
        const permitted = await impostor.ask();
        expect(permitted, "without STRICT it is served, and seen with the node's address").toMatchObject({
          status: 200,
        });
        expect(host(permitted.client)).toBe(place.bridgeIp("n1"));
        await underStrict(place, async () => {
          expect((await impostor.ask()).status).toBeUndefined();
          expect((await asks(place, place.lab.node("n1").netns)).status).toBe(200);
          expect((await impostor.ask()).status).toBeUndefined();
        });
      } finally {
        await impostor.end();
      }
    },
  })),
];
