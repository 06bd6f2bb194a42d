/** A pod with two interfaces and several addresses on each: every one is its own, and no other is. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, runIn } from "../../../demo/lab/command.js";
import { inForce, type Mode } from "../capture/lab/kernel.js";
import type { Attempt } from "../capture/lab/kit.js";
import { Lab } from "../capture/lab/lab.js";
import { eventually } from "../../helpers/eventually.js";
import { port, request } from "./site.js";

const modes: readonly Mode[] = ["bpf", "nftables", "iptables"];

/** Beside those that the lab gives: two more on the first interface, two on a second one. */
const more = ["10.88.1.31", "fd00:88:1::31"];
const second = ["10.89.1.30", "fd00:89:1::30"];
/** On the second interface, and in no manifest. */
const unlisted = "fd00:89:1::66";

const bracketed = (ip: string): string => (ip.includes(":") ? `[${ip}]` : ip);

describe.each(modes)("redirection by %s", (mode) => {
  const lab = new Lab(
    `7${mode.charAt(0)}`,
    [
      { name: "wide", node: "n1", host: 30 },
      { name: "front", node: "n2", host: 10 },
      { name: "street", node: "n2", host: 20, outside: true },
    ],
    ["--redirect-mode", mode],
  );
  let addresses: readonly string[] = [];

  /** A second link to the node, with a subnet of its own. */
  async function addInterface(): Promise<void> {
    const { netns, node } = lab.pod("wide");
    const link = ["link", "add", "name", "wide1", "type", "veth", "peer", "name", "eth1", "netns", netns];
    await runIn(node.netns, "ip", link);
    const onNode = [
      "link set wide1 up",
      "address add 10.89.1.1/24 dev wide1",
      "address add fd00:89:1::1/64 dev wide1 nodad",
    ];
    await runIn(node.netns, "ip", ["-batch", "-"], onNode.join("\n"));
    const inPod = [
      "link set eth1 up",
      ...more.map(
        (ip) => `address add ${ip}/${ip.includes(":") ? 64 : 24} dev eth0${ip.includes(":") ? " nodad" : ""}`,
      ),
      ...[...second, unlisted].map(
        (ip) => `address add ${ip}/${ip.includes(":") ? 64 : 24} dev eth1${ip.includes(":") ? " nodad" : ""}`,
      ),
    ];
    await runIn(netns, "ip", ["-batch", "-"], inPod.join("\n"));
    for (const other of lab.topology.nodes.filter(({ name }) => name !== node.name)) {
      const routes = [`route add 10.89.1.0/24 via ${node.ip}`, "route add fd00:89:1::/64 via fd00:31::11"];
      await runIn(other.netns, "ip", ["-batch", "-"], routes.join("\n"));
    }
    const routes = [`route add 10.89.1.0/24 via ${node.ip}`, "route add fd00:89:1::/64 via fd00:31::11"];
    await run("ip", ["-batch", "-"], routes.join("\n"));
  }

  beforeAll(async () => {
    await lab.up();
    await addInterface();
    const { netns, node, ip, ip6 } = lab.pod("wide");
    addresses = [ip, ip6, ...more, ...second];
    lab.apply(
      "pod-wide.yaml",
      `apiVersion: v1
kind: Pod
metadata: { name: wide, namespace: shop, labels: { app: wide }, annotations: { meltemi.io/netns: ${netns} } }
spec: { nodeName: ${node.name}, serviceAccountName: wide, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, podIPs: ${JSON.stringify(addresses.map((one) => ({ ip: one })))}, phase: Running }
`,
    );
    for (const name of ["wide", "street"])
      await lab.kit(lab.pod(name).netns, "serve", "http", "--listen", `[::]:${port}`, "--name", name);
    lab.start();
    await lab.ready();
  });
  afterAll(() => lab.down());

  const ask = (from: string, host: string, timeoutMs?: number): Promise<Attempt> =>
    request(lab.pod(from).netns, `http://${bracketed(host)}:${port}/`, timeoutMs);

  test("every address is reached through the mesh, and none in plaintext", async () => {
    expect((await inForce(lab.pod("wide"))).modes).toEqual([mode]);
    for (const ip of addresses) {
      const answer = await ask("front", ip);
      expect(answer, ip).toMatchObject({ status: 200, server: "wide" });
      const record = await lab.records.of("n1", "inbound", answer.local ?? "");
      expect(record, ip).toMatchObject({ protocol: "hbone", dst_addr: `${bracketed(ip)}:${port}` });
      expect(record.src_identity).toBe("spiffe://cluster.local/ns/shop/sa/front");
    }
  });

  test("what comes from outside is judged at every address", async () => {
    lab.apply(
      "strict.yaml",
      `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`,
    );
    const open = async (): Promise<readonly string[]> => {
      const answers = await Promise.all(
        addresses.map(async (ip) => ((await ask("street", ip, 1_000)).status === 200 ? ip : "")),
      );
      return answers.filter((ip) => ip !== "");
    };
    await eventually("STRICT at every address", async () => (await open()).length === 0);
    lab.withdraw("strict.yaml");
    await eventually(
      "PERMISSIVE at every address",
      async () => (await open()).length === addresses.length,
      20_000,
    );
  });

  test("an address that no manifest lists is not the pod's", async () => {
    expect((await ask("front", unlisted, 1_000)).status).toBeUndefined();
    expect((await ask("street", unlisted, 1_000)).status).toBeUndefined();
  });

  test("connections from every interface are carried with the pod's identity, to a peer in the mesh", async () => {
    await lab.kit(lab.pod("front").netns, "serve", "http", "--listen", `[::]:${port}`, "--name", "front");
    const { ip, ip6 } = lab.pod("front");
    for (const to of [ip, ip6]) {
      const answer = await ask("wide", to);
      expect(answer).toMatchObject({ status: 200, server: "front" });
      const record = await lab.records.of("n2", "inbound", answer.local ?? "");
      expect(record.src_identity).toBe("spiffe://cluster.local/ns/shop/sa/wide");
    }
    // On the link of the second interface: the node itself, which is outside of the mesh.
    const { node } = lab.pod("wide");
    await lab.kit(node.netns, "serve", "http", "--listen", `[::]:${port}`, "--name", "node");
    for (const [to, from] of [
      ["10.89.1.1", /^10\.89\.1\.30:/],
      ["fd00:89:1::1", /^\[fd00:89:1::(30|66)\]:/],
    ] as const) {
      const answer = await ask("wide", to);
      expect(answer).toMatchObject({ status: 200, server: "node" });
      const record = await lab.records.of("n1", "outbound", answer.local ?? "");
      expect(record).toMatchObject({ protocol: "tcp", dst_addr: `${bracketed(to)}:${port}` });
      expect(answer.client).toMatch(from);
    }
  });
});
