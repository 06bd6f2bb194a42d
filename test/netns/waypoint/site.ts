/** A mesh with waypoints: one of the service cart (two versions behind it), one of the service account ledger. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { eventually } from "../../helpers/eventually.js";
import { Mesh, root } from "../standalone/mesh.js";

const testkit = join(root, "target/release/meltemi-testkit");

/** The summary of `testkit client http`. */
export interface Answers {
  readonly requests: number;
  readonly ok: number;
  readonly failed: number;
  readonly statuses: Readonly<Record<string, number>>;
  readonly servers: Readonly<Record<string, number>>;
  readonly clients: Readonly<Record<string, number>>;
}

export interface Route {
  /** Weights of v1 and v2 for everybody. */
  readonly weights: readonly [number, number];
}

export const cart = "10.96.1.1";
/** The same pods at a port of which nobody says that it is HTTP. */
export const rawCart = "10.96.1.4";

export class WaypointSite {
  readonly mesh: Mesh;

  constructor(prefix: string, directory: string) {
    this.mesh = new Mesh(prefix, directory);
  }

  async up(): Promise<void> {
    const { mesh } = this;
    await mesh.up();
    for (const [name, node, host] of [
      ["cart2", "n2", 12],
      ["ledger", "n1", 13],
      ["intruder", "n2", 14],
      ["outsider", "n2", 15],
      ["shop-wp", "n1", 40],
      ["ledger-wp", "n2", 41],
    ] as const)
      await mesh.topology.addPod(name, node, host);
    for (const name of ["cart2", "ledger"]) mesh.serve(name);
    for (const name of ["cart2", "ledger", "intruder"]) mesh.writePod(name);
    this.#write("services.yaml", [
      service("cart", cart, { "istio.io/use-waypoint": "shop-wp" }),
      rawService("cart-raw", rawCart, { "istio.io/use-waypoint": "shop-wp" }),
      service("cart2", "10.96.1.2", {}),
      service("ledger", "10.96.1.3", {}),
    ]);
    // Mesh.up has written a cart of its own, without a waypoint.
    this.#write("mesh.yaml", this.#nodesAndNamespace());
    this.#write("gateways.yaml", [
      this.#gateway("shop-wp"),
      this.#gateway("ledger-wp", { "istio.io/for-service-account": "ledger" }),
    ]);
    this.route({ weights: [1, 0] });
  }

  #nodesAndNamespace(): readonly string[] {
    const nodes = this.mesh.topology.nodes.map(
      ({ name, netns }) =>
        `apiVersion: v1\nkind: Node\nmetadata: { name: ${name}, annotations: { meltemi.io/netns: ${netns} } }\n`,
    );
    const labels = "{ istio.io/dataplane-mode: ambient }";
    return [...nodes, `apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: ${labels} }\n`];
  }

  #gateway(name: string, annotations: Readonly<Record<string, string>> = {}): string {
    const { netns, ip } = this.mesh.topology.pod(name);
    const all = JSON.stringify({ "meltemi.io/netns": netns, ...annotations });
    return `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: ${name}, namespace: shop, annotations: ${all} }
spec:
  gatewayClassName: meltemi-waypoint
  addresses: [{ type: IPAddress, value: ${ip} }]
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
`;
  }

  /** Who asks with the header is sent to v2; everybody else by weight. */
  route({ weights }: Route): void {
    this.#write("route.yaml", [
      `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart, namespace: shop }
spec:
  parentRefs: [{ group: "", kind: Service, name: cart, port: 80 }]
  rules:
    - matches: [{ headers: [{ name: x-canary, value: "yes" }] }]
      backendRefs: [{ name: cart2, port: 80 }]
    - matches: [{ path: { type: PathPrefix, value: /old } }]
      filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }]
      backendRefs: [{ name: cart, port: 80 }]
    - backendRefs: [{ name: cart, port: 80, weight: ${weights[0]} }, { name: cart2, port: 80, weight: ${weights[1]} }]
`,
    ]);
  }

  policy(name: string, spec: object): void {
    this.#write(`policy-${name}.yaml`, [
      `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: ${name}, namespace: shop }\nspec: ${JSON.stringify(spec)}\n`,
    ]);
  }

  /** Objects as they are, instead of those that the file held before. */
  objects(file: string, documents: readonly string[]): void {
    this.#write(file, documents);
  }

  #write(file: string, documents: readonly string[]): void {
    writeFileSync(join(this.mesh.config, file), documents.join("---\n"));
  }

  async ask(from: string, url: string, ...more: readonly string[]): Promise<Answers> {
    const netns = `--net=/run/netns/${this.mesh.topology.pod(from).netns}`;
    const args = [netns, "--", testkit, "client", "http", "--url", url, ...more];
    const { stdout } = await execa("nsenter", args, { reject: false });
    return JSON.parse(stdout.trim().split("\n").at(-1) ?? "{}") as Answers;
  }

  /** Asks until the answer is as wanted; gives it. */
  until(what: string, ask: () => Promise<Answers>, good: (answers: Answers) => boolean): Promise<Answers> {
    let last: Answers | undefined;
    return eventually(
      what,
      async () => {
        last = await ask();
        return good(last) && last;
      },
      30_000,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}; last: ${JSON.stringify(last)}`, { cause: error });
    });
  }

  async down(): Promise<void> {
    await this.mesh.down();
  }
}

function service(name: string, ip: string, labels: Readonly<Record<string, string>>): string {
  return `
apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: shop, labels: ${JSON.stringify(labels)} }
spec: { clusterIP: ${ip}, selector: { app: ${name} }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
`;
}

function rawService(name: string, ip: string, labels: Readonly<Record<string, string>>): string {
  return `
apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: shop, labels: ${JSON.stringify(labels)} }
spec: { clusterIP: ${ip}, selector: { app: cart }, ports: [{ name: tcp-raw, port: 80, targetPort: 8080 }] }
`;
}
