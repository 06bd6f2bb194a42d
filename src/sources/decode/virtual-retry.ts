/** A VirtualService's `retries`. */
import { didYouMean } from "../../domain/nearest.js";
import type { RouteRetry } from "../../domain/http-route.js";
import { readIstioDuration } from "./duration.js";
import type { Fields } from "./fields.js";

type Conditions = Partial<Pick<RouteRetry, "codes" | "grpcCodes" | "connectFailure" | "reset">>;

const serverErrors = Array.from({ length: 100 }, (_, index) => 500 + index);

/** Envoy's words, as Istio takes them over, for what this mesh retries on. */
const conditions = new Map<string, Conditions>([
  ["5xx", { codes: serverErrors, connectFailure: true, reset: true }],
  ["gateway-error", { codes: [502, 503, 504], connectFailure: true, reset: true }],
  ["reset", { connectFailure: true, reset: true }],
  ["reset-before-request", { connectFailure: true }],
  ["connect-failure", { connectFailure: true }],
  ["refused-stream", { connectFailure: true }],
  ["retriable-4xx", { codes: [409] }],
  // The codes stand beside it.
  ["retriable-status-codes", {}],
  ["cancelled", { grpcCodes: [1] }],
  ["deadline-exceeded", { grpcCodes: [4] }],
  ["resource-exhausted", { grpcCodes: [8] }],
  ["internal", { grpcCodes: [13] }],
  ["unavailable", { grpcCodes: [14] }],
]);

/** Istio's, where a rule does not say: two more times for what has not reached the application. */
const istioDefault = "connect-failure,refused-stream,unavailable,cancelled";
const defaultAttempts = 2;

function readConditions(retries: Fields | undefined): Required<Conditions> {
  const text = retries?.string("retryOn") || istioDefault;
  const codes = new Set<number>();
  const grpcCodes = new Set<number>();
  let [connectFailure, reset] = [false, false];
  for (const word of text.split(",").map((part) => part.trim())) {
    if (word === "") continue;
    const code = /^[45]\d\d$/.test(word) ? Number(word) : undefined;
    const known = code === undefined ? conditions.get(word) : { codes: [code] };
    if (!known) {
      retries?.report.error(retries.at("retryOn"), {
        value: word,
        message: "is not a condition that this mesh retries on",
        hint:
          didYouMean(word, conditions.keys()) ??
          `known: ${[...conditions.keys()].join(", ")}, and statuses from 400 to 599`,
      });
      continue;
    }
    for (const one of known.codes ?? []) codes.add(one);
    for (const one of known.grpcCodes ?? []) grpcCodes.add(one);
    connectFailure ||= known.connectFailure ?? false;
    reset ||= known.reset ?? false;
  }
  const ascending = (a: number, b: number): number => a - b;
  return {
    codes: [...codes].sort(ascending),
    grpcCodes: [...grpcCodes].sort(ascending),
    connectFailure,
    reset,
  };
}

export function readVirtualRetry(rule: Fields): RouteRetry {
  const retries = rule.child("retries");
  const read: RouteRetry = {
    attempts: retries ? (retries.integer("attempts", { min: 0, max: 100 }) ?? 0) : defaultAttempts,
    ...readConditions(retries),
    perTryTimeoutMs: retries && readIstioDuration(retries, "perTryTimeout"),
    backoffMs: retries && readIstioDuration(retries, "backoff"),
  };
  // An attempt goes to another endpoint, wherever it is, as far as there is one.
  retries?.accept("retryRemoteLocalities", "retryIgnorePreviousHosts");
  retries?.refuseUnknown();
  return read;
}
