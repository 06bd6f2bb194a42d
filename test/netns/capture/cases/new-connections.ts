/** What becomes of connections that begin while both ends, or one, are in the mesh. */
import { expect } from "vitest";
import { exchange, get, type Attempt } from "../lab/kit.js";
import { ports, serviceIp } from "../lab/world.js";
import type { Case, Place } from "./case.js";

const host = (address: string | undefined): string =>
  address?.replace(/:\d+$/, "").replace(/^\[|\]$/g, "") ?? "";

const once = ["--keepalive", "false"] as const;

/** The server answered, and saw the very address and port that the client had. */
function answered(place: Place, attempt: Attempt, server: string, client: string): string {
  expect(attempt, JSON.stringify(attempt)).toMatchObject({ status: 200, server });
  expect(host(attempt.client), "the source that the application sees").toBe(place.ip(client));
  return attempt.local ?? "";
}

/** Asks once, and both data planes have carried it, to the address that was dialled. */
async function carried(place: Place, to: string): Promise<void> {
  const { records } = place.lab;
  const earlier = records.all("n1").length;
  const attempt = await get(place.pod("client").netns, `http://${to}/`, ...once);
  const source = answered(place, attempt, "server", "client");
  const out = await records.of("n2", "outbound", source);
  expect(out).toMatchObject({ protocol: "hbone", dst_addr: to, message: "connection complete" });
  const accepted = await records.inboundTo("n1", earlier, place.at("server", ports.http));
  expect(accepted).toMatchObject({
    protocol: "hbone",
    src_identity: "spiffe://cluster.local/ns/shop/sa/client",
  });
  expect(host(accepted.src_addr)).toBe(place.ip("client"));
}

export const newConnections: readonly Case[] = [
  {
    name: "a connection to a Service is captured on both sides, with its original destination and source",
    captured: ["client", "server"],
    run: (place) => carried(place, `${serviceIp(place.family)}:80`),
  },
  {
    name: "a connection to a pod's own address is captured on both sides",
    provesRedirection: true,
    captured: ["client", "server"],
    run: (place) => carried(place, place.at("server", ports.http)),
  },
  {
    name: "nothing of it is readable on the wire, and without the mesh the same capture reads it",
    provesRedirection: true,
    captured: ["client", "server"],
    run: async (place) => {
      const { lab } = place;
      const capture = await lab.capture(
        undefined,
        place.pod("client").node.wire,
        "m4rk-inside",
        "m4rk-outside",
      );
      const body = (text: string): string[] => [
        "--method",
        "POST",
        "--body",
        text,
        "--body-bytes",
        "4000",
        ...once,
      ];
      const url = `http://${place.at("server", ports.http)}/`;
      expect(await get(place.pod("client").netns, url, ...body("m4rk-inside"))).toMatchObject({
        status: 200,
      });
      const inside = await capture.stop();
      const again = await lab.capture(
        undefined,
        place.pod("client").node.wire,
        "m4rk-inside",
        "m4rk-outside",
      );
      expect(await get(place.pod("outsider").netns, url, ...body("m4rk-outside"))).toMatchObject({
        status: 200,
      });
      const outside = await again.stop();
      expect([inside.drops, inside.marker_bytes]).toEqual([0, 0]);
      expect(inside.tls_records).toBeGreaterThan(0);
      expect(outside.marker_bytes).toBeGreaterThan(3_000);
    },
  },
  {
    name: "plaintext from outside of the mesh is captured at its destination, with its source",
    captured: ["server"],
    run: async (place) => {
      const to = place.at("server", ports.http);
      const attempt = await get(place.pod("outsider").netns, `http://${to}/`, ...once);
      const source = answered(place, attempt, "server", "outsider");
      expect(await place.lab.records.of("n1", "inbound", source)).toMatchObject({
        protocol: "tcp",
        dst_addr: to,
      });
    },
  },
  {
    name: "a connection to what is not in the mesh goes through the data plane, in the clear",
    provesRedirection: true,
    captured: ["client"],
    run: async (place) => {
      const to = place.at("outsider", ports.http);
      const attempt = await get(place.pod("client").netns, `http://${to}/`, ...once);
      const source = answered(place, attempt, "outsider", "client");
      expect(await place.lab.records.of("n2", "outbound", source)).toMatchObject({
        protocol: "tcp",
        dst_addr: to,
      });
    },
  },
  {
    name: "a pod reaches itself by its own address and by loopback, and the data plane has no part in it",
    captured: ["server"],
    run: async (place) => {
      const loopback = place.family === 4 ? "127.0.0.1" : "[::1]";
      const seen: string[] = [];
      for (const to of [place.at("server", ports.http), `${loopback}:${ports.http}`]) {
        const attempt = await get(place.pod("server").netns, `http://${to}/`, ...once);
        expect(attempt, to).toMatchObject({ status: 200, server: "server" });
        expect(host(attempt.client)).toBe(host(to));
        seen.push(attempt.local ?? "");
      }
      // A later connection is in the record: what came before it would be, too.
      const later = await get(
        place.pod("outsider").netns,
        `http://${place.at("server", ports.http)}/`,
        ...once,
      );
      await place.lab.records.of("n1", "inbound", later.local ?? "");
      for (const source of seen) expect(place.lab.records.has("n1", source), source).toBe(false);
    },
  },
  {
    name: "a pod reaches itself through its Service",
    captured: ["server"],
    run: async (place) => {
      const to = `${serviceIp(place.family)}:80`;
      const attempt = await get(place.pod("server").netns, `http://${to}/`, ...once);
      answered(place, attempt, "server", "server");
    },
  },
  {
    name: "bytes come through unchanged both ways, with half-closed ends",
    captured: ["client", "server"],
    run: async (place) => {
      const to = place.at("server", ports.digest);
      const netns = place.pod("client").netns;
      expect(
        await exchange(netns, to, "--send-bytes", "3000000", "--half-close", "--expect-sha"),
      ).toMatchObject({
        ok: true,
        sent: 3_000_000,
      });
      const greeted = ["--expect-greeting", "welcome", "--send-bytes", "1000000"];
      expect(await exchange(netns, place.at("server", ports.greeting), ...greeted)).toMatchObject({
        ok: true,
        received: 1_000_000,
      });
    },
  },
  {
    name: "a port where nobody listens is refused, not accepted and dropped",
    captured: ["client", "server"],
    run: async (place) => {
      const attempt = await get(place.pod("client").netns, `http://${place.at("server", 7)}/`, ...once);
      expect(attempt.status).toBeUndefined();
      expect(["refused", "reset", "closed"]).toContain(attempt.error);
    },
  },
];
