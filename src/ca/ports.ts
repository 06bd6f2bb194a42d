/** What the CA needs from the rest of the program. */
import type { Identity } from "../domain/identity.js";

/** Who may have an identity: answered by the model of the mesh. */
export interface PodsOnNode {
  /** True while a pod of this service account runs on the node, enrolled and not terminated. */
  hosts(node: string, identity: Identity): boolean;
  /** Resolves at the model's next change, or when the signal aborts. */
  nextChange(signal: AbortSignal): Promise<void>;
}

/** What a caller proved about itself. */
export interface CallerCredentials {
  /** The value of `authorization`, as sent. */
  readonly authorization: string | undefined;
  /** Address of the caller, for the log. */
  readonly peer: string;
}

/** Turns credentials into a node's name. Throws `unauthenticated`. */
export interface NodeAuthenticator {
  authenticate(credentials: CallerCredentials): Promise<string>;
}

/** Counters of the CA; the reasons are a closed set (metrics label). */
export interface CaCounters {
  issued(): void;
  refused(reason: RefusalReason): void;
}

export type RefusalReason =
  "unauthenticated" | "bad_request" | "identity_mismatch" | "not_on_node" | "identity_refused" | "internal";
