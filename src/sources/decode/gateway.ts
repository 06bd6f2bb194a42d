import type { GatewayListener, GatewayObject } from "../../domain/objects.js";
import { type Fields, portRange } from "./fields.js";
import { readMeta } from "./meta.js";

function readAddresses(parent: Fields | undefined): string[] {
  const values: string[] = [];
  for (const address of parent?.children("addresses") ?? []) {
    const value = address.string("value");
    if (value !== undefined && value !== "") values.push(value);
  }
  return values;
}

function readListeners(spec: Fields): GatewayListener[] {
  return spec.children("listeners").map((listener) => ({
    name: listener.requiredString("name") ?? "",
    port: listener.integer("port", portRange) ?? 0,
    protocol: listener.requiredString("protocol", "such as HTTP, or HBONE for a waypoint") ?? "",
  }));
}

/** Name, class, listeners and addresses of a Gateway: those it has (`status`), else those it asks for (`spec`). */
export function decodeGateway(root: Fields, apiVersion: string): GatewayObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "warn" });
  const spec = root.childOrEmpty("spec");
  const className =
    spec.requiredString("gatewayClassName", 'such as "meltemi-waypoint" or "istio-waypoint"') ?? "";
  const given = readAddresses(root.child("status"));
  const asked = readAddresses(spec);
  const listeners = readListeners(spec);
  if (listeners.length === 0) {
    spec.report.error(spec.at("listeners"), {
      message: "is missing",
      hint: "a Gateway has at least one listener",
    });
  }
  return {
    kind: "Gateway",
    meta,
    className,
    addresses: given.length > 0 ? given : asked,
    listeners,
    netns: meta.annotations.get("meltemi.io/netns") || undefined,
  };
}
