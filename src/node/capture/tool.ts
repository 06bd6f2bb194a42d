import { MeltemiError } from "../../domain/error.js";
import type { Netns, RunInNetns } from "./mode.js";

const toolTimeoutMs = 10_000;

/** The system's own programs (`nft`, `ip`, `iptables`), run inside a pod's namespace. */
export class Tools {
  constructor(private readonly run: RunInNetns) {}

  /** The program's output. Throws `system` with its words where it fails. */
  async must(netns: Netns, command: string, args: readonly string[], stdin = ""): Promise<string> {
    const result = await this.run(netns.fd, command, args, stdin, toolTimeoutMs);
    if (result.code === 0) return result.stdout;
    const words = result.stderr.trim() || `exit code ${result.code}`;
    throw new MeltemiError("system", `${command} ${args.join(" ")} in the pod's namespace: ${words}`, {
      hint: "the agent needs CAP_NET_ADMIN in the pod's namespace; `meltemi doctor node` says what this kernel supports",
    });
  }

  /** The program's output, or undefined where it fails: for questions to which a failure is an answer. */
  async ask(netns: Netns, command: string, args: readonly string[], stdin = ""): Promise<string | undefined> {
    const result = await this.run(netns.fd, command, args, stdin, toolTimeoutMs);
    return result.code === 0 ? result.stdout : undefined;
  }

  /** What the program printed, whether or not it failed. */
  async said(netns: Netns, command: string, args: readonly string[], stdin = ""): Promise<string> {
    return (await this.run(netns.fd, command, args, stdin, toolTimeoutMs)).stdout;
  }
}
