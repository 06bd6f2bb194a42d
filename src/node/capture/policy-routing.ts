import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Netns } from "./mode.js";
import type { Tools } from "./tool.js";

/**
 * Policy rules and local routes of capture, as a plan that is compared with the kernel and made true. The
 * kernel's answers are read as JSON (`ip -j`), one run for each address family.
 */
export type Family = "4" | "6";
export const families = ["4", "6"] as const;

export interface Rule {
  readonly priority: number;
  /** An address, or a CIDR. */
  readonly to?: string | undefined;
  /** VALUE/MASK, in hexadecimal. */
  readonly mark?: string | undefined;
  /** Packets that this host makes itself. */
  readonly local?: true | undefined;
  readonly tcp?: true | undefined;
  /** With `tcp`. */
  readonly port?: number | undefined;
  /** Written for a rule that stands for the kernel's own. */
  readonly kernel?: true | undefined;
  /** A table to look in, or a later rule to go on at. */
  readonly table?: string | undefined;
  readonly goto?: number | undefined;
}

/** `local DESTINATION dev lo table TABLE src SOURCE`. */
export interface LocalRoute {
  /** `default`, an address, or a CIDR. */
  readonly destination: string;
  readonly table: string;
  readonly source?: string | undefined;
}

export interface RoutingPlan {
  readonly rules: readonly Rule[];
  readonly routes: readonly LocalRoute[];
}

/** What the namespace has. */
export interface Routing extends RoutingPlan {
  /** Routes of the table `main`. */
  readonly main: readonly MainRoute[];
}

export interface MainRoute {
  readonly destination: string;
  readonly device: string;
  readonly source?: string | undefined;
}

/** Input of `ip -j -force -batch -`. */
export const showRouting = "rule show\nroute show table all\n";

interface RuleJson {
  readonly priority: number;
  readonly dst?: string;
  readonly dstlen?: number;
  readonly fwmark?: string;
  readonly fwmask?: string;
  readonly iif?: string;
  readonly ipproto?: string;
  readonly dport?: number;
  readonly table?: string;
  readonly goto?: number;
}

interface RouteJson {
  readonly type?: string;
  readonly dst: string;
  readonly dev?: string;
  readonly table?: string;
  readonly prefsrc?: string;
}

function readRule(rule: RuleJson): Rule {
  const to = rule.dst === undefined || rule.dst === "all" ? undefined : rule.dst;
  return {
    priority: rule.priority,
    to: to === undefined || rule.dstlen === undefined ? to : `${to}/${rule.dstlen}`,
    mark: rule.fwmark === undefined ? undefined : `${rule.fwmark}/${rule.fwmask ?? "0xffffffff"}`,
    local: rule.iif === "lo" ? true : undefined,
    tcp: rule.ipproto === "tcp" ? true : undefined,
    port: rule.dport,
    table: rule.table,
    goto: rule.goto,
  };
}

/** Reads the output of `showRouting`: JSON lists, one for each command that had an answer. */
export function readRouting(text: string): Routing {
  let rules: RuleJson[] = [];
  let routes: RouteJson[] = [];
  for (const line of text.split("\n")) {
    if (!line.startsWith("[")) continue;
    const list = JSON.parse(line) as (RuleJson | RouteJson)[];
    const isRules = list.some((one) => "priority" in one);
    if (isRules) rules = list as RuleJson[];
    else routes = list as RouteJson[];
  }
  return {
    rules: rules.map(readRule),
    routes: routes
      .filter(({ type, dev, table }) => type === "local" && dev === "lo" && table !== "local")
      .map(({ dst, table, prefsrc }) => ({ destination: dst, table: table ?? "main", source: prefsrc })),
    main: routes
      .filter(({ type, table }) => (type ?? "unicast") === "unicast" && (table ?? "main") === "main")
      .map(({ dst, dev, prefsrc }) => ({ destination: dst, device: dev ?? "", source: prefsrc })),
  };
}

export const ruleKey = (rule: Rule): string =>
  [rule.priority, rule.to, rule.mark, rule.local, rule.tcp, rule.port, rule.table, rule.goto].join(" ");
