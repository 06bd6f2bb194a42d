import { describe, expect, test } from "vitest";
import { apply, authorizationPolicy, namespace, pod, service } from "../../test/helpers/mesh-objects.js";
import { Compiler } from "../compile/compiler.js";
import { defaultCompileConfig } from "../compile/config.js";
import { MeltemiError } from "../domain/error.js";
import type { AuthorizationSource } from "../domain/objects.js";
import { Resource } from "../gen/envoy/service/discovery/v3/ads.js";
import { CompiledResource } from "./compiled-resource.js";
import { RelayedResource } from "./relayed-resource.js";
import { addressType, authorizationType, typeUrls, workloadType } from "./resource.js";

const none = { any: [], none: [] };
const anySource: AuthorizationSource = {
  principals: none,
  requestPrincipals: none,
  namespaces: none,
  serviceAccounts: none,
  ipBlocks: none,
  remoteIpBlocks: none,
};
const remote: AuthorizationSource = {
  ...anySource,
  remoteIpBlocks: { any: [{ address: "192.0.2.0", length: 24 }], none: [] },
};
const shopOnly: AuthorizationSource = {
  ...anySource,
  namespaces: { any: [{ type: "exact", value: "shop" }], none: [] },
};

function compiled(): CompiledResource[] {
  const compiler = new Compiler(defaultCompileConfig);
  const rules = [
    { from: [remote], to: [], when: [] },
    { from: [shopOnly], to: [], when: [] },
    {
      from: [remote],
      to: [{ hosts: none, ports: { any: [22], none: [] }, methods: none, paths: none }],
      when: [],
    },
  ];
  const objects = apply(
    namespace("shop", { "istio.io/dataplane-mode": "ambient" }),
    service("shop", "cart", "10.96.0.1", { app: "cart" }, { sessionAffinity: "ClientIP" }),
    service("shop", "carts", "10.96.0.2", { app: "cart" }),
    pod("shop", "cart", "10.0.0.1", { app: "cart" }),
    authorizationPolicy("shop", "selecting", { selector: new Map([["app", "cart"]]) }),
    authorizationPolicy("shop", "audit", { action: "AUDIT" }),
    authorizationPolicy("istio-system", "deny", { rules }),
    authorizationPolicy("shop", "allow", { action: "ALLOW", rules }),
  );
  compiler.apply(objects);
  return [...compiler.all()].flatMap((one) =>
    one.type === "waypoint_config" ? [] : [new CompiledResource(one)],
  );
}

describe("a relayed resource", () => {
  test.each(compiled().map((resource) => [resource.name, resource] as const))(
    "%s is to the relay's clients what it is to the control plane's",
    (_name, resource) => {
      const type = resource.kind === "authorization" ? authorizationType : addressType;
      const bytes = resource.encoded(type, "meltemi");
      const relayed = RelayedResource.parse(type, bytes!);
      expect(relayed.bytes).toEqual(bytes);
      const facts = [
        "kind",
        "name",
        "aliases",
        "ranges",
        "namespace",
        "node",
        "services",
        "policies",
        "scope",
      ] as const;
      for (const fact of facts) expect([fact, relayed[fact]]).toEqual([fact, resource[fact]]);
      for (const form of typeUrls) {
        for (const dialect of ["meltemi", "ambient"] as const) {
          // To the byte.
          expect(relayed.encoded(form, dialect)).toEqual(resource.encoded(form, dialect));
          expect(relayed.version(form, dialect)).toBe(resource.version(form, dialect));
        }
      }
    },
  );

  test("the forms for a foreign proxy were really different ones", () => {
    const differing = compiled().filter((one) => {
      const type = one.kind === "authorization" ? authorizationType : addressType;
      return one.encoded(type, "ambient")?.equals(one.encoded(type, "meltemi") ?? Buffer.alloc(0)) !== true;
    });
    expect(differing.map(({ name }) => name)).toContain("shop/allow");
    expect(differing.map(({ name }) => name)).toContain("istio-system/deny");
    expect(
      compiled()
        .find(({ name }) => name === "shop/audit")
        ?.encoded(authorizationType, "ambient"),
    ).toBeUndefined();
    expect(
      compiled()
        .find(({ kind }) => kind === "workload")
        ?.encoded(workloadType, "ambient"),
    ).toBeDefined();
  });

  test.each([
    ["cut short", Buffer.from([0x12, 0x40, 0x0a])],
    [
      "of another type",
      Buffer.from(
        Resource.encode({
          version: "",
          name: "x",
          aliases: [],
          resource: { typeUrl: authorizationType, value: Buffer.alloc(0) },
          ttl: undefined,
        }).finish(),
      ),
    ],
    [
      "neither workload nor service",
      Buffer.from(
        Resource.encode({
          version: "",
          name: "x",
          aliases: [],
          resource: { typeUrl: addressType, value: Buffer.from([0x20, 0x01]) },
          ttl: undefined,
        }).finish(),
      ),
    ],
    [
      "with a body cut short",
      Buffer.from(
        Resource.encode({
          version: "",
          name: "x",
          aliases: [],
          resource: { typeUrl: addressType, value: Buffer.from([0x0a, 0x7f]) },
          ttl: undefined,
        }).finish(),
      ),
    ],
  ])("bytes %s are refused", (_what, bytes) => {
    expect(() => RelayedResource.parse(addressType, bytes)).toThrow(MeltemiError);
  });
});
