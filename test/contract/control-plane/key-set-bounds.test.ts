import { expect, test } from "vitest";
import { Compiler } from "../../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../../src/compile/config.js";
import { statusOf } from "../../../src/compile/status.js";
import { wantedKeySets } from "../../../src/compile/waypoint/request-authentication.js";
import type { MeshObject } from "../../../src/domain/objects.js";
import { decodeText } from "../../../src/sources/decode/text.js";
import { apply, remove } from "../../helpers/mesh-objects.js";

function objects(text: string): MeshObject[] {
  return decodeText(text, "input.yaml", { origin: "files" }).objects.map(({ decoded }) => {
    if (decoded.outcome !== "understood") throw new Error(JSON.stringify(decoded.problems));
    return decoded.object;
  });
}

const gateway = (namespace: string): string => `
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: ${namespace}},
 spec: {gatewayClassName: meltemi-waypoint, addresses: [{value: 10.9.1.1}], listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}`;

/** A policy of `count` issuers, of the day of January. */
const policy = (namespace: string, name: string, count: number, day: number, target = "front"): string => `
---
{apiVersion: security.istio.io/v1, kind: RequestAuthentication,
 metadata: {name: ${name}, namespace: ${namespace}, creationTimestamp: "2026-01-0${day}T00:00:00Z"},
 spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: ${target}}],
   jwtRules: [${Array.from({ length: count }, (_, index) => `{issuer: "https://${name}.${namespace}.example/${index}"}`).join(", ")}]}}`;

test("of one namespace 32 key sets are fetched, those of its oldest objects, and the status says of which not", () => {
  const compiler = new Compiler(defaultCompileConfig);
  const first = objects(policy("shop", "z-first", 16, 1));
  const late = objects(policy("shop", "a-late", 2, 3));
  compiler.apply(
    apply(
      ...objects(gateway("shop") + gateway("depot")),
      ...late,
      ...first,
      ...objects(policy("shop", "m-second", 16, 2) + policy("depot", "other", 3, 4)),
      ...objects(policy("shop", "unattached", 16, 1, "nowhere")),
    ),
  );
  const count = (text: string): number =>
    [...wantedKeySets(compiler.mesh, compiler.config).keys()].filter((name) => name.includes(text)).length;
  expect([".shop.", ".depot.", "a-late", "z-first", "unattached"].map(count)).toEqual([32, 3, 0, 16, 0]);
  const messages = (): readonly string[] =>
    late.flatMap((object) =>
      statusOf(compiler, object)
        .conditions.filter(({ reason }) => reason === "KeysPending")
        .map(({ message }) => message),
    );
  expect(messages()[0]).toContain("are not fetched: older objects of namespace shop need 32 key sets");
  compiler.apply(first.map(remove));
  expect([".shop.", "a-late"].map(count)).toEqual([18, 2]);
  expect(messages()[0]).toContain("have not been fetched yet");
});
