/**
 * A pod's way into the mesh and out of it:
 *
 *   pairing -> announcing -> capturing ----> serving
 *      ^            |                        ^   |
 *      |            +-> refusing ------------+   |
 *      |  any step or check fails                |
 *      +--- failed <-----------------------------+
 *   (from anywhere) -> leaving -> gone
 *
 * The data plane has acknowledged the pod (its listeners are up) before a connection is redirected to
 * it, and only `serving`, which is after the rules are in force, is reported as enrolled. Where no data
 * plane acknowledges within a short grace, the pod is captured all the same (`refusing`): a pod that asked
 * for the mesh waits or is refused, and does not send in the clear.
 */
export type PodState =
  | { readonly phase: "pairing" }
  | { readonly phase: "announcing" }
  | { readonly phase: "capturing" }
  | { readonly phase: "refusing" }
  | { readonly phase: "serving"; readonly sinceMs: number }
  | {
      readonly phase: "failed";
      readonly reason: string;
      readonly hint: string | undefined;
      readonly attempts: number;
      readonly retryAtMs: number;
    }
  | { readonly phase: "leaving" };

export type ReportedState = "enrolled" | "pending" | "failed" | "out";

/** What /status says of a state. */
export function report(state: PodState): { readonly state: ReportedState; readonly reason?: string } {
  switch (state.phase) {
    case "pairing":
      return { state: "pending", reason: "its network namespace is being verified and guarded" };
    case "announcing":
      return { state: "pending", reason: "waiting for the data plane to serve it" };
    case "capturing":
      return { state: "pending", reason: "capture is being set" };
    case "refusing":
      return {
        state: "pending",
        reason: "captured; its new connections are refused until the data plane serves it",
      };
    case "serving":
      return { state: "enrolled" };
    case "failed":
      return {
        state: "failed",
        reason: state.hint === undefined ? state.reason : `${state.reason}; ${state.hint}`,
      };
    case "leaving":
      return { state: "out", reason: "leaving the mesh" };
  }
}
