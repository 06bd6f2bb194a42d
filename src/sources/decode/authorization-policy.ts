import type { AuthorizationPolicyObject, AuthorizationRule } from "../../domain/objects.js";
import { readCondition } from "./authorization-condition.js";
import { readTo } from "./authorization-operation.js";
import { readFrom } from "./authorization-source.js";
import type { Fields } from "./fields.js";
import { metadataPath, readMeta } from "./meta.js";
import { present, readSelector } from "./shared.js";
import { readTargetRefs } from "./target-refs.js";

const actions = ["ALLOW", "DENY", "AUDIT", "CUSTOM"] as const;
type Action = (typeof actions)[number];
const dryRunAnnotation = "istio.io/dry-run";

function readRule(rule: Fields, namespace: string): AuthorizationRule {
  const read = {
    from: readFrom(rule, namespace),
    to: readTo(rule),
    when: present(rule.children("when").map((when) => readCondition(when, namespace))),
  };
  rule.refuseUnknown();
  return read;
}

/** A rule written as nothing (`- `, null) is not `{}`: the one is an accident, the other matches everything. */
function readRules(spec: Fields, namespace: string): AuthorizationRule[] {
  return spec.children("rules").map((rule) => readRule(rule, namespace));
}

function checkAction(spec: Fields, action: Action, provider: string | undefined, attached: boolean): void {
  const { report } = spec;
  if (action === "CUSTOM" && !provider) {
    report.error(spec.at("provider"), { message: "is missing", hint: "a CUSTOM policy names its provider" });
  }
  if (action !== "CUSTOM" && spec.has("provider")) {
    report.error(spec.at("provider"), {
      message: `has no meaning with action ${action}`,
      hint: "remove it, or write action: CUSTOM",
    });
  }
  if (action !== "ALLOW" && !spec.has("rules")) {
    const hint = "write rules; `rules: [{}]` matches everything";
    report.error(spec.at("rules"), {
      message: `is missing: a policy with action ${action} and no rule does nothing`,
      hint,
    });
  } else if (action !== "ALLOW" && spec.isEmptyList("rules")) {
    report.warning(spec.at("rules"), {
      message: `is empty: a policy with action ${action} and no rule does nothing`,
    });
  }
  if (action === "CUSTOM" && !attached) {
    const hint = "attach it with targetRefs to a waypoint, or to a Service behind one";
    report.unsupported(spec.at("action"), {
      value: action,
      message: "only waypoints ask external authorizers: nothing enforces this policy",
      hint,
    });
  }
}

function readDryRun(root: Fields, annotations: ReadonlyMap<string, string>): boolean {
  const written = annotations.get(dryRunAnnotation);
  if (written === undefined || written === "false") return false;
  if (written === "true") return true;
  root.report.error(metadataPath(root, "annotations", dryRunAnnotation), {
    value: written,
    message: 'must be "true" or "false"',
  });
  return false;
}

export function decodeAuthorizationPolicy(root: Fields, apiVersion: string): AuthorizationPolicyObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  if (!root.has("spec")) {
    root.report.warning("spec", {
      message: "is missing: the policy allows nothing",
      hint: "write `spec: {}` if that is meant",
    });
  }
  const spec = root.childOrEmpty("spec");
  const selector = readSelector(spec);
  const targetRefs = readTargetRefs(spec);
  if (selector && targetRefs.length > 0) {
    spec.report.error(spec.at("selector"), {
      message: "cannot stand beside targetRefs",
      hint: "write two policies",
    });
  }
  const action = spec.choice("action", actions, "ALLOW");
  const providerFields = spec.child("provider");
  const provider = providerFields?.requiredString("name");
  providerFields?.refuseUnknown();
  const rules = readRules(spec, meta.namespace);
  checkAction(spec, action, provider, targetRefs.length > 0);
  spec.refuseUnknown();
  root.accept("status");
  root.refuseUnknown();
  return {
    kind: "AuthorizationPolicy",
    meta,
    selector,
    targetRefs,
    action,
    provider,
    rules,
    dryRun: readDryRun(root, meta.annotations),
  };
}
