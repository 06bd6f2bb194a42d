import { randomBytes, randomUUID } from "node:crypto";

/** Randomness as an argument. The real form is cryptographic. */
export interface Random {
  bytes(count: number): Buffer;
  /** At least 0, below 1. */
  uniform(): number;
  uuid(): string;
}

export const systemRandom: Random = {
  bytes: (count) => randomBytes(count),
  uniform: () => randomBytes(6).readUIntBE(0, 6) / 2 ** 48,
  uuid: () => randomUUID(),
};

/** `valueMs` moved by up to `fraction` of itself in either direction, so that many timers do not fire together. */
export function jitter(random: Random, valueMs: number, fraction: number): number {
  return valueMs * (1 + fraction * (2 * random.uniform() - 1));
}

/** The delay before attempt number `attempt` (from 0): doubled each time up to `maxMs`, and between half and all of that. */
export function backoffMs(random: Random, attempt: number, baseMs: number, maxMs: number): number {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(attempt, 30));
  return ceiling * (0.5 + random.uniform() / 2);
}
