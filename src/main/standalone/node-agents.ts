/** The node agents of one standalone, kept equal to the nodes that the pods name. */
import { join } from "node:path";
import { NodeTokens } from "../../ca/tokens.js";
import { messageOf } from "../../domain/error.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import { Child, type ChildParts } from "./child.js";
import type { DesiredNode } from "./desired-nodes.js";
import type { StandaloneOptions } from "./options.js";
import { nodeRunDir } from "./node-directory.js";

/** An agent drains its data plane before it ends. */
const stopTimeoutMs = 25_000;
/** glibc keeps freed memory per thread, and an agent has many that do little: two pools in all save 10 MB. */
const smallArenas = { MALLOC_ARENA_MAX: "2" };

export class NodeAgents {
  readonly #options: StandaloneOptions;
  readonly #parts: ChildParts & { readonly files: Files; readonly log: Logger };
  readonly #tokens: NodeTokens;
  readonly #agents = new Map<string, Child>();
  #wanted: readonly DesiredNode[] = [];
  #reconciling: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(options: StandaloneOptions, parts: ChildParts & { readonly files: Files }) {
    this.#options = options;
    this.#parts = parts;
    this.#tokens = new NodeTokens(join(options.stateDir, "tokens"));
  }

  get names(): readonly string[] {
    return [...this.#agents.keys()];
  }

  /** Starts and ends agents until these are the ones. One change after the other; the latest wish counts. */
  reconcile(wanted: readonly DesiredNode[]): Promise<void> {
    this.#wanted = wanted;
    const next = this.#reconciling.then(() => this.#step());
    this.#reconciling = next.catch((error: unknown) =>
      this.#parts.log.error("node agents not as wanted", { error: messageOf(error) }),
    );
    return this.#reconciling;
  }

  /** Ends all of them in order. */
  end(): Promise<void> {
    this.#ended = true;
    return this.reconcile([]);
  }

  async #step(): Promise<void> {
    const wanted = new Map((this.#ended ? [] : this.#wanted).map((node) => [node.name, node]));
    const leaving = [...this.#agents].filter(([name, agent]) => {
      const node = wanted.get(name);
      return node === undefined || node.netns !== agent.netns;
    });
    await Promise.all(
      leaving.map(async ([name, agent]) => {
        await agent.stop();
        this.#agents.delete(name);
        await this.#parts.files.remove(nodeRunDir(this.#options.runDir, name));
      }),
    );
    for (const [name, node] of wanted)
      if (!this.#agents.has(name)) this.#agents.set(name, await this.#start(node));
  }

  async #start(node: DesiredNode): Promise<Child> {
    const { runDir, stateDir, path, self } = this.#options;
    await this.#parts.files.makeDirectory(nodeRunDir(runDir, node.name), 0o700);
    // Made before the agent and, at the start, before the control plane looks: nobody has to wait for the other.
    this.#tokens.ensure(node.name);
    const log = join(stateDir, "logs", `node-${node.name}.log`);
    const command = node.netns === undefined ? [...self] : ["nsenter", `--net=${node.netns}`, "--", ...self];
    const [program = "", ...args] = [...command, "node", ...this.#arguments(node)];
    return new Child(this.#parts, {
      name: `node-${node.name}`,
      netns: node.netns,
      stopTimeoutMs,
      spawn: {
        command: program,
        args,
        env: { PATH: path, ...smallArenas },
        stdoutFile: log,
        stderrFile: log,
      },
    });
  }

  #arguments(node: DesiredNode): string[] {
    const { runDir, stateDir, config, proxy, externalDataPlanes, controlPlane, redirectMode, bpf } =
      this.#options;
    // Nodes in one namespace would all want the same ports, and so would a foreign data plane: there, the
    // agent's metrics are on the node's socket only.
    const external = externalDataPlanes.has(node.name);
    const own = node.netns !== undefined && !external;
    return [
      ...["--node", node.name, "--config", config],
      ...["--run-dir", nodeRunDir(runDir, node.name), "--state-dir", join(stateDir, "nodes", node.name)],
      ...["--control-plane", `unix:${join(controlPlane.runDir, "control-xds.sock")}`],
      ...["--control-plane-root", join(controlPlane.runDir, "root-cert.pem")],
      ...["--token-file", join(stateDir, "tokens", node.name)],
      ...["--trust-domain", controlPlane.trustDomain, "--cluster-id", controlPlane.clusterId],
      ...["--network", controlPlane.network, "--redirect-mode", redirectMode],
      ...(bpf ? [] : ["--bpf-dir", "none"]),
      ...(external ? [] : ["--proxy", proxy]),
      ...[
        "--metrics-address",
        own ? "0.0.0.0:15020" : "none",
        "--ready-address",
        own ? "0.0.0.0:15021" : "none",
      ],
      ...["--log-level", controlPlane.logLevel, "--log-format", "json"],
    ];
  }
}
