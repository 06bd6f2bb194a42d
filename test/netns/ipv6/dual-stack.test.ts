/** Pods of one address family and of both, over every mode of redirection, with real agents and data planes. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inForce, type Mode } from "../capture/lab/kernel.js";
import { eventually } from "../../helpers/eventually.js";
import { onlyVip6, port, Site, vip, vip6 } from "./site.js";

const account = (name: string): string => `spiffe://cluster.local/ns/shop/sa/${name}`;
const hostOf = (address: string | undefined): string => address?.replace(/:\d+$/, "") ?? "";

const modes: readonly Mode[] = ["bpf", "nftables", "iptables"];

describe.each(modes)("redirection by %s", (mode) => {
  const site = new Site(`6${mode.charAt(0)}`, ["--redirect-mode", mode]);
  beforeAll(() => site.up());
  afterAll(() => site.down());

  test("every pod is captured as the mode says", async () => {
    for (const pod of ["dual", "six", "four", "front", "front6"])
      expect((await inForce(site.lab.pod(pod))).modes, pod).toEqual([mode]);
  });

  // Both have only what the row says in common.
  test.each([
    ["front", "dual", 6],
    ["front", "dual", 4],
    ["front", "six", 6],
    ["front6", "six", 6],
    ["front", "four", 4],
  ] as const)("%s -> %s over IPv%i: carried with identity, source kept", async (from, to, family) => {
    const answer = await site.get(from, site.url(to, family));
    expect(answer).toMatchObject({ status: 200, server: to });
    expect(hostOf(answer.client)).toBe(site.ip(from, family));
    const [out, into] = await Promise.all([
      site.record("n2", "outbound", answer.local ?? ""),
      site.record("n1", "inbound", answer.local ?? ""),
    ]);
    const at = `${site.ip(to, family)}:${port}`;
    for (const record of [out, into])
      expect(record).toMatchObject({ protocol: "hbone", dst_addr: at, dst_hbone_addr: at });
    expect(into.src_identity).toBe(account(from));
    expect(out.dst_identity).toBe(account(to));
  });

  test("a service of both families has the endpoints of the one it is dialled over", async () => {
    expect(await site.servers("front", `http://${vip}:80/`)).toEqual(["dual", "four"]);
    expect(await site.servers("front", `http://[${vip6}]:80/`)).toEqual(["dual", "six"]);
    expect(await site.servers("front6", `http://[${vip6}]:80/`)).toEqual(["dual", "six"]);
    expect(await site.servers("front", `http://[${onlyVip6}]:80/`)).toEqual(["dual", "six"]);
  });

  test("what goes between the nodes over IPv6 is not readable", async () => {
    const marker = "six-times-nothing-to-be-read";
    const wire = site.lab.node("n1").wire;
    const watch = async (from: string, to: string): Promise<{ bytes: number; tls: number }> => {
      const capture = await site.lab.capture(undefined, wire, marker);
      expect((await site.get(from, `${site.url(to, 6)}${marker}`)).status).toBe(200);
      const { drops, marker_bytes: bytes, tls_records: tls } = await capture.stop();
      expect(drops).toBe(0);
      return { bytes, tls };
    };
    const carried = await watch("front", "six");
    expect(carried.bytes).toBe(0);
    expect(carried.tls).toBeGreaterThan(0);
    // The same look finds it where nothing protects it.
    expect((await watch("street", "six")).bytes).toBeGreaterThan(0);
  });

  test("STRICT refuses plaintext over IPv6, and carries what has an identity", async () => {
    expect(await site.get("street", site.url("six", 6))).toMatchObject({ status: 200, server: "six" });
    site.lab.apply(
      "strict.yaml",
      `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`,
    );
    const refused = (): Promise<boolean> => site.fails("street", site.url("six", 6));
    const record = await site.refusal("street", site.url("six", 6), "n1", "strict_plaintext_refused");
    expect(record).toMatchObject({ protocol: "tcp", dst_addr: `${site.ip("six", 6)}:${port}` });
    expect(hostOf(record.src_addr)).toBe(site.ip("street", 6));
    expect(await site.get("front6", site.url("six", 6))).toMatchObject({ status: 200, server: "six" });
    site.lab.withdraw("strict.yaml");
    await eventually("the outsider to be let in again", async () => !(await refused()));
  });

  test("a rule by IPv6 block refuses that family's clients in it, and no others", async () => {
    const { ip6 } = site.lab.pod("front");
    site.lab.apply(
      "block.yaml",
      `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: not-the-front, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  action: DENY
  rules: [{ from: [{ source: { ipBlocks: ["${ip6}/128"] } }] }]
`,
    );
    const record = await site.refusal("front", site.url("dual", 6), "n1", "policy_denied");
    expect(record).toMatchObject({ policy: "shop/not-the-front", src_identity: account("front") });
    expect(hostOf(record.src_addr)).toBe(site.ip("front", 6));
    expect((await site.get("front", site.url("dual", 4))).status).toBe(200);
    expect((await site.get("front6", site.url("dual", 6))).status).toBe(200);
    site.lab.withdraw("block.yaml");
    await eventually(
      "the rule to go",
      async () => (await site.get("front", site.url("dual", 6))).status === 200,
    );
  });

  test("the data plane's own ports are nobody's to dial over IPv6", async () => {
    const own = [site.ip("front", 6), "[::1]", site.ip("six", 6)];
    const inside = own.flatMap((host) =>
      [15001, 15006, 15008].map((at) => ["front", `http://${host}:${at}/`] as const),
    );
    const dials = [...inside, ["street", `http://${site.ip("six", 6)}:15006/`] as const];
    const failed = await Promise.all(dials.map(([from, url]) => site.fails(from, url)));
    expect(dials.filter((_, index) => !failed[index])).toEqual([]);
    expect((await site.get("front", site.url("six", 6))).status, "and it serves all the same").toBe(200);
  });

  test("a pod of the mesh reaches what is outside over IPv6, from its own address", async () => {
    const answer = await site.get("front6", site.url("street", 6));
    expect(answer).toMatchObject({ status: 200, server: "street" });
    expect(hostOf(answer.client)).toBe(site.ip("front6", 6));
    const record = await site.record("n2", "outbound", answer.local ?? "");
    expect(record).toMatchObject({ protocol: "tcp", dst_addr: `${site.ip("street", 6)}:${port}` });
  });
});
