import { fault as faultManifest, policy } from "../../kitchen.js";
import type { Row } from "../row.js";
import { ask, statusesOf, untilAnswered } from "./ask.js";

/** What is tried: the caller, how it asks, and the status that it is to see. */
const tried = [
  { pod: "frontend", method: "GET", path: "/menu", status: "200" },
  { pod: "frontend", method: "POST", path: "/orders", status: "200" },
  { pod: "frontend", method: "DELETE", path: "/menu", status: "403" },
  { pod: "frontend", method: "GET", path: "/cellar", status: "403" },
  { pod: "frontend", method: "GET", path: "/menu/../cellar", status: "403" },
  { pod: "intruder", method: "GET", path: "/menu", status: "403" },
] as const;

const shown = ({ pod, method, path }: (typeof tried)[number], status: string): string =>
  `${pod} ${method} ${path}: ${status}`;

export const methods: Row = {
  name: "who may ask what: by caller, method and path",
  expected: tried.map((one) => shown(one, one.status)).join("; "),
  noticed: "methods",
  attempt: async (world, broken) => {
    const delete200 =
      (wanted: string) =>
      ({ statuses }: { statuses: Readonly<Record<string, number>> }) =>
        statuses[wanted] === 1;
    const deletion = { path: "/menu", method: "DELETE" };
    if (broken) {
      await world.apply("kitchen-policy.yaml", policy({ methods: false }));
      await untilAnswered("any method to be let in", world, deletion, delete200("200"));
    }
    const seen: string[] = [];
    let ok = true;
    for (const one of tried) {
      const { pod, method, path, status } = one;
      const answer = statusesOf(await ask(world, pod, { path, method }));
      seen.push(shown(one, answer));
      ok &&= answer === status;
    }
    if (broken) {
      await world.apply("kitchen-policy.yaml", policy());
      await untilAnswered("methods to count again", world, deletion, delete200("403"));
    }
    return { seen: seen.join("; "), ok };
  },
};

const orders = 20;

export const fault: Row = {
  name: "a fault is injected where it is asked for",
  expected: `${orders} of ${orders} requests for soup answered 418 by the waypoint itself; the menu goes on`,
  noticed: "fault",
  attempt: async (world, broken) => {
    const soup = { path: "/soup", requests: orders };
    if (broken) {
      await world.apply("kitchen-fault.yaml", faultManifest(0));
      await untilAnswered("soup", world, soup, (seen) => seen.ok === orders);
    }
    const summary = await ask(world, "frontend", soup);
    const menu = await ask(world, "frontend", { path: "/menu", requests: 5 });
    if (broken) {
      await world.apply("kitchen-fault.yaml", faultManifest(100));
      await untilAnswered("no soup", world, soup, (seen) => seen.ok === 0);
    }
    const served = Object.keys(summary.servers).length;
    return {
      seen: `soup: ${statusesOf(summary)}, ${served === 0 ? "by no server" : `by ${served} servers`}; menu: ${statusesOf(menu)}`,
      ok: summary.statuses["418"] === orders && served === 0 && menu.ok === 5,
    };
  },
};
