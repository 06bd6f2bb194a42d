import { isDnsLabel, isDnsSubdomain } from "../../domain/kube-names.js";
import type { StringMatch } from "../../domain/objects.js";
import { parseStringMatch } from "../../domain/string-match.js";
import type { Report } from "./report.js";

const form = "TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT";

/** What each segment of a principal may be. The last segment may be cut short at a match's open end. */
const segments: readonly ((text: string) => boolean)[] = [
  (text) => /^[a-z0-9._-]+$/.test(text),
  (text) => text === "ns",
  isDnsLabel,
  (text) => text === "sa",
  isDnsSubdomain,
];

/** Parts of a name: its characters are right, its ends are not known. */
const nameCharacters = /^[a-z0-9._-]*$/;
const fixedWords = new Map([
  [1, "ns"],
  [3, "sa"],
]);

function whole(parts: readonly string[]): boolean {
  return parts.length === segments.length && parts.every((part, index) => segments[index]?.(part) === true);
}

/** Whether some principal begins with these segments, the last of them cut at any character. */
function canBegin(parts: readonly string[]): boolean {
  const last = parts.length - 1;
  if (last >= segments.length) return false;
  return parts.every((part, index) => {
    if (index < last) return segments[index]?.(part) === true;
    const word = fixedWords.get(index);
    return word === undefined ? nameCharacters.test(part) : word.startsWith(part);
  });
}

/** The mirror image for a suffix: the first segment is cut. */
function canEnd(parts: readonly string[]): boolean {
  const offset = segments.length - parts.length;
  if (offset < 0) return false;
  return parts.every((part, index) => {
    if (index > 0) return segments[offset + index]?.(part) === true;
    const word = fixedWords.get(offset);
    return word === undefined ? nameCharacters.test(part) : word.endsWith(part);
  });
}

function possible(match: StringMatch): boolean {
  switch (match.type) {
    case "presence":
      return true;
    case "exact":
      return whole(match.value.split("/"));
    case "prefix":
      return canBegin(match.value.split("/"));
    case "suffix":
      return canEnd(match.value.split("/"));
  }
}

function hintFor(text: string): string {
  const bare = text.replace(/^\*?spiffe:\/\//, "");
  if (bare !== text) return `write it without spiffe://, "${bare}"`;
  const parts = text.split("/");
  // With a dot it is a trust domain: no namespace has one.
  if (parts.length === 2 && !parts[0]?.includes("."))
    return `for a service account write "cluster.local/ns/${parts[0] ?? ""}/sa/${parts[1] ?? ""}", or use serviceAccounts`;
  if (parts.length === 4 && parts[0] === "ns") return `write the trust domain too, "cluster.local/${text}"`;
  if (parts.length === 1) return `expected ${form}; to match a namespace use namespaces`;
  return `expected ${form}, or a prefix* or *suffix of it`;
}

/** A principal of a policy; refused where no identity of any mesh could match it, which would be a rule that silently never applies. */
export function readPrincipal(report: Report, path: string, text: string): StringMatch | undefined {
  const match = parseStringMatch(text);
  if (match && possible(match)) return match;
  if (text === "") {
    report.error(path, {
      value: text,
      message: "is empty",
      hint: `expected ${form}, or "*" for any identity`,
    });
    return undefined;
  }
  const message = match ? "can match no identity" : "may have one * at its beginning or its end";
  report.error(path, { value: text, message, hint: hintFor(text) });
  return undefined;
}
