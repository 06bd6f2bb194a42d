import { parseCidr } from "../../domain/ip.js";
import { ports } from "./marks.js";
import type { CaptureSettings } from "./mode.js";

/** What the objects say of capture, read from annotations and labels. */
export interface OptOuts {
  readonly settings: Omit<CaptureSettings, "addresses">;
  /** One for each value that cannot be understood; what it names is captured. */
  readonly problems: readonly string[];
}

type Texts = ReadonlyMap<string, string>;

/** Our name first, then the names that users of Istio have written. */
const names = {
  inboundPorts: ["meltemi.io/exclude-inbound-ports", "traffic.sidecar.istio.io/excludeInboundPorts"],
  outboundPorts: ["meltemi.io/exclude-outbound-ports", "traffic.sidecar.istio.io/excludeOutboundPorts"],
  outboundCidrs: ["meltemi.io/exclude-outbound-cidrs", "traffic.sidecar.istio.io/excludeOutboundIPRanges"],
  bypassInbound: ["meltemi.io/bypass-inbound-capture", "ambient.istio.io/bypass-inbound-capture"],
} as const;
const udpName = "meltemi.io/udp";
/** Rules and programs hold no more of each kind. */
const mostEntries = 64;

interface Value {
  readonly name: string;
  readonly text: string;
}

function find(texts: Texts, candidates: readonly string[]): Value | undefined {
  const name = candidates.find((candidate) => texts.has(candidate));
  return name === undefined ? undefined : { name, text: texts.get(name) ?? "" };
}

/** The entries of a comma-separated list that `read` understands, in order and once each. */
function list<T>(value: Value | undefined, read: (entry: string) => T | undefined, problems: string[]): T[] {
  const found = new Set<T>();
  const entries = (value?.text ?? "")
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
  for (const entry of entries) {
    const one = read(entry);
    if (one === undefined) problems.push(`${value?.name ?? ""}: "${entry}" is left out`);
    else if (found.size === mostEntries && !found.has(one))
      problems.push(
        `${value?.name ?? ""}: "${entry}" is left out, as the list has more than ${mostEntries} entries`,
      );
    else found.add(one);
  }
  return [...found];
}

const captured: ReadonlySet<number> = new Set(Object.values(ports));

function readPort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 && !captured.has(port) ? port : undefined;
}

/** `ADDRESS` or `ADDRESS/BITS`, as the network's own address and its bits. */
function readCidr(text: string): string | undefined {
  const cidr = parseCidr(text);
  // Nothing captured at all is not an exclusion: that is what leaving the mesh is for.
  return cidr === undefined || cidr.length === 0 ? undefined : `${cidr.address}/${cidr.length}`;
}

function readUdp(texts: Texts | undefined, where: string, problems: string[]): "pass" | "refuse" | undefined {
  const value = texts?.get(udpName);
  if (value === undefined || value === "pass" || value === "refuse") return value;
  problems.push(`${udpName} of ${where} is "${value}", expected pass or refuse`);
  return undefined;
}

/** An object's labels and annotations: a name is looked for in both, annotations first. */
export interface Wishes {
  readonly labels: Texts;
  readonly annotations: Texts;
}

const both = (wishes: Wishes | undefined): Texts | undefined =>
  wishes && new Map([...wishes.labels, ...wishes.annotations]);

/** @param mesh the object that stands for the whole mesh: the namespace of the mesh's own pods */
export function readOptOuts(pod: Wishes, namespace: Wishes | undefined, mesh: Wishes | undefined): OptOuts {
  const problems: string[] = [];
  const { annotations } = pod;
  const bypass = find(annotations, names.bypassInbound);
  if (bypass !== undefined && bypass.text !== "true" && bypass.text !== "false")
    problems.push(`${bypass.name} is "${bypass.text}", expected true or false`);
  const settings = {
    excludeInboundPorts: list(find(annotations, names.inboundPorts), readPort, problems).sort(
      (a, b) => a - b,
    ),
    excludeOutboundPorts: list(find(annotations, names.outboundPorts), readPort, problems).sort(
      (a, b) => a - b,
    ),
    excludeOutboundCidrs: list(find(annotations, names.outboundCidrs), readCidr, problems).sort(),
    bypassInbound: bypass?.text === "true",
    udp:
      readUdp(both(namespace), "the namespace", problems) ??
      readUdp(both(mesh), "the mesh", problems) ??
      "pass",
  } as const;
  return { settings, problems };
}

/** Whether two settings ask for the same. */
export const sameSettings = (a: CaptureSettings, b: CaptureSettings): boolean =>
  JSON.stringify(a) === JSON.stringify(b);
