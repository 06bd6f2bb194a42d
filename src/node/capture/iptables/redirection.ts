import { MeltemiError } from "../../../domain/error.js";
import type { AnswerRouting, HasFamily } from "../answer-routing.js";
import type {
  CaptureForm,
  CapturedPod,
  CaptureSettings,
  Counts,
  DropReason,
  LayerState,
  Netns,
  PassReason,
  Redirection,
  Unannounced,
} from "../mode.js";
import { families, type Family } from "../policy-routing.js";
import type { Tools } from "../tool.js";
import { parseListing, type Listing } from "./listing.js";
import { applyScript, removeScript } from "./ruleset.js";

/** The two programs of that name: over nftables, and over the kernel's older tables. */
export const variants = ["nft", "legacy"] as const;
export type Variant = (typeof variants)[number];

const program = (variant: Variant, family: Family, action: "save" | "restore"): string =>
  `${family === "4" ? "iptables" : "ip6tables"}-${variant}-${action}`;

/** Seconds to wait for another program's lock on the tables. */
const lockWait = "5";
const mostScripts = 1_024;

/** Redirection by chains of our own in iptables' tables. Needs `iptables` and, for IPv6, `ip6tables`, and `ip`. */
export class IptablesRedirection implements Redirection {
  readonly name = "iptables";
  /** The tool's own words for a script, learnt when it was first applied. */
  readonly #words = new Map<string, string>();
  /** Under which name each namespace's words are, by family. */
  readonly #present = new Map<number, (family: Family) => string>();

  constructor(
    private readonly tools: Tools,
    private readonly answers: AnswerRouting,
    private readonly has: HasFamily,
    private readonly variant: Variant,
  ) {}

  prepare(): Promise<void> {
    return Promise.resolve();
  }

  async apply({ netns, settings }: CapturedPod, form: CaptureForm): Promise<void> {
    this.#present.set(netns.inode, (family) => wordsKey(settings, form, family));
    await this.answers.apply(netns);
    await this.#inEach(netns, async (family) => {
      const listing = await this.#save(netns, family);
      await this.#restore(netns, family, applyScript(settings, form, family, listing));
      const key = wordsKey(settings, form, family);
      if (this.#words.has(key)) return;
      const { rules } = parseListing(await this.#save(netns, family));
      if (rules === "") {
        throw new MeltemiError("system", "the capture chains are not there right after they were loaded", {
          hint: "something else in the pod's namespace removes them",
        });
      }
      if (this.#words.size >= mostScripts) this.#words.clear();
      this.#words.set(key, rules);
    });
  }

  async verify({ netns, settings }: CapturedPod, form: CaptureForm): Promise<LayerState> {
    const broken = new Set(await this.answers.broken(netns));
    const listings: Listing[] = [];
    await this.#inEach(netns, async (family) => {
      const listing = parseListing(await this.#save(netns, family));
      listings.push(listing);
      if (listing.rules === this.#words.get(wordsKey(settings, form, family))) return;
      broken.add(listing.rules === "" ? "chains missing" : "chains changed");
    });
    return { broken: [...broken].sort(), counts: sum(listings) };
  }

  /** nftables tells of its changes, the older tables do not. */
  unannounced(netns: Netns): Unannounced {
    const expected = this.#present.get(netns.inode);
    return this.variant === "nft" || expected === undefined
      ? {}
      : { ask: () => this.#intact(netns, expected) };
  }

  async #intact(netns: Netns, expected: (family: Family) => string): Promise<boolean> {
    let intact = true;
    await this.#inEach(netns, async (family) => {
      intact &&= parseListing(await this.#save(netns, family)).rules === this.#words.get(expected(family));
    });
    return intact;
  }

  async counts(netns: Netns): Promise<Counts> {
    const listings: Listing[] = [];
    await this.#inEach(netns, async (family) => {
      listings.push(parseListing(await this.#save(netns, family)));
    });
    return sum(listings);
  }

  async remove(netns: Netns): Promise<void> {
    this.#present.delete(netns.inode);
    await this.#inEach(netns, async (family) => {
      const removal = removeScript(await this.#save(netns, family));
      if (removal !== "") await this.#restore(netns, family, removal);
    });
    await this.answers.remove(netns);
  }

  #save(netns: Netns, family: Family): Promise<string> {
    return this.tools.must(netns, program(this.variant, family, "save"), ["-c"]);
  }

  async #restore(netns: Netns, family: Family, script: string): Promise<void> {
    await this.tools.must(
      netns,
      program(this.variant, family, "restore"),
      ["--noflush", "-w", lockWait],
      script,
    );
  }

  async #inEach(netns: Netns, work: (family: Family) => Promise<void>): Promise<void> {
    for (const family of families) if (await this.has(netns, family)) await work(family);
  }
}

/** The families' scripts may be the same, and what the tools make of them is not. */
const wordsKey = (settings: CaptureSettings, form: CaptureForm, family: Family): string =>
  `${family} ${applyScript(settings, form, family, "")}`;

function sum(listings: readonly Listing[]): Counts {
  const counts = new Map<DropReason | PassReason, number>();
  for (const listing of listings)
    for (const [reason, packets] of listing.counts) counts.set(reason, (counts.get(reason) ?? 0) + packets);
  return counts;
}
