import type { Guard } from "../mode.js";

/** No guard: redirection alone. */
export const noGuard: Guard = {
  place: () => "none",
  attach: () => Promise.resolve(),
  drain: () => Promise.resolve(),
  verify: () => Promise.resolve({ broken: [], counts: new Map() }),
  unannounced: () => ({}),
  counts: () => Promise.resolve(new Map()),
  detach: () => Promise.resolve(),
};
