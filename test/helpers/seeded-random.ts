import type { Random } from "../../src/platform/random.js";

/** The same numbers in every run (a 32-bit xorshift), and a record of what was asked for. */
export class SeededRandom implements Random {
  #state: number;
  readonly asked: ("bytes" | "uniform" | "uuid")[] = [];

  constructor(seed = 1) {
    this.#state = seed >>> 0 || 1;
  }

  bytes(count: number): Buffer {
    this.asked.push("bytes");
    return this.#take(count);
  }

  uniform(): number {
    this.asked.push("uniform");
    return this.#next() / 2 ** 32;
  }

  uuid(): string {
    this.asked.push("uuid");
    const hex = this.#take(16).toString("hex");
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
  }

  #take(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.#next() & 0xff));
  }

  #next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }
}

/** Always the same fraction: for a test that wants jitter out of the way. */
export function steadyRandom(fraction = 0.5): Random {
  const base = new SeededRandom();
  return { bytes: (count) => base.bytes(count), uuid: () => base.uuid(), uniform: () => fraction };
}
