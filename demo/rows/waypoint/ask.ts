import { flags } from "../../lab/flags.js";
import { eventually } from "../../lab/command.js";
import { kitchenPort, kitchenVip } from "../../kitchen.js";
import type { HttpSummary, World } from "../../world.js";

export interface Question {
  readonly path: string;
  readonly method?: string;
  readonly header?: string;
  readonly requests?: number;
}

/** Asks the kitchen's service, from a pod. */
export function ask(
  world: World,
  pod: string,
  { requests = 1, ...question }: Question,
): Promise<HttpSummary> {
  const { path, ...rest } = question;
  const url = `http://${kitchenVip}:${kitchenPort}${path}`;
  return world.client<HttpSummary>(pod, ["http", ...flags({ url, requests, ...rest })]);
}

/** The statuses of a summary: `200`, or `3x 200, 1x 503`. */
export function statusesOf({ statuses, errors }: HttpSummary): string {
  const all = Object.entries({ ...statuses, ...errors });
  return all.length === 1
    ? (all[0]?.[0] ?? "")
    : all.map(([status, count]) => `${count}x ${status}`).join(", ");
}

/** Waits until a manifest that a row has changed shows in what the kitchen answers. */
export function untilAnswered(
  what: string,
  world: World,
  question: Question,
  good: (summary: HttpSummary) => boolean,
): Promise<true> {
  return eventually(what, async () => (good(await ask(world, "frontend", question)) ? true : undefined));
}
