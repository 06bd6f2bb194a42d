/**
 * Rotation of the CA's keys as a state machine; pure.
 *
 * ```
 *            start(next)              everybody has renewed          everybody has renewed
 *   stable ───────────────▶ overlap ───────────────────────▶ draining ─────────────────────▶ stable
 *   one root trusted        old issues,                      new issues,                     the new root only
 *     │                     both trusted                     both trusted                      ▲
 *     │ start(next, same root)                               new issues, one root              │
 *     └─────────────────────────────────────────────────────▶ draining ────────────────────────┘
 * ```
 * Each change of who issues or is trusted raises `version`, and nodes renew their certificates
 * because of it: an answer carries the bundle of roots. "Everybody has renewed" means that every
 * certificate still in use was issued under the present version (docs/adr/0004-root-rotation.md).
 */
export type RotationState =
  | { readonly phase: "stable"; readonly version: number; readonly issuer: number; readonly sinceMs: number }
  | {
      readonly phase: "overlap";
      readonly version: number;
      readonly issuer: number;
      readonly next: number;
      readonly sinceMs: number;
    }
  | {
      readonly phase: "draining";
      readonly version: number;
      readonly issuer: number;
      readonly previous: number;
      /** Only the issuing key is new: what is trusted does not change when this ends. */
      readonly sameRoot: boolean;
      readonly sinceMs: number;
    };

export interface RotationTiming {
  /** How long after the last renewal a phase still lasts, for answers under way. */
  readonly settleMs: number;
  /** A phase ends after this at the latest, whoever has not renewed. */
  readonly deadlineMs: number;
}

export type RotationEvent =
  /** A new generation was made: `sameRoot` needs no overlap, the chain is sent with each leaf. */
  | { readonly type: "start"; readonly next: number; readonly sameRoot: boolean }
  /** A person decided not to wait. */
  | { readonly type: "advance" }
  /** `clearSinceMs`: since when nobody is waited for; undefined while somebody is. */
  | { readonly type: "tick"; readonly clearSinceMs: number | undefined };

export const firstState = (generation: number, nowMs: number): RotationState => ({
  phase: "stable",
  version: 1,
  issuer: generation,
  sinceMs: nowMs,
});

/** Generations whose roots are trusted, the older first. */
export function trustedGenerations(state: RotationState): readonly number[] {
  switch (state.phase) {
    case "stable":
      return [state.issuer];
    case "overlap":
      return [state.issuer, state.next];
    case "draining":
      return [state.previous, state.issuer];
  }
}

function forward(state: RotationState, nowMs: number): RotationState {
  const version = state.version + 1;
  switch (state.phase) {
    case "stable":
      return state;
    case "overlap":
      return {
        phase: "draining",
        version,
        issuer: state.next,
        previous: state.issuer,
        sameRoot: false,
        sinceMs: nowMs,
      };
    case "draining":
      return state.sameRoot
        ? { phase: "stable", version: state.version, issuer: state.issuer, sinceMs: state.sinceMs }
        : { phase: "stable", version, issuer: state.issuer, sinceMs: nowMs };
  }
}

/** The state after an event; the same object when nothing changes. A rotation under way takes no new start. */
export function step(
  state: RotationState,
  event: RotationEvent,
  nowMs: number,
  timing: RotationTiming,
): RotationState {
  switch (event.type) {
    case "start":
      if (state.phase !== "stable") return state;
      return event.sameRoot
        ? {
            phase: "draining",
            version: state.version + 1,
            issuer: event.next,
            previous: state.issuer,
            sameRoot: true,
            sinceMs: nowMs,
          }
        : {
            phase: "overlap",
            version: state.version + 1,
            issuer: state.issuer,
            next: event.next,
            sinceMs: nowMs,
          };
    case "advance":
      return forward(state, nowMs);
    case "tick": {
      if (state.phase === "stable") return state;
      const settled =
        event.clearSinceMs !== undefined &&
        nowMs - Math.max(event.clearSinceMs, state.sinceMs) >= timing.settleMs;
      return settled || nowMs - state.sinceMs >= timing.deadlineMs ? forward(state, nowMs) : state;
    }
  }
}
