import { expect, test } from "vitest";
import { apply, service } from "../../../test/helpers/mesh-objects.js";
import { Compiler } from "../../compile/compiler.js";
import { defaultCompileConfig } from "../../compile/config.js";
import { encodeService } from "./service.js";

test("a data plane is told which service a host name means", () => {
  const compiler = new Compiler(defaultCompileConfig);
  compiler.apply(apply(service("shop", "cart", "10.96.0.7", {})));
  const [compiled] = compiler.all();
  if (compiled?.type !== "service") throw new Error("the Service did not become a service");
  expect(encodeService(compiled, "ambient").canonical).toBe(true);
  expect(encodeService({ ...compiled, canonical: false }, "ambient").canonical).toBe(false);
});
