import type { CaptureForm, CaptureSettings } from "../mode.js";
import { marks, markMask } from "../marks.js";
import type { Family, LocalRoute, MainRoute, RoutingPlan, Rule, Territory } from "../policy-routing.js";

/**
 * Policy routing of mode `bpf` (docs/capture.md). Everything TCP that the pod sends comes back through lo, where
 * the program attached to its namespace gives it to the data plane:
 *
 *     50   from the pod itself to its own addresses -> table 101, so that it arrives through lo as such
 *     60   lookup local (in place of the kernel's rule 0, so that 50 may come before it)
 *     80   what the owner excluded, and what is marked 0x53a or 0x539: on at the kernel's own rule for main
 *     101  everything else that is TCP -> table 100
 *
 * Exempt traffic goes on (`goto`) instead of looking into `main` from here: where main has no answer, it would fall
 * through to rule 101 and come back to the data plane.
 */
const captureTable = "100";
const selfTable = "101";
const mainPreference = 32766;
const preferences = { self: 50, local: 60, exempt: 80, capture: 101 } as const;
/** The kernel's own first rule, which ours replace while they stand. */
export const kernelLocal: Rule = { priority: 0, table: "local", kernel: true };
/** The kernel's other rules, which ours lead to: put back where `ip rule flush` has taken them along. */
const kernelRules = (family: Family): readonly Rule[] => [
  { priority: mainPreference, table: "main", kernel: true },
  ...(family === "4" ? [{ priority: 32767, table: "default", kernel: true } as const] : []),
];

export interface PodAddress {
  readonly interface: string;
  readonly address: string;
}

const isOf = (family: Family, text: string): boolean => text.includes(":") === (family === "6");
/** Connections to these name their interface, and no rule diverts them: the guard stops them. */
const isLinkLocal = (address: string): boolean => /^fe[89ab]/i.test(address);

/**
 * The plan for one family; empty where the pod has no address of it.
 * @param addresses of all interfaces but lo
 * @param main the table `main`, whose choice of source addresses is kept
 */
export function routingPlan(
  family: Family,
  addresses: readonly PodAddress[],
  main: readonly MainRoute[],
  settings: CaptureSettings,
  form: CaptureForm,
): RoutingPlan {
  const own = addresses.filter(({ address }) => isOf(family, address) && !isLinkLocal(address));
  const primary = primaryOf(own, settings);
  const kernel = kernelRules(family);
  if (primary === undefined) return { rules: [kernelLocal, ...kernel], routes: [] };
  const exempt = (selector: Partial<Rule>): Rule => ({
    priority: preferences.exempt,
    ...selector,
    goto: mainPreference,
  });
  const redirecting: readonly Rule[] = [
    ...settings.excludeOutboundCidrs
      .filter((cidr) => isOf(family, cidr))
      .map((to) => exempt({ to: short(to) })),
    ...settings.excludeOutboundPorts.map((port) => exempt({ tcp: true, port })),
    exempt({ mark: `${marks.exempt}/${markMask}` }),
    exempt({ mark: `${marks.proxy}/${markMask}` }),
    { priority: preferences.capture, tcp: true, table: captureTable },
  ];
  const draining: readonly Rule[] = [
    { priority: preferences.capture, mark: `${marks.draining}/${markMask}`, tcp: true, table: captureTable },
  ];
  return {
    rules: [
      ...unique(own.map(({ address }) => address)).map((to): Rule => ({
        priority: preferences.self,
        to,
        local: true,
        table: selfTable,
      })),
      { priority: preferences.local, table: "local" },
      ...(form === "redirecting" ? redirecting : draining),
      ...kernel,
    ],
    routes: [
      ...unique(own.map(({ address }) => address)).map((destination) => ({ destination, table: selfTable })),
      ...captureRoutes(family, own, primary, main),
    ],
  };
}

const unique = (texts: readonly string[]): readonly string[] => [...new Set(texts)];
/** As `ip` prints it: a network of one address without its length. */
const short = (cidr: string): string => cidr.replace(/^([\d.]+)\/32$|^([\da-f:]+)\/128$/, "$1$2");

/** The pod's first address of the family as the cluster knows it, else the first of all. */
function primaryOf(own: readonly PodAddress[], settings: CaptureSettings): string | undefined {
  const known = settings.addresses.find((address) => own.some((one) => one.address === address));
  return known ?? own[0]?.address;
}

/**
 * Source addresses are chosen as `main` would: by the interface that the destination is reached through. IPv6 needs
 * no help (an address of the right scope is preferred to one of lo), and gets none: an address that is still being
 * probed for duplicates may not be named.
 */
function captureRoutes(
  family: Family,
  own: readonly PodAddress[],
  primary: string,
  main: readonly MainRoute[],
): LocalRoute[] {
  if (family === "6") return [{ destination: "default", table: captureTable }];
  const routes = new Map([["default", primary]]);
  for (const { destination, device, source } of main) {
    const from = source ?? own.find((one) => one.interface === device)?.address;
    if (from !== undefined) routes.set(destination, from);
  }
  return [...routes].map(([destination, source]) => ({ destination, table: captureTable, source }));
}

const ourPriorities: ReadonlySet<number> = new Set(Object.values(preferences));

/** The kernel's rule 0 counts as ours: it goes and comes with the others. */
export const territory: Territory = {
  rule: (rule) =>
    (ourPriorities.has(rule.priority) &&
      (rule.goto === mainPreference || [captureTable, selfTable, "local"].includes(rule.table ?? ""))) ||
    (rule.priority === 0 && rule.table === "local"),
  route: ({ table }) => table === captureTable || table === selfTable,
};
