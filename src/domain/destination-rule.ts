/** Istio's DestinationRule as Meltemi understands it: how a service's endpoints are spoken to. */
import type { Meta } from "./objects.js";

export type HashKey =
  | { readonly type: "header"; readonly name: string }
  | { readonly type: "query"; readonly name: string }
  | {
      readonly type: "cookie";
      readonly name: string;
      readonly path: string;
      /** Seconds that a cookie made here lives, 0 for a session's; undefined: none is made. */
      readonly ttlS: number | undefined;
    }
  | { readonly type: "source_ip" };

/** When an endpoint is left out for a while. */
export interface Ejection {
  /** Of 5xx in a row; 0: not counted. */
  readonly consecutiveErrors: number;
  /** Of 502, 503 and 504 in a row; 0: not counted. */
  readonly consecutiveGatewayErrors: number;
  readonly intervalMs: number;
  readonly baseEjectionMs: number;
  readonly maxPercent: number;
  readonly minHealthPercent: number;
}

/** What is undefined is as the proxy has it by default. */
export interface TrafficSettings {
  readonly maxConnections: number | undefined;
  readonly maxPendingRequests: number | undefined;
  readonly maxRequests: number | undefined;
  readonly maxRetries: number | undefined;
  readonly maxRequestsPerConnection: number | undefined;
  readonly connectTimeoutMs: number | undefined;
  readonly idleTimeoutMs: number | undefined;
  readonly balance: "least_request" | "round_robin" | "random" | "consistent_hash" | undefined;
  /** Of `consistent_hash`. */
  readonly hash: HashKey | undefined;
  readonly ejection: Ejection | undefined;
}

export const noSettings: TrafficSettings = {
  maxConnections: undefined,
  maxPendingRequests: undefined,
  maxRequests: undefined,
  maxRetries: undefined,
  maxRequestsPerConnection: undefined,
  connectTimeoutMs: undefined,
  idleTimeoutMs: undefined,
  balance: undefined,
  hash: undefined,
  ejection: undefined,
};

export interface DestinationRuleObject {
  readonly kind: "DestinationRule";
  readonly meta: Meta;
  readonly host: string;
  /** Empty: every namespace. */
  readonly exportTo: readonly string[];
  /** Undefined where the rule has no `trafficPolicy`: another rule of the host may have one. */
  readonly settings: TrafficSettings | undefined;
  readonly subsets: readonly { readonly name: string; readonly labels: ReadonlyMap<string, string> }[];
}