export const routeKey = (route: LocalRoute): string =>
  [route.destination, route.table, route.source].join(" ");

const ruleText = (rule: Rule): string =>
  [
    `pref ${rule.priority}`,
    rule.to === undefined ? "" : `to ${rule.to}`,
    rule.mark === undefined ? "" : `fwmark ${rule.mark}`,
    rule.local ? "iif lo" : "",
    rule.tcp ? "ipproto tcp" : "",
    rule.port === undefined ? "" : `dport ${rule.port}`,
    rule.goto === undefined ? `lookup ${rule.table ?? "main"}` : `goto ${rule.goto}`,
    rule.kernel ? "protocol kernel" : "",
  ]
    .filter((part) => part !== "")
    .join(" ");

const routeText = (route: LocalRoute): string =>
  `local ${route.destination} dev lo table ${route.table}${route.source === undefined ? "" : ` src ${route.source}`}`;

/** What is ours in a namespace. */
export interface Territory {
  rule(rule: Rule): boolean;
  route(route: LocalRoute): boolean;
}

export interface Difference {
  readonly addRules: readonly Rule[];
  readonly addRoutes: readonly LocalRoute[];
  readonly removeRules: readonly Rule[];
  readonly removeRoutes: readonly LocalRoute[];
}

/** What to add to and take from `present` to make our territory as planned. What others have is not looked at. */
export function difference(present: RoutingPlan, plan: RoutingPlan, ours: Territory): Difference {
  const has = <T>(list: readonly T[], key: (one: T) => string): ((one: T) => boolean) => {
    const keys = new Set(list.map(key));
    return (one) => keys.has(key(one));
  };
  const [haveRule, haveRoute] = [has(present.rules, ruleKey), has(present.routes, routeKey)];
  const [wantRule, wantRoute] = [has(plan.rules, ruleKey), has(plan.routes, routeKey)];
  return {
    addRules: plan.rules.filter((rule) => !haveRule(rule)),
    addRoutes: plan.routes.filter((route) => !haveRoute(route)),
    removeRules: present.rules.filter((rule) => ours.rule(rule) && !wantRule(rule)),
    removeRoutes: present.routes.filter((route) => ours.route(route) && !wantRoute(route)),
  };
}

/**
 * Input of `ip -batch -`, in the order in which nothing is ever looked up in the wrong place: routes before
 * the rules that point at them, rules added before others are taken away, routes removed last.
 */
export function changeScript(change: Difference): string {
  return [
    ...change.addRoutes.map((route) => `route replace ${routeText(route)}`),
    ...change.addRules.map((rule) => `rule add ${ruleText(rule)}`),
    ...change.removeRules.map((rule) => `rule del ${ruleText(rule)}`),
    // One that has been replaced by another source is gone already.
    ...change.removeRoutes
      .filter(({ destination, table }) =>
        change.addRoutes.every((added) => added.destination !== destination || added.table !== table),
      )
      .map((route) => `route del ${routeText(route)}`),
  ]
    .map((line) => `${line}\n`)
    .join("");
}

/** Policy routing of namespaces. */
export class PolicyRouting {
  constructor(private readonly tools: Tools) {}

  async read(netns: Netns, family: Family): Promise<Routing> {
    const args = [`-${family}`, "-j", "-force", "-batch", "-"];
    // -force: an absent table ends `route show` with an error, which is an answer here.
    return readRouting(await this.tools.said(netns, "ip", args, showRouting));
  }

  async change(netns: Netns, family: Family, change: Difference): Promise<void> {
    const script = changeScript(change);
    if (script === "") return;
    try {
      await this.tools.must(netns, "ip", [`-${family}`, "-batch", "-"], script);
    } catch (error) {
      const words = messageOf(error);
      const down = words.includes("device is not up");
      throw new MeltemiError(
        "system",
        down
          ? "lo is down in the pod's network namespace"
          : `IPv${family} policy routing of the pod cannot be set: ${words}`,
        {
          cause: error,
          hint: down
            ? "container runtimes set it up; a namespace made by hand needs `ip link set lo up`"
            : "`meltemi doctor node` says what this kernel supports",
        },
      );
    }
  }
}
