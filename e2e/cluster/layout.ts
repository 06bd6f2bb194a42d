/** Where a cluster keeps its things, and its addresses. Every cluster has networks of its own, so these never collide. */
import { createHash } from "node:crypto";
import { join } from "node:path";

/** One machine's network and the cluster's; fixed, because nothing outside the cluster's namespaces sees them. */
export const network = {
  lan: { address: "10.79.0.1", bits: 24, bridge: "lan" },
  pods: "10.80.0.0/16",
  services: "10.96.0.0/16",
  apiService: "10.96.0.1",
  dns: "10.96.0.10",
  loadBalancers: "10.79.64.0/24",
  domain: "cluster.local",
  apiPort: 6443,
} as const;

export const apiServer = `https://${network.lan.address}:${network.apiPort}`;

/** The most nodes a cluster can have: their addresses end in 11 and up. */
export const maxNodes = 40;

export interface NodeLayout {
  readonly name: string;
  /** Address on the machine's bridge. */
  readonly address: string;
  /** Where its pods are, ADDRESS/BITS. */
  readonly pods: string;
  /** What it sees as `/`. */
  readonly root: string;
  /** Below every cgroup hierarchy. */
  readonly cgroup: string;
}

export class Layout {
  /** @param directory absolute, and below neither /run nor /tmp, which the cluster has of its own */
  constructor(readonly directory: string) {}

  /** The one directory below every cgroup hierarchy. */
  get cgroup(): string {
    return `meltemi-cluster-${createHash("sha256").update(this.directory).digest("hex").slice(0, 10)}`;
  }

  get pki(): string {
    return join(this.directory, "pki");
  }
  get programs(): string {
    return join(this.directory, "bin");
  }
  /** Archives of the images that every node has. */
  get images(): string {
    return join(this.directory, "images");
  }
  get logs(): string {
    return join(this.directory, "logs");
  }
  get etcd(): string {
    return join(this.directory, "etcd");
  }
  /** What `up` was asked for; its presence means that the cluster once began. */
  get record(): string {
    return join(this.directory, "cluster.json");
  }
  get supervisor(): string {
    return join(this.directory, "supervise.sh");
  }

  kubeconfig(who: string): string {
    return join(this.directory, "kubeconfig", `${who}.conf`);
  }
  program(name: string): string {
    return join(this.programs, name);
  }
  log(component: string): string {
    return join(this.logs, `${component}.log`);
  }

  /** @param number from 1 */
  node(number: number): NodeLayout {
    const name = `n${number}`;
    return {
      name,
      address: `10.79.0.${10 + number}`,
      pods: `10.80.${number}.0/24`,
      root: join(this.directory, "nodes", name, "root"),
      cgroup: `${this.cgroup}/${name}`,
    };
  }
}
