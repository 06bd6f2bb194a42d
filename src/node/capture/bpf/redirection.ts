import { MeltemiError } from "../../../domain/error.js";
import type {
  CaptureForm,
  CapturedPod,
  Counts,
  LayerState,
  Netns,
  Redirection,
  Unannounced,
} from "../mode.js";
import { readSysctls, writeSysctls, type Sysctls } from "../originals.js";
import { difference, families, type Difference, type Family, type PolicyRouting } from "../policy-routing.js";
import type { NodeBpf, SysctlValue } from "../../../platform/native.js";
import { kernelLocal, routingPlan, territory, type PodAddress } from "./plan.js";
import { captureSysctls } from "./sysctls.js";

/** The addresses of a namespace (the addon's `netnsAddresses`). */
export type ReadAddresses = (fd: number) => Promise<readonly PodAddress[]>;

export interface BpfRedirectionParts {
  /** Undefined where the kernel has none: such capture can still be removed. */
  readonly programs: NodeBpf | undefined;
  readonly routing: PolicyRouting;
  readonly sysctls: Sysctls;
  readonly addresses: ReadAddresses;
}

/** Names of interfaces are the pods' own: there may be as many as there are pods. */
const mostLists = 1_024;

const nothing = { rules: [kernelLocal], routes: [] } as const;

/** Redirection by policy routes through lo and a program at the namespace's socket lookup: no netfilter, no conntrack. */
export class BpfRedirection implements Redirection {
  readonly name = "bpf";
  /** What was wanted of each namespace when it was last verified. */
  readonly #sysctls = new Map<number, readonly SysctlValue[]>();
  /** One list for all namespaces with interfaces of the same names. */
  readonly #lists = new Map<string, readonly SysctlValue[]>();

  constructor(private readonly parts: BpfRedirectionParts) {}

  async prepare({ netns }: CapturedPod): Promise<void> {
    if (this.parts.programs === undefined)
      throw new MeltemiError("unavailable", "mode bpf needs BPF programs, which this kernel does not take");
    await this.parts.programs.attachRedirect(netns.fd, netns.inode);
  }

  async apply(pod: CapturedPod, form: CaptureForm): Promise<void> {
    const addresses = await this.#addresses(pod.netns);
    const [v4, v6] = await Promise.all([
      this.#difference(pod, "4", form, addresses),
      this.#difference(pod, "6", form, addresses),
      // With the rules in force and without these, every arriving packet would be a martian.
      form === "redirecting"
        ? writeSysctls(this.parts.sysctls, pod.netns, wantedSysctls(addresses))
        : Promise.resolve(),
    ]);
    await Promise.all([
      this.parts.routing.change(pod.netns, "4", v4),
      this.parts.routing.change(pod.netns, "6", v6),
    ]);
  }

  async verify(pod: CapturedPod, form: CaptureForm): Promise<LayerState> {
    const addresses = await this.#addresses(pod.netns);
    const wanted = wantedSysctls(addresses);
    this.#sysctls.set(pod.netns.inode, this.#listOf(wanted));
    const [v4, v6, changed] = await Promise.all([
      this.#difference(pod, "4", form, addresses),
      this.#difference(pod, "6", form, addresses),
      this.#changed(pod.netns, wanted),
    ]);
    const rules = [v4, v6].some((change) => change.addRules.length + change.removeRules.length > 0);
    const routes = [v4, v6].some((change) => change.addRoutes.length + change.removeRoutes.length > 0);
    return {
      broken: [
        ...(rules ? ["policy rule missing"] : []),
        ...(routes ? ["local route missing"] : []),
        ...(changed.length > 0 ? ["sysctl changed"] : []),
      ],
      // What the programs drop and pass, they count with the guard's.
      counts: new Map(),
    };
  }

  unannounced(netns: Netns): Unannounced {
    const sysctls = this.#sysctls.get(netns.inode);
    return { programs: true, ...(sysctls !== undefined && { sysctls }) };
  }

  counts(): Promise<Counts> {
    return Promise.resolve(new Map());
  }

  async remove(netns: Netns): Promise<void> {
    this.#sysctls.delete(netns.inode);
    for (const family of families) {
      const present = await this.parts.routing.read(netns, family);
      // A namespace that never was captured, or has no such family, has nothing of this.
      if (
        present.rules.some(({ priority }) => priority !== 0) &&
        present.rules.some((rule) => territory.rule(rule))
      )
        await this.parts.routing.change(netns, family, difference(present, nothing, territory));
    }
    // Another mode may follow in this namespace, with the guard left in force.
    await this.parts.programs?.detachRedirect(netns.inode);
  }

  #listOf(wanted: Readonly<Record<string, string>>): readonly SysctlValue[] {
    const key = Object.keys(wanted).join();
    const known = this.#lists.get(key);
    if (known !== undefined) return known;
    if (this.#lists.size >= mostLists) this.#lists.clear();
    const list = Object.entries(wanted).map(([name, value]) => ({ name, value }));
    this.#lists.set(key, list);
    return list;
  }

  /** The names of those that have another value. */
  async #changed(netns: Netns, wanted: Readonly<Record<string, string>>): Promise<readonly string[]> {
    const present = await readSysctls(this.parts.sysctls, netns, Object.keys(wanted));
    return Object.keys(present).filter((name) => present[name] !== wanted[name]);
  }

  async #difference(
    { netns, settings }: CapturedPod,
    family: Family,
    form: CaptureForm,
    addresses: readonly PodAddress[],
  ): Promise<Difference> {
    const present = await this.parts.routing.read(netns, family);
    if (present.rules.length === 0 && present.main.length === 0 && !addresses.some(isOfFamily(family)))
      return { addRules: [], addRoutes: [], removeRules: [], removeRoutes: [] };
    return difference(present, routingPlan(family, addresses, present.main, settings, form), territory);
  }

  async #addresses(netns: Netns): Promise<readonly PodAddress[]> {
    return (await this.parts.addresses(netns.fd)).filter(({ interface: name }) => name !== "lo");
  }
}

const isOfFamily =
  (family: Family) =>
  ({ address }: PodAddress): boolean =>
    address.includes(":") === (family === "6");

const wantedSysctls = (addresses: readonly PodAddress[]): Readonly<Record<string, string>> =>
  captureSysctls([...new Set(addresses.map(({ interface: name }) => name))]);
