import type {
  CaptureForm,
  CapturedPod,
  Counts,
  LayerState,
  Netns,
  Redirection,
  Unannounced,
} from "../mode.js";
import type { AnswerRouting } from "../answer-routing.js";
import type { Tools } from "../tool.js";
import { applyScript, captureTable, removeScript } from "./ruleset.js";
import { OwnTable } from "./table.js";

/** Redirection by a table of our own in nftables and one policy route for each family. Needs `nft` and `ip`. */
export class NftablesRedirection implements Redirection {
  readonly name = "nftables";
  readonly #table: OwnTable;

  constructor(
    private readonly tools: Tools,
    private readonly answers: AnswerRouting,
  ) {
    this.#table = new OwnTable(tools, captureTable);
  }

  prepare(): Promise<void> {
    return Promise.resolve();
  }

  async apply({ netns, settings }: CapturedPod, form: CaptureForm): Promise<void> {
    // Routes before rules: with the rules in force, answers to carried connections need them.
    await this.answers.apply(netns);
    await this.#table.load(netns, applyScript(settings, form));
  }

  async verify({ netns, settings }: CapturedPod, form: CaptureForm): Promise<LayerState> {
    const [listing, missing] = await Promise.all([this.#table.listing(netns), this.answers.broken(netns)]);
    return {
      broken: [...this.#table.broken(listing, applyScript(settings, form)), ...missing],
      counts: listing?.counts ?? new Map(),
    };
  }

  unannounced(): Unannounced {
    return {};
  }

  async counts(netns: Netns): Promise<Counts> {
    return (await this.#table.listing(netns))?.counts ?? new Map();
  }

  async remove(netns: Netns): Promise<void> {
    await this.tools.must(netns, "nft", ["-f", "-"], removeScript);
    await this.answers.remove(netns);
  }
}
