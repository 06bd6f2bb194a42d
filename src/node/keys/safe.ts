import { MeltemiError } from "../../domain/error.js";

/** What the safe needs of descriptors; the addon's functions and fstat. */
export interface Descriptors {
  /** F_GET_SEALS; throws for what is not a memfd. */
  memfdSeals(fd: number): number;
  sizeBytes(fd: number): number;
  closeFd(fd: number): void;
}

/** fcntl(2): F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE. */
const neededSeals = 0x1 | 0x2 | 0x4 | 0x8;
const maxSizeBytes = 64 << 20;

/**
 * Holds the one sealed descriptor in which the data plane keeps keys and certificates over its own
 * restart. It is never mapped or read here: the agent can pass the keys on and cannot use them. It lives
 * in the descriptor table only, so an agent that is killed loses it, and the data plane deposits again
 * when it has reconnected.
 */
export class KeySafe {
  #fd: number | undefined;

  constructor(private readonly descriptors: Descriptors) {}

  get holds(): boolean {
    return this.#fd !== undefined;
  }

  /** The descriptor kept, which stays the safe's own. */
  get fd(): number | undefined {
    return this.#fd;
  }

  /** Takes over a descriptor in place of the one before. Throws `bad_input`, with the descriptor closed, for what is not sealed for good. */
  deposit(fd: number): void {
    try {
      this.#check(fd);
    } catch (error) {
      this.descriptors.closeFd(fd);
      throw error;
    }
    this.clear();
    this.#fd = fd;
  }

  clear(): void {
    if (this.#fd !== undefined) this.descriptors.closeFd(this.#fd);
    this.#fd = undefined;
  }

  #check(fd: number): void {
    let seals: number;
    try {
      seals = this.descriptors.memfdSeals(fd);
    } catch (cause) {
      throw new MeltemiError("bad_input", "the deposited descriptor is not a memfd", { cause });
    }
    if ((seals & neededSeals) !== neededSeals) {
      throw new MeltemiError(
        "bad_input",
        `the deposited memfd has the seals ${seals}, and needs ${neededSeals}`,
        {
          hint: "seal it against writing, growing, shrinking and further sealing",
        },
      );
    }
    const size = this.descriptors.sizeBytes(fd);
    if (size > maxSizeBytes)
      throw new MeltemiError(
        "bad_input",
        `the deposited memfd has ${size} bytes; ${maxSizeBytes} are kept at most`,
      );
  }
}
