import {
  type DestinationRuleObject,
  noSettings,
  type TrafficSettings,
} from "../../domain/destination-rule.js";
import { readBalancing, readEjection, readPool } from "./destination-settings.js";
import type { Fields } from "./fields.js";
import { checkHost, readExportTo } from "./istio-host.js";
import { readLabels, readMeta } from "./meta.js";
import { present } from "./shared.js";

/** TLS between the mesh's own ends is the mesh's; towards others it is not made yet. */
function readTls(policy: Fields): void {
  const tls = policy.child("tls");
  if (!tls) return;
  const mode = tls.choice("mode", ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"], "DISABLE");
  if (mode !== "SIMPLE" && mode !== "MUTUAL") return;
  tls.report.unsupported(tls.at("mode"), {
    value: mode,
    message: "TLS towards endpoints outside the mesh is not made yet: connections go as the caller made them",
  });
}

/** Fields that are legal and not acted upon yet, each named. */
function nameUnsupported(policy: Fields, keys: Readonly<Record<string, string>>): void {
  for (const [key, what] of Object.entries(keys)) {
    if (!policy.has(key)) continue;
    policy.report.unsupported(policy.at(key), { message: `is not acted upon yet: ${what}` });
  }
}

function readPolicy(policy: Fields): TrafficSettings {
  readTls(policy);
  nameUnsupported(policy, {
    portLevelSettings: "the settings of all ports hold for every port",
    tunnel: "connections are not tunnelled through another proxy",
    proxyProtocol: "no PROXY header is sent",
    retryBudget: "a fifth of the requests under way may be retries",
  });
  for (const port of policy.children("portLevelSettings")) {
    const inner = port.child("tls");
    if (inner) readTls(port);
  }
  const settings = {
    ...noSettings,
    ...readPool(policy),
    ...readBalancing(policy),
    ejection: readEjection(policy),
  };
  policy.refuseUnknown();
  return settings;
}

function readSubsets(spec: Fields): DestinationRuleObject["subsets"] {
  const seen = new Set<string>();
  return present(
    spec.children("subsets").map((subset) => {
      const name = subset.requiredString("name");
      const labels = readLabels(subset, "labels");
      const policy = subset.child("trafficPolicy");
      if (policy) {
        subset.report.unsupported(subset.at("trafficPolicy"), {
          message: "is not acted upon yet: the rule's own trafficPolicy holds for every subset",
        });
      }
      subset.refuseUnknown();
      if (name === undefined) return undefined;
      if (seen.has(name)) {
        subset.report.error(subset.at("name"), { value: name, message: "is the name of an earlier subset" });
        return undefined;
      }
      seen.add(name);
      return { name, labels };
    }),
  );
}

export function decodeDestinationRule(root: Fields, apiVersion: string): DestinationRuleObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const host = spec.requiredString("host") ?? "";
  if (host !== "") checkHost(spec, spec.at("host"), host);
  const policy = spec.child("trafficPolicy");
  const settings = policy && readPolicy(policy);
  const subsets = readSubsets(spec);
  const exportTo = readExportTo(spec);
  if (spec.has("workloadSelector")) {
    spec.report.error(spec.at("workloadSelector"), {
      message: "is not supported: a waypoint applies the rule for every caller",
      hint: "remove it",
    });
  }
  spec.refuseUnknown();
  root.accept("status", "apiVersion", "kind", "metadata");
  root.refuseUnknown();
  return { kind: "DestinationRule", meta, host: host.toLowerCase(), exportTo, settings, subsets };
}
