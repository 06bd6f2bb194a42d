import { MeltemiError, messageOf } from "../../domain/error.js";
import type { LocalRoute, NativeAddon, PolicyRule, RoutingChange } from "../../platform/native.js";
import type { Netns } from "./mode.js";

/** Policy rules and local routes of capture, as a plan that is compared with the kernel and made true. */
export type Family = "4" | "6";
export const families = ["4", "6"] as const;

export type Rule = PolicyRule;
export type { LocalRoute };

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

export const ruleKey = (rule: Rule): string =>
  [rule.priority, rule.to, rule.mark, rule.local, rule.tcp, rule.port, rule.table, rule.goto].join(" ");
export const routeKey = (route: LocalRoute): string =>
  [route.destination, route.table, route.source].join(" ");
const placeKey = ({ destination, table }: LocalRoute): string => `${destination} ${table}`;

/** What is ours in a namespace. */
export interface Territory {
  rule(rule: Rule): boolean;
  route(route: LocalRoute): boolean;
}

export type Difference = RoutingChange;

/** What to add to and take from `present` to make our territory as planned. What others have is not looked at. */
export function difference(present: RoutingPlan, plan: RoutingPlan, ours: Territory): Difference {
  const has = <T>(list: readonly T[], key: (one: T) => string): ((one: T) => boolean) => {
    const keys = new Set(list.map(key));
    return (one) => keys.has(key(one));
  };
  const [haveRule, haveRoute] = [has(present.rules, ruleKey), has(present.routes, routeKey)];
  const [wantRule, wantRoute] = [has(plan.rules, ruleKey), has(plan.routes, routeKey)];
  const addRoutes = plan.routes.filter((route) => !haveRoute(route));
  const replaced = new Set(addRoutes.map(placeKey));
  return {
    addRules: plan.rules.filter((rule) => !haveRule(rule)),
    addRoutes,
    removeRules: present.rules.filter((rule) => ours.rule(rule) && !wantRule(rule)),
    // One that gets another source is replaced, and gone.
    removeRoutes: present.routes.filter(
      (route) => ours.route(route) && !wantRoute(route) && !replaced.has(placeKey(route)),
    ),
  };
}

/** The addon's calls. */
export type RoutingAccess = Pick<NativeAddon, "readNetnsRouting" | "changeNetnsRouting">;

/** Policy routing of namespaces. */
export class PolicyRouting {
  constructor(private readonly access: RoutingAccess) {}

  async read(netns: Netns, family: Family): Promise<Routing> {
    const { rules, routes } = await this.access.readNetnsRouting(netns.fd, family === "6");
    return {
      rules,
      routes: routes.filter(({ local, device, table }) => local && device === "lo" && table !== "local"),
      main: routes.filter(({ local, table }) => !local && table === "main"),
    };
  }

  async change(netns: Netns, family: Family, change: Difference): Promise<void> {
    if (Object.values(change).every((list: readonly unknown[]) => list.length === 0)) return;
    try {
      await this.access.changeNetnsRouting(netns.fd, family === "6", change);
    } catch (error) {
      const words = messageOf(error);
      const down = words.includes("ENETDOWN");
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
