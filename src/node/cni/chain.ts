/**
 * The node's network configuration with our plugin at its end, as a file of our own that comes before all others:
 * runtimes take the first by name. The other plugins' files stay as they are, and ours going away brings theirs back.
 */
import { z } from "zod";
import type { wishLabels } from "../../domain/enrolment.js";
import { messageOf } from "../../domain/error.js";

export const pluginName = "meltemi-cni";

/** Our file's name: the first that comes before all others. */
export const chainNames = ["00-meltemi.conflist", "!00-meltemi.conflist"] as const;

/** What the plugin is told (docs/cni.md, "The plugin's configuration"). */
export interface PluginConfig {
  readonly socket: string;
  readonly list: string;
  readonly timeoutMs: number;
  readonly briefTimeoutMs: number;
  readonly whenUnknown: WhenUnknown;
  /** Where the plugin may look at labels while the agent does not answer. */
  readonly kubernetes?: ApiAccess & { readonly wish: typeof wishLabels };
}

/** How the plugin reaches the API. */
export interface ApiAccess {
  /** `ADDRESS:PORT`, with an IP address. */
  readonly server: string;
  /** The name in the server's certificate; the address where it is left out. */
  readonly serverName?: string | undefined;
  readonly caFile: string;
  readonly tokenFile: string;
  readonly timeoutMs?: number | undefined;
}

export const whenUnknownRules = ["retry", "namespace", "allow"] as const;
export type WhenUnknown = (typeof whenUnknownRules)[number];

export interface ConfigFile {
  readonly name: string;
  readonly text: string;
}

export type Chain =
  | { readonly type: "chained"; readonly name: string; readonly text: string; readonly from: string }
  /** There is nothing to chain to, which a first configuration changes. */
  | { readonly type: "waiting"; readonly problems: readonly string[] }
  /** The node's own configuration names our plugin. */
  | { readonly type: "theirs"; readonly from: string };

const pluginShape = z.looseObject({ type: z.string().min(1) });
const listShape = z.looseObject({
  cniVersion: z.string(),
  name: z.string().min(1),
  plugins: z.array(pluginShape).min(1),
});
const singleShape = pluginShape.extend({ cniVersion: z.string(), name: z.string().min(1) });

type NetworkList = z.infer<typeof listShape>;

/** As runtimes do: files of these endings, in the order of their names' bytes. */
export function isNetworkConfig(name: string): boolean {
  return /\.(conf|conflist|json)$/.test(name);
}

function read({ name, text }: ConfigFile): NetworkList {
  const value: unknown = JSON.parse(text);
  if (name.endsWith(".conflist")) return listShape.parse(value);
  const { cniVersion, name: network, ...plugin } = singleShape.parse(value);
  return { cniVersion, name: network, plugins: [plugin] };
}

function problemOf(error: unknown): string {
  if (!(error instanceof z.ZodError)) return messageOf(error);
  return error.issues.map(({ path, message }) => `${path.join(".") || "file"}: ${message}`).join("; ");
}

/** Versions before this one have no chains. */
const oldVersion = /^0\.([12]\.\d+|3\.0)$/;

const before = (a: string, b: string): boolean => Buffer.compare(Buffer.from(a), Buffer.from(b)) < 0;

/** @param files the directory's network configurations but ours */
export function chain(files: readonly ConfigFile[], config: PluginConfig): Chain {
  const problems: string[] = [];
  const sorted = [...files].sort((a, b) => (before(a.name, b.name) ? -1 : 1));
  for (const file of sorted) {
    let network: NetworkList;
    try {
      network = read(file);
    } catch (error) {
      problems.push(`${file.name}: ${problemOf(error)}`);
      continue;
    }
    if (network.plugins.some(({ type }) => type === pluginName)) return { type: "theirs", from: file.name };
    if (oldVersion.test(network.cniVersion)) {
      problems.push(`${file.name}: cniVersion ${network.cniVersion} knows no chains; set 0.3.1 or newer`);
      continue;
    }
    const name = chainNames.find((own) => sorted.every((other) => before(own, other.name)));
    if (name === undefined) {
      return {
        type: "waiting",
        problems: [`${sorted[0]?.name ?? ""}: no file can come before it; rename it`],
      };
    }
    const plugins = [...network.plugins, { type: pluginName, from: file.name, ...config }];
    return {
      type: "chained",
      name,
      text: `${JSON.stringify({ ...network, plugins }, null, 2)}\n`,
      from: file.name,
    };
  }
  return { type: "waiting", problems };
}
