import type { AuthorizationOperation, Matches, StringMatch } from "../../domain/objects.js";
import { constrains, readMatches, readPattern, refuseEmpty } from "./authorization-source.js";
import type { Fields } from "./fields.js";
import type { Report } from "./report.js";
import { present } from "./shared.js";

/** A port as policies write it: a string of digits, 1 to 65535. */
export function readPortText(report: Report, path: string, text: string): number | undefined {
  if (/^[1-9]\d{0,4}$/.test(text) && Number(text) <= 65535) return Number(text);
  report.error(path, {
    value: text,
    message: "is not a port",
    hint: 'a number from 1 to 65535 in quotes, such as "8080"',
  });
  return undefined;
}

function readMethod(report: Report, path: string, text: string): StringMatch | undefined {
  const match = readPattern(report, path, text);
  if (match && text !== text.toUpperCase()) {
    const hint = `did you mean "${text.toUpperCase()}"?`;
    report.warning(path, {
      value: text,
      message: "can match no usual request: methods are upper case",
      hint,
    });
  }
  return match;
}

/** `{*}` is one segment, `{**}` any number of them, at the end only where it is the last (Istio's path templates). */
const template = /^(\/(\{\*\}|\{\*\*\}|[^/{}*]+))+$/;

/** Templates are read by waypoints: in a policy of a waypoint they stay as they are. */
function readPath(report: Report, path: string, text: string): StringMatch | undefined {
  if (text.includes("{") || text.includes("}")) {
    if (template.test(text) && text.split("{**}").length <= 2) return { type: "exact", value: text };
    report.error(path, {
      value: text,
      message: "is not a path template",
      hint: "segments between slashes, {*} for any one and one {**} for any number, such as /shops/{*}/cart",
    });
    return undefined;
  }
  const match = readPattern(report, path, text);
  if (match && (match.type === "exact" || match.type === "prefix") && !match.value.startsWith("/")) {
    const hint = `did you mean "/${text}"?`;
    report.warning(path, { value: text, message: "can match no request: paths begin with /", hint });
  }
  return match;
}

function readOperation(operation: Fields): AuthorizationOperation {
  const before = operation.report.problems.length;
  const read: AuthorizationOperation = {
    hosts: readMatches(operation, "hosts", readPattern),
    ports: readMatches(operation, "ports", readPortText),
    methods: readMatches(operation, "methods", readMethod),
    paths: readMatches(operation, "paths", readPath),
  };
  operation.refuseUnknown();
  const empty = !Object.values(read).some((matches: Matches<unknown>) => constrains(matches));
  if (empty && operation.report.problems.length === before) {
    operation.report.error(operation.path, {
      message: "says nothing",
      hint: "leave `to` out to match any operation",
    });
  }
  return read;
}

/** `rules[].to[]`: each entry has exactly `operation`. */
export function readTo(rule: Fields): AuthorizationOperation[] {
  const entries = rule.children("to").map((entry) => {
    const operation = entry.child("operation");
    if (!operation && !entry.has("operation"))
      entry.report.error(entry.at("operation"), { message: "is missing" });
    const read = operation && readOperation(operation);
    entry.refuseUnknown();
    return read;
  });
  refuseEmpty(rule, "to");
  return present(entries);
}
