import { routes } from "../../kitchen.js";
import type { Row } from "../row.js";
import { ask, statusesOf, untilAnswered } from "./ask.js";

const requests = 400;
const v2 = (servers: Readonly<Record<string, number>>): number => servers["kitchen-2"] ?? 0;

export const canary: Row = {
  name: "a waypoint sends a fifth of the requests to the new version",
  expected: `of ${requests} requests for the menu all answered, between 10 and 30 in a hundred by version 2`,
  noticed: "canary",
  attempt: async (world, broken) => {
    if (broken) {
      await world.apply("kitchen-routes.yaml", routes({ canary: 100 }));
      await untilAnswered(
        "all to get version 2",
        world,
        { path: "/menu", requests: 20 },
        (seen) => v2(seen.servers) === 20,
      );
    }
    const summary = await ask(world, "frontend", { path: "/menu", requests });
    if (broken) {
      await world.apply("kitchen-routes.yaml", routes());
      await untilAnswered(
        "version 1 to be back",
        world,
        { path: "/menu", requests: 20 },
        (seen) => v2(seen.servers) < 20,
      );
    }
    const share = (100 * v2(summary.servers)) / requests;
    return {
      seen: `${summary.ok} answered, ${v2(summary.servers)} by version 2 (${share.toFixed(0)} %)`,
      ok: summary.ok === requests && share >= 10 && share <= 30,
    };
  },
};

export const byHeader: Row = {
  name: "who asks for the new version by header gets it",
  expected: "10 of 10 with x-canary: yes answered by version 2",
  noticed: "header",
  attempt: async (world, broken) => {
    const question = { path: "/menu", header: "x-canary: yes", requests: 10 };
    if (broken) {
      await world.apply("kitchen-routes.yaml", routes({ byHeader: false }));
      await untilAnswered("the header to mean nothing", world, question, (seen) => v2(seen.servers) < 10);
    }
    const summary = await ask(world, "frontend", { ...question, requests: 10 });
    if (broken) {
      await world.apply("kitchen-routes.yaml", routes());
      await untilAnswered(
        "the header to count again",
        world,
        { ...question, requests: 40 },
        (seen) => v2(seen.servers) === 40,
      );
    }
    return {
      seen: `${v2(summary.servers)} of ${summary.requests} by version 2 (${statusesOf(summary)})`,
      ok: v2(summary.servers) === 10 && summary.ok === 10,
    };
  },
};

export const retry: Row = {
  name: "a failing backend is tried again",
  expected: "20 of 20 answered, though the oven answers every second request with 503",
  noticed: "retry",
  attempt: async (world, broken) => {
    const question = { path: "/oven", requests: 20 };
    if (broken) {
      await world.apply("kitchen-routes.yaml", routes({ retries: 0 }));
      await untilAnswered("failures to come through", world, question, (seen) => seen.ok < 20);
    }
    const summary = await ask(world, "frontend", question);
    if (broken) {
      await world.apply("kitchen-routes.yaml", routes());
      await untilAnswered("retries again", world, question, (seen) => seen.ok === 20);
    }
    return {
      seen: `${summary.ok} of ${summary.requests} answered (${statusesOf(summary)})`,
      ok: summary.ok === 20,
    };
  },
};
