import { MeltemiError } from "../../domain/error.js";
import { countCarried } from "./carried.js";
import type { CaptureForm, CaptureMode, CaptureState, DropCounts, Netns, RunInNetns } from "./mode.js";
import { addRouting, missingRouting, removeRouting, showRouting, type Missing } from "./routing.js";
import { applyScript, captureTable, parseListing, removeScript, type Listing } from "./ruleset.js";

const toolTimeoutMs = 10_000;

/** Capture by a table of our own in nftables and one policy route. Needs `nft` and `ip` on the path. */
export class NftablesCapture implements CaptureMode {
  readonly name = "nftables";
  /** The kernel's own words for each form, learnt when it was first applied: the form is the same in every pod. */
  readonly #applied = new Map<CaptureForm, string>();

  constructor(private readonly run: RunInNetns) {}

  async apply(netns: Netns, form: CaptureForm): Promise<void> {
    // Routes before rules: with the rules in force, answers to carried connections need them.
    const add = addRouting(await this.#missingRouting(netns));
    if (add !== "") await this.#tool(netns, "ip", ["-batch", "-"], add);
    await this.#tool(netns, "nft", ["-f", "-"], applyScript(form));
    const listing = await this.#listing(netns);
    if (listing === undefined) {
      throw new MeltemiError("system", "the capture table is not there right after it was loaded", {
        hint: "something else in the pod's namespace removes it; `nft monitor` there names the program",
      });
    }
    if (!this.#applied.has(form)) this.#applied.set(form, listing.rules);
  }

  async verify(netns: Netns, form: CaptureForm): Promise<CaptureState> {
    const [listing, missing] = await Promise.all([this.#listing(netns), this.#missingRouting(netns)]);
    const broken: string[] = [];
    if (listing === undefined) broken.push("table missing");
    else if (listing.rules !== this.#applied.get(form)) broken.push("table changed");
    if (missing.rule) broken.push("policy rule missing");
    if (missing.route) broken.push("local route missing");
    return { broken, drops: listing?.drops ?? new Map() };
  }

  async drops(netns: Netns): Promise<DropCounts> {
    return (await this.#listing(netns))?.drops ?? new Map();
  }

  async remove(netns: Netns): Promise<void> {
    await this.#tool(netns, "nft", ["-f", "-"], removeScript);
    const removal = removeRouting(await this.#missingRouting(netns));
    if (removal !== "") await this.#tool(netns, "ip", ["-batch", "-"], removal);
  }

  async carriedConnections(netns: Netns): Promise<number> {
    // /proc/net is of the calling thread's namespace, so the listing is the pod's own.
    // tcp6 may be absent: then cat complains, and has printed the rest.
    const { stdout } = await this.run(
      netns.fd,
      "cat",
      ["/proc/net/tcp", "/proc/net/tcp6"],
      "",
      toolTimeoutMs,
    );
    return countCarried(stdout);
  }

  async #listing(netns: Netns): Promise<Listing | undefined> {
    const result = await this.run(
      netns.fd,
      "nft",
      ["list", "table", "inet", captureTable],
      "",
      toolTimeoutMs,
    );
    return result.code === 0 ? parseListing(result.stdout) : undefined;
  }

  async #missingRouting(netns: Netns): Promise<Missing> {
    // -force: an absent table ends `route show` with an error, which is an answer here.
    const { stdout } = await this.run(netns.fd, "ip", ["-force", "-batch", "-"], showRouting, toolTimeoutMs);
    return missingRouting(stdout);
  }

  async #tool(netns: Netns, command: string, args: readonly string[], stdin: string): Promise<string> {
    const result = await this.run(netns.fd, command, args, stdin, toolTimeoutMs);
    if (result.code !== 0) {
      const words = result.stderr.trim() || `exit code ${result.code}`;
      throw new MeltemiError("system", `${command} ${args.join(" ")} in the pod's namespace: ${words}`, {
        hint: "the agent needs CAP_NET_ADMIN in the pod's namespace, and nftables in the kernel",
      });
    }
    return result.stdout;
  }
}
