import type { GatewayObject } from "../../domain/objects.js";
import { type Fields } from "./fields.js";
import { readMeta } from "./meta.js";

function readAddresses(parent: Fields | undefined): string[] {
  const values: string[] = [];
  for (const address of parent?.children("addresses") ?? []) {
    const value = address.string("value");
    if (value !== undefined && value !== "") values.push(value);
  }
  return values;
}

/** Name, class and addresses of a Gateway: those it has (`status`), else those it asks for (`spec`). */
export function decodeGateway(root: Fields, apiVersion: string): GatewayObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "warn" });
  const spec = root.childOrEmpty("spec");
  const className =
    spec.requiredString("gatewayClassName", 'such as "meltemi-waypoint" or "istio-waypoint"') ?? "";
  const given = readAddresses(root.child("status"));
  const asked = readAddresses(spec);
  if (spec.children("listeners").length === 0) {
    spec.report.error(spec.at("listeners"), {
      message: "is missing",
      hint: "a Gateway has at least one listener",
    });
  }
  return { kind: "Gateway", meta, className, addresses: given.length > 0 ? given : asked };
}
