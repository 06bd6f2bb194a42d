import { MeltemiError } from "../../../domain/error.js";
import type { Netns } from "../mode.js";
import type { Tools } from "../tool.js";
import { parseListing, type Listing } from "./listing.js";

/**
 * A table of ours, replaced as a whole. The kernel's own words for a script are learnt when it is first
 * loaded, so that a change by others shows as a difference.
 */
export class OwnTable {
  /** Bounded by how many different scripts there are: one for each setting in use. */
  readonly #words = new Map<string, string>();

  constructor(
    private readonly tools: Tools,
    private readonly name: string,
  ) {}

  /** Loads a script, which makes the table anew. */
  async load(netns: Netns, script: string): Promise<void> {
    await this.tools.must(netns, "nft", ["-f", "-"], script);
    if (this.#words.has(script)) return;
    const listing = await this.listing(netns);
    if (listing === undefined) {
      throw new MeltemiError("system", `the table ${this.name} is not there right after it was loaded`, {
        hint: "something else in the pod's namespace removes it; `nft monitor` there names the program",
      });
    }
    this.#remember(script, listing.rules);
  }

  /** Undefined where there is none. */
  async listing(netns: Netns): Promise<Listing | undefined> {
    const text = await this.tools.ask(netns, "nft", ["list", "table", "inet", this.name]);
    return text === undefined ? undefined : parseListing(text);
  }

  /** Constant phrases of what differs from the script. A script that this process has not loaded counts as changed. */
  broken(listing: Listing | undefined, script: string): readonly string[] {
    if (listing === undefined) return ["table missing"];
    return listing.rules === this.#words.get(script) ? [] : ["table changed"];
  }

  #remember(script: string, words: string): void {
    const oldest = this.#words.size >= mostScripts ? this.#words.keys().next().value : undefined;
    if (oldest !== undefined) this.#words.delete(oldest);
    this.#words.set(script, words);
  }
}

const mostScripts = 1_024;
