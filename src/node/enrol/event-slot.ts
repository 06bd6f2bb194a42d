/**
 * The latest event, for one waiter. A long wait on several promises by `Promise.race` would leave a reaction
 * with each of them every turn; here each source tells once.
 */
export class EventSlot<T> {
  #event: { readonly value: T } | undefined;
  #stays = false;
  #taker: ((value: T) => void) | undefined;

  /** A later event replaces one that has not been taken, unless that was put to stay. */
  put(value: T, stays = false): void {
    if (this.#taker !== undefined) {
      const taker = this.#taker;
      this.#taker = undefined;
      taker(value);
    } else if (!this.#stays) {
      this.#event = { value };
      this.#stays = stays;
    }
  }

  take(): Promise<T> {
    const event = this.#event;
    if (event !== undefined) {
      this.#event = undefined;
      this.#stays = false;
      return Promise.resolve(event.value);
    }
    return new Promise((resolve) => {
      this.#taker = resolve;
    });
  }
}
