import { marks, markMask } from "./marks.js";
import type { Netns } from "./mode.js";
import {
  difference,
  families,
  routeKey,
  ruleKey,
  type Difference,
  type Family,
  type PolicyRouting,
  type Territory,
} from "./policy-routing.js";

/**
 * Policy routing of the modes `nftables` and `iptables`: what carries the mark of an answered connection is
 * delivered through lo, where the data plane's transparent socket waits for it, instead of leaving for the
 * true client.
 */
const table = "100";
const preference = 32764;

const plan = {
  rules: [{ priority: preference, mark: `${marks.answered}/${markMask}`, table }],
  routes: [{ destination: "default", table }],
} as const;
const [ourRule, ourRoute] = [ruleKey(plan.rules[0]), routeKey(plan.routes[0])];
const ours: Territory = {
  rule: (rule) => ruleKey(rule) === ourRule,
  route: (route) => routeKey(route) === ourRoute,
};

/** Whether a namespace can have routes of a family at all. */
export type HasFamily = (netns: Netns, family: Family) => Promise<boolean>;

export class AnswerRouting {
  constructor(
    private readonly routing: PolicyRouting,
    private readonly has: HasFamily,
  ) {}

  async apply(netns: Netns): Promise<void> {
    await this.#inEach(netns, async (family) => {
      await this.routing.change(netns, family, await this.#difference(netns, family));
    });
  }

  /** Constant phrases of what is missing. */
  async broken(netns: Netns): Promise<readonly string[]> {
    const broken = new Set<string>();
    await this.#inEach(netns, async (family) => {
      const { addRules, addRoutes } = await this.#difference(netns, family);
      if (addRules.length > 0) broken.add("policy rule missing");
      if (addRoutes.length > 0) broken.add("local route missing");
    });
    return [...broken].sort();
  }

  async remove(netns: Netns): Promise<void> {
    await this.#inEach(netns, async (family) => {
      const present = await this.routing.read(netns, family);
      const removal = difference(present, { rules: [], routes: [] }, ours);
      await this.routing.change(netns, family, removal);
    });
  }

  async #difference(netns: Netns, family: Family): Promise<Difference> {
    return difference(await this.routing.read(netns, family), plan, ours);
  }

  async #inEach(netns: Netns, work: (family: Family) => Promise<void>): Promise<void> {
    await Promise.all(
      families.map(async (family) => {
        if (await this.has(netns, family)) await work(family);
      }),
    );
  }
}
