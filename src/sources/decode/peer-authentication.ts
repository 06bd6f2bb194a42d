import type { MtlsMode, PeerAuthenticationObject } from "../../domain/objects.js";
import { Fields, childPath, isMapping } from "./fields.js";
import { readMeta } from "./meta.js";
import { readSelector } from "./shared.js";

const modes = ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] as const satisfies readonly MtlsMode[];

function readMode(mtls: Fields | undefined): MtlsMode {
  const mode = mtls?.choice("mode", modes, "UNSET") ?? "UNSET";
  mtls?.refuseUnknown();
  if (mode === "DISABLE") {
    mtls?.report.unsupported(mtls.at("mode"), {
      value: mode,
      message: "has no meaning for a pod in the ambient mesh and is read as PERMISSIVE",
      hint: "write PERMISSIVE, or take the pod out with istio.io/dataplane-mode: none",
    });
  }
  return mode;
}

function readPortModes(spec: Fields): ReadonlyMap<number, MtlsMode> {
  const ports = new Map<number, MtlsMode>();
  const fields = spec.child("portLevelMtls");
  if (!fields) return ports;
  const entries = Object.entries(fields.values);
  if (entries.length === 0) {
    spec.report.error(spec.at("portLevelMtls"), { message: "is empty", hint: "remove it, or list ports" });
  }
  for (const [key, value] of entries) {
    const path = childPath(fields.path, key);
    if (!/^[1-9]\d{0,4}$/.test(key) || Number(key) > 65535) {
      spec.report.error(path, { value: key, message: "is not a port", hint: "a number from 1 to 65535" });
    } else if (isMapping(value)) {
      ports.set(Number(key), readMode(new Fields(spec.report, path, value)));
    } else {
      spec.report.error(path, {
        value: value ?? "null",
        message: "must be a mapping",
        hint: "write `mode: STRICT` below the port",
      });
    }
  }
  return ports;
}

export function decodePeerAuthentication(root: Fields, apiVersion: string): PeerAuthenticationObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const selector = readSelector(spec);
  const mode = readMode(spec.child("mtls"));
  const portModes = readPortModes(spec);
  if (portModes.size > 0 && !selector) {
    spec.report.error(spec.at("portLevelMtls"), {
      message: "needs a selector: ports are ports of workloads",
      hint: "write selector.matchLabels",
    });
  }
  spec.refuseUnknown();
  root.accept("status");
  root.refuseUnknown();
  return { kind: "PeerAuthentication", meta, selector, mode, portModes };
}
