import { isDnsLabel, isDnsSubdomain, isLabelKey, isLabelValue } from "../../domain/kube-names.js";
import type { Meta } from "../../domain/objects.js";
import { childPath, type Fields } from "./fields.js";

/** Fields of ObjectMeta that are legal and not read. */
const unread = [
  "selfLink",
  "resourceVersion",
  "deletionGracePeriodSeconds",
  "finalizers",
  "managedFields",
] as const;

/** What a kind's metadata must look like. */
export interface MetaRules {
  readonly namespaced: boolean;
  /** The syntax of names of this kind. */
  readonly name: "label" | "subdomain";
  /** Unknown fields of metadata: refused (our policies) or warned of (others' objects). */
  readonly unknown: "refuse" | "warn";
}

/** The parts of an object's metadata beyond the common ones. */
export interface DecodedMeta {
  readonly meta: Meta;
  readonly terminating: boolean;
  readonly owner: { readonly kind: string; readonly name: string } | undefined;
}

function checkName(fields: Fields, key: string, name: string, syntax: MetaRules["name"]): void {
  const valid = syntax === "label" ? isDnsLabel(name) : isDnsSubdomain(name);
  if (valid) return;
  const characters =
    syntax === "label" ? "lower-case letters, digits and -" : "lower-case letters, digits, - and .";
  fields.report.error(fields.at(key), {
    value: name,
    message: "is not a Kubernetes name",
    hint: `at most ${syntax === "label" ? 63 : 253} of ${characters}, beginning and ending with a letter or digit`,
  });
}

/** Labels, each key and value checked as the API server would. */
export function readLabels(fields: Fields, key: string): ReadonlyMap<string, string> {
  const labels = fields.stringMap(key);
  for (const [name, value] of labels) {
    const path = childPath(fields.at(key), name);
    if (!isLabelKey(name)) {
      fields.report.error(path, {
        value: name,
        message: "is not a label's key",
        hint: "NAME or DOMAIN/NAME",
      });
    }
    if (!isLabelValue(value)) {
      const hint = "at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit";
      fields.report.error(path, { value, message: "is not a label's value", hint });
    }
  }
  return labels;
}

/** The controlling owner (`controller: true`), else undefined. */
function readOwner(fields: Fields): DecodedMeta["owner"] {
  let owner: DecodedMeta["owner"];
  for (const reference of fields.children("ownerReferences")) {
    const kind = reference.requiredString("kind");
    const name = reference.requiredString("name");
    if (reference.boolean("controller") === true && kind !== undefined && name !== undefined)
      owner = { kind, name };
  }
  return owner;
}

/** The path of one label or annotation of an object. */
export function metadataPath(root: Fields, part: "labels" | "annotations", key: string): string {
  return childPath(childPath(root.at("metadata"), part), key);
}

/** Reads `metadata`; the namespace falls back to "default" as with kubectl. */
export function readMeta(root: Fields, apiVersion: string, rules: MetaRules): DecodedMeta {
  const fields = root.childOrEmpty("metadata");
  const generated = fields.has("generateName") && !fields.has("name");
  const hint = generated
    ? "generateName works only with kubectl create: write a name"
    : "write metadata.name";
  const name = fields.requiredString("name", hint) ?? "";
  if (name !== "") checkName(fields, "name", name, rules.name);
  const namespace = fields.string("namespace") ?? "";
  if (namespace !== "") {
    checkName(fields, "namespace", namespace, "label");
    if (!rules.namespaced) {
      fields.report.warning(fields.at("namespace"), {
        value: namespace,
        message: "is ignored: this kind has no namespace",
      });
    }
  }
  const createdAt = fields.string("creationTimestamp");
  const meta: Meta = {
    apiVersion,
    namespace: rules.namespaced ? namespace || "default" : "",
    name,
    uid: fields.string("uid") ?? "",
    generation: fields.integer("generation", { min: 0, max: Number.MAX_SAFE_INTEGER }) ?? 1,
    labels: readLabels(fields, "labels"),
    annotations: fields.stringMap("annotations"),
    ...(createdAt !== undefined && !Number.isNaN(Date.parse(createdAt)) && { createdAt }),
  };
  const terminating = fields.has("deletionTimestamp");
  const owner = readOwner(fields);
  fields.accept(...unread);
  if (rules.unknown === "refuse") fields.refuseUnknown();
  else fields.warnUnknown();
  return { meta, terminating, owner };
}
