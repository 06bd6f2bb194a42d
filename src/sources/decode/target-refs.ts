import type { TargetRef } from "../../domain/objects.js";
import type { Fields } from "./fields.js";
import { present } from "./shared.js";

/** What a policy of security.istio.io may be attached to. */
const targetKinds = new Map([
  ["Gateway", "gateway.networking.k8s.io"],
  ["GatewayClass", "gateway.networking.k8s.io"],
  ["Service", ""],
  ["ServiceEntry", "networking.istio.io"],
]);

function readTargetRef(target: Fields): TargetRef | undefined {
  const kind = target.requiredString("kind");
  const name = target.requiredString("name");
  const written = target.string("group") ?? "";
  if (target.string("namespace")) {
    target.report.error(target.at("namespace"), {
      message: "a policy reaches only targets of its own namespace",
      hint: "remove it",
    });
  }
  target.refuseUnknown();
  if (kind === undefined || name === undefined) return undefined;
  const group = targetKinds.get(kind);
  const given = written === "core" ? "" : written;
  if (group === undefined || group !== given) {
    const known = [...targetKinds].map(([known, of]) => `${known} (group "${of}")`).join(", ");
    target.report.error(target.path, {
      value: `${written}/${kind}`,
      message: "cannot be a policy's target",
      hint: `one of: ${known}`,
    });
    return undefined;
  }
  return { group, kind, name };
}

/** `targetRefs`, or the older single `targetRef`. */
export function readTargetRefs(spec: Fields): TargetRef[] {
  const single = spec.child("targetRef");
  if (single && spec.has("targetRefs")) {
    spec.report.error(spec.at("targetRef"), {
      message: "cannot stand beside targetRefs",
      hint: "move it into targetRefs",
    });
  }
  return present([
    ...(single ? [readTargetRef(single)] : []),
    ...spec.children("targetRefs").map(readTargetRef),
  ]);
}
