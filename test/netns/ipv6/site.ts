/** A mesh of two nodes whose pods have IPv4, IPv6 or both, with real agents and data planes. */
import { runIn } from "../../../demo/lab/command.js";
import { eventually } from "../../helpers/eventually.js";
import { Lab, type PodPlan } from "../capture/lab/lab.js";
import { kit, type Attempt } from "../capture/lab/kit.js";
import type { AccessRecord } from "../capture/lab/records.js";

export const port = 8080;

/** One request over a connection of its own. What is refused fails at once, what is dropped after the timeout. */
export async function request(netns: string, url: string, timeoutMs = 5_000): Promise<Attempt> {
  const args = ["client", "http", "--url", url, "--lines", "--timeout-ms", String(timeoutMs)];
  const [first] = await kit(netns, args);
  return first as Attempt;
}

/** What a pod has beside its name: its addresses as its manifest lists them. */
interface SitePod extends PodPlan {
  readonly addresses: "both" | "ipv4" | "ipv6";
  readonly labels?: Readonly<Record<string, string>>;
  /** Serves HTTP on every address. */
  readonly serves?: true;
}

const pods: readonly SitePod[] = [
  { name: "dual", node: "n1", host: 10, addresses: "both", labels: { app: "web" }, serves: true },
  { name: "six", node: "n1", host: 11, addresses: "ipv6", labels: { app: "web" }, serves: true },
  { name: "four", node: "n1", host: 12, addresses: "ipv4", labels: { app: "web" }, serves: true },
  { name: "front", node: "n2", host: 10, addresses: "both" },
  { name: "front6", node: "n2", host: 11, addresses: "ipv6" },
  { name: "street", node: "n2", host: 20, addresses: "both", outside: true },
];

export const vip = "10.96.2.1";
export const vip6 = "fd00:96:2::1";
/** Of a service that is offered over IPv6 alone, though its pods have both. */
export const onlyVip6 = "fd00:96:2::2";

const services = `
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  clusterIPs: [${vip}, "${vip6}"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: { app: web }
  ports: [{ port: 80, targetPort: ${port} }]
---
apiVersion: v1
kind: Service
metadata: { name: only-six, namespace: shop }
spec: { clusterIP: "${onlyVip6}", ipFamilies: [IPv6], selector: { app: web }, ports: [{ port: 80, targetPort: ${port} }] }
`;

/** The record of a connection, with the fields that are looked at here. */
export type SiteRecord = AccessRecord & {
  readonly dst_hbone_addr?: string;
  readonly dst_identity?: string;
  readonly policy?: string;
};

export class Site {
  readonly lab: Lab;

  /** @param prefix of its namespaces @param flags further flags of `meltemi standalone` */
  constructor(prefix: string, flags: readonly string[]) {
    this.lab = new Lab(prefix, pods, flags);
  }

  async up(): Promise<void> {
    const { lab } = this;
    await lab.up();
    for (const pod of pods) {
      const { netns, ip, ip6 } = lab.pod(pod.name);
      const leave = (address: string): Promise<string> =>
        runIn(netns, "ip", ["address", "delete", address, "dev", "eth0"]);
      if (pod.addresses === "ipv6") await leave(`${ip}/24`);
      if (pod.addresses === "ipv4") {
        await leave(`${ip6}/64`);
        // As a namespace in which IPv6 is switched off: it must be served all the same.
        await runIn(netns, "sysctl", ["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"]);
      }
      this.#writePod(pod);
    }
    lab.apply("services.yaml", services);
    for (const { name, serves, addresses } of pods) {
      if (!serves) continue;
      const listen = addresses === "ipv4" ? `0.0.0.0:${port}` : `[::]:${port}`;
      await lab.kit(lab.pod(name).netns, "serve", "http", "--listen", listen, "--name", name);
    }
    await lab.kit(lab.pod("street").netns, "serve", "http", "--listen", `[::]:${port}`, "--name", "street");
    lab.start();
    await lab.ready();
  }

  down(): Promise<void> {
    return this.lab.down();
  }

  #writePod({ name, addresses, labels = {}, outside }: SitePod): void {
    const { netns, node, ip, ip6 } = this.lab.pod(name);
    const ips = { both: [ip, ip6], ipv4: [ip], ipv6: [ip6] }[addresses];
    const mode = outside ? { "istio.io/dataplane-mode": "none" } : {};
    this.lab.apply(
      `pod-${name}.yaml`,
      `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: ${JSON.stringify({ ...labels, ...mode })}, annotations: { meltemi.io/netns: ${netns} } }
spec: { nodeName: ${node.name}, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: "${ips[0] ?? ""}", podIPs: ${JSON.stringify(ips.map((one) => ({ ip: one })))}, phase: Running }
`,
    );
  }

  ip(pod: string, family: 4 | 6): string {
    const { ip, ip6 } = this.lab.pod(pod);
    return family === 4 ? ip : `[${ip6}]`;
  }

  url(pod: string, family: 4 | 6): string {
    return `http://${this.ip(pod, family)}:${port}/`;
  }

  /** One request over a connection of its own. */
  get(from: string, url: string): Promise<Attempt> {
    return request(this.lab.pod(from).netns, url);
  }

  /** Whether a request gets no answer: at once where it is refused, after a second where it is dropped. */
  async fails(from: string, url: string): Promise<boolean> {
    return (await request(this.lab.pod(from).netns, url, 1_000)).status === undefined;
  }

  /** Which servers answer many requests, each over a connection of its own. */
  async servers(from: string, url: string): Promise<readonly string[]> {
    const many = ["client", "http", "--url", url, "--requests", "12", "--keepalive", "false", "--lines"];
    const lines = (await kit(this.lab.pod(from).netns, [...many, "--timeout-ms", "5000"])) as Attempt[];
    const seen = lines.flatMap(({ server, error }) => server ?? error ?? []);
    return [...new Set(seen)].sort();
  }

  record(node: string, direction: "inbound" | "outbound", source: string): Promise<SiteRecord> {
    return this.lab.records.of(node, direction, source);
  }

  /**
   * Asks until it is refused for this reason, and gives the record. The first failure need not be one: a
   * connection that is open when its rule comes into force is ended for another reason.
   */
  refusal(from: string, url: string, node: string, reason: string): Promise<SiteRecord> {
    return eventually(`a record of ${reason} on ${node}`, async () => {
      await request(this.lab.pod(from).netns, url, 1_000);
      return this.lab.records.all(node).findLast((record) => record.reason === reason);
    });
  }
}
