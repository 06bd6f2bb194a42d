import { describe, expect, test } from "vitest";
import { authorizationPolicy } from "../../test/helpers/mesh-objects.js";
import { compileAuthorization } from "../compile/authorization.js";
import { defaultCompileConfig } from "../compile/config.js";
import type { AuthorizationRule, AuthorizationSource } from "../domain/objects.js";
import type { Authorization, Match } from "../gen/istio/security/authorization.js";
import { ambientForm } from "./ambient-form.js";
import { encodeAuthorization } from "./encode/authorization.js";

const none = { any: [], none: [] };
const source = (more: Partial<AuthorizationSource>): AuthorizationSource => ({
  principals: none,
  requestPrincipals: none,
  namespaces: none,
  serviceAccounts: none,
  ipBlocks: none,
  remoteIpBlocks: none,
  ...more,
});
const network = { address: "2001:db8::", length: 32 };
const shop: AuthorizationSource["namespaces"] = { any: [{ type: "exact", value: "shop" }], none: [] };
const from = (...sources: readonly AuthorizationSource[]): AuthorizationRule => ({
  from: sources,
  to: [],
  when: [],
});
const port = (number: number): AuthorizationRule["to"] => [
  { hosts: none, ports: { any: [number], none: [] }, methods: none, paths: none },
];

const inShop = from(source({ namespaces: shop }));
const originally = from(source({ remoteIpBlocks: { any: [network], none: [] } }));
const inShopOriginally = from(source({ namespaces: shop, remoteIpBlocks: { any: [], none: [network] } }));
const onPortOriginally: AuthorizationRule = { ...originally, to: port(22) };

function own(action: "ALLOW" | "DENY" | "AUDIT", ...rules: readonly AuthorizationRule[]): Authorization {
  const { compiled } = compileAuthorization(
    authorizationPolicy("shop", "p", { action, rules }),
    defaultCompileConfig,
  );
  if (!compiled) throw new Error("the policy was not compiled");
  return encodeAuthorization(compiled);
}

/** Rules of clauses of matches, each match by the fields that it has. */
function shown(policy: Authorization | null): unknown {
  const fields = (match: Match): string =>
    Object.entries(match)
      .filter(([, value]: [string, readonly unknown[]]) => value.length > 0)
      .map(([name]) => name)
      .join("+");
  return policy?.rules.map(({ clauses }) => clauses.map(({ matches }) => matches.map(fields)));
}

describe("what a proxy of another make is told", () => {
  test("ALLOW: a rule that looks at the original client is never met", () => {
    const policy = own("ALLOW", inShop, originally, inShopOriginally, onPortOriginally);
    expect(shown(policy)).toEqual([
      [["namespaces"]],
      [["extensions"]],
      [["namespaces+extensions"]],
      [["destinationPorts"], ["extensions"]],
    ]);
    expect(shown(ambientForm(policy))).toEqual([[["namespaces"]]]);
    expect(shown(ambientForm(own("ALLOW", originally))), "and nothing is allowed").toEqual([]);
  });

  test("DENY: it is taken without that part, which refuses more", () => {
    const policy = own("DENY", inShop, originally, inShopOriginally, onPortOriginally);
    expect(shown(ambientForm(policy))).toEqual([
      [["namespaces"]],
      [],
      [["namespaces"]],
      [["destinationPorts"]],
    ]);
  });

  test("a clause of which one way is only the original client refuses in any case", () => {
    const either = from(
      source({ namespaces: shop }),
      source({ remoteIpBlocks: { any: [network], none: [] } }),
    );
    expect(shown(ambientForm(own("DENY", { ...either, to: port(22) })))).toEqual([[["destinationPorts"]]]);
  });

  test("AUDIT decides nothing, and is not sent", () => {
    expect(ambientForm(own("AUDIT", inShop))).toBeNull();
  });

  test("our own words are left out, everything else stays", () => {
    const policy = own("DENY", inShop);
    expect(policy.extensions).toHaveLength(1);
    expect(ambientForm(policy)).toEqual({ ...policy, extensions: [] });
  });
});
