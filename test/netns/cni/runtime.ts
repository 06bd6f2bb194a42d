/** What libcni does with a network's list of plugins: ADD and CHECK in its order, DEL in the reverse one. */
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { callCni, type CniAnswer, type CniCall } from "./plugin.js";

interface NetworkList {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: readonly Readonly<Record<string, unknown>>[];
}

export type PodCall = Required<Pick<CniCall, "containerId" | "netns" | "pod">> &
  Pick<CniCall, "uid" | "interface">;

/** A plugin's error, as it wrote it. */
export class CniFailure extends Error {
  constructor(
    readonly plugin: string,
    readonly answer: CniAnswer,
  ) {
    super(`${plugin}: ${answer.stdout}${answer.stderr}`);
  }

  get code(): unknown {
    return this.answer.json?.["code"];
  }
}

export class Runtime {
  constructor(
    private readonly confList: string,
    private readonly binDirs: readonly string[],
    private readonly runtimeConfig: Readonly<Record<string, unknown>> = {},
  ) {}

  /** The last plugin's result. */
  async add(pod: PodCall): Promise<Record<string, unknown>> {
    let result: Record<string, unknown> | undefined;
    for (const plugin of this.#list.plugins) result = await this.#call("ADD", plugin, pod, result);
    return result ?? {};
  }

  /** Without port mappings: Debian's portmap looks for IPv6 rules of IPv4 ones, and fails. */
  async check(pod: PodCall, result: unknown): Promise<void> {
    for (const plugin of this.#list.plugins) await this.#call("CHECK", plugin, pod, result);
  }

  async del(pod: PodCall, result?: unknown): Promise<void> {
    for (const plugin of [...this.#list.plugins].reverse()) await this.#call("DEL", plugin, pod, result);
  }

  get #list(): NetworkList {
    return JSON.parse(readFileSync(this.confList, "utf8")) as NetworkList;
  }

  async #call(
    verb: string,
    plugin: Readonly<Record<string, unknown>>,
    pod: PodCall,
    prevResult: unknown,
  ): Promise<Record<string, unknown> | undefined> {
    const { cniVersion, name } = this.#list;
    const type = String(plugin["type"]);
    const { capabilities, ...rest } = plugin;
    const asked = Object.keys(capabilities ?? {});
    const told = verb === "CHECK" ? {} : this.runtimeConfig;
    const runtimeConfig = Object.fromEntries(
      Object.entries(told).filter(([capability]) => asked.includes(capability)),
    );
    const config = { ...rest, cniVersion, name, ...(asked.length > 0 ? { runtimeConfig } : {}), prevResult };
    const program = join(this.binDirs[type === "meltemi-cni" ? 1 : 0] ?? "", type);
    const answer = await callCni({ verb, config, ...pod }, program);
    if (answer.exitCode !== 0) throw new CniFailure(type, answer);
    return answer.json;
  }
}
