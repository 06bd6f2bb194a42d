import { expect, test } from "vitest";
import { apply, service } from "../../../test/helpers/mesh-objects.js";
import { Compiler } from "../../compile/compiler.js";
import { defaultCompileConfig } from "../../compile/config.js";
import { IPFamilies } from "../../gen/istio/workload/workload.js";
import { encodeService } from "./service.js";

test("a data plane is told which service a host name means", () => {
  const compiler = new Compiler(defaultCompileConfig);
  compiler.apply(apply(service("shop", "cart", "10.96.0.7", {})));
  const [compiled] = compiler.all();
  if (compiled?.type !== "service") throw new Error("the Service did not become a service");
  expect(encodeService(compiled, "ambient").canonical).toBe(true);
  expect(encodeService({ ...compiled, canonical: false }, "ambient").canonical).toBe(false);
});

test.each([
  [[], IPFamilies.AUTOMATIC],
  [["IPv4"], IPFamilies.IPV4_ONLY],
  [["IPv6"], IPFamilies.IPV6_ONLY],
  [["IPv6", "IPv4"], IPFamilies.DUAL],
] as const)("a service of the families %j", (ipFamilies, wire) => {
  const compiler = new Compiler(defaultCompileConfig);
  compiler.apply(apply(service("shop", "cart", "fd00:96::7", {}, { ipFamilies })));
  const [compiled] = compiler.all();
  if (compiled?.type !== "service") throw new Error("the Service did not become a service");
  const encoded = encodeService(compiled, "ambient");
  expect(encoded.ipFamilies).toBe(wire);
  expect(encoded.addresses.map(({ address }) => [...address])).toEqual([
    [0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
  ]);
});
