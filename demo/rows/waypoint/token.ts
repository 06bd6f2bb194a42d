import { issuer, tokens } from "../../kitchen.js";
import { Issuer } from "../../lab/issuer.js";
import type { Row } from "../row.js";
import { ask, statusesOf, untilAnswered } from "./ask.js";

export const token: Row = {
  name: "a token is required, and must be the issuer's and in date",
  expected: "with a token: 200; without: 403; of another key: 401; out of date: 401",
  noticed: "token",
  attempt: async (world, broken) => {
    if (broken) {
      await world.apply("kitchen-token.yaml", tokens(world.issuer.jwks, { required: false }));
      await untilAnswered("the till to ask nobody", world, { path: "/till" }, (seen) => seen.ok === 1);
    }
    const tried = {
      "with a token": world.issuer.token("anna"),
      without: undefined,
      "of another key": new Issuer(issuer).token("anna"),
      "out of date": world.issuer.token("anna", -3600),
    };
    const seen: string[] = [];
    for (const [what, bearer] of Object.entries(tried)) {
      const header = bearer === undefined ? {} : { header: `authorization: Bearer ${bearer}` };
      seen.push(`${what}: ${statusesOf(await ask(world, "frontend", { path: "/till", ...header }))}`);
    }
    if (broken) {
      await world.apply("kitchen-token.yaml", tokens(world.issuer.jwks));
      await untilAnswered("the till to ask again", world, { path: "/till" }, (summary) => summary.ok === 0);
    }
    const text = seen.join("; ");
    return { seen: text, ok: text === token.expected };
  },
};
