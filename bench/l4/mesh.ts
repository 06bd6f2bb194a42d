import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { execa } from "execa";
import { MeltemiError, messageOf } from "../../src/domain/error.js";
import { eventually } from "../../demo/lab/command.js";
import { hostIp, type LabPod } from "../../demo/lab/topology.js";
import { Ztunnel } from "../../interop/ztunnel.js";
import { root } from "../report/machine.js";
import type { Charged } from "./contender.js";

const meltemi = join(root, "bin/meltemi");
const endMs = 30_000;

interface Status {
  readonly nodes: readonly {
    readonly pods: readonly { readonly name: string; readonly state: string }[];
  }[];
}

const alive = (pid: number): boolean => existsSync(`/proc/${pid}`);

const gone = (what: string, pid: number): Promise<true> =>
  eventually(`${what} to end`, () => (alive(pid) ? undefined : true), { deadlineMs: endMs });

/** One standalone for all nodes: ours with our data planes, the peer's with ztunnels that our agents drive. */
export class Mesh {
  readonly #config: string;
  readonly #directory: string;
  readonly #proxy: string;
  readonly #ztunnels: Ztunnel[] = [];
  #standalone: ChildProcess | undefined;

  /** @param directory of this instance alone: its sockets, state and logs */
  constructor(config: string, directory: string, proxy: string) {
    this.#config = config;
    this.#directory = directory;
    this.#proxy = proxy;
  }

  get #run(): string {
    return join(this.#directory, "run");
  }

  get #state(): string {
    return join(this.#directory, "state");
  }

  /** Starts everything, and waits until all pods are enrolled. */
  async up(
    pods: readonly LabPod[],
    peer: { binary: string; nodes: ReadonlySet<string> } | undefined,
  ): Promise<void> {
    await mkdir(this.#directory, { recursive: true });
    const foreign = peer ? [...peer.nodes].flatMap((node) => ["--external-data-plane", node]) : [];
    const log = openSync(join(this.#directory, "standalone.log"), "a");
    this.#standalone = spawn(
      meltemi,
      [
        ...["standalone", "--config", this.#config, "--state-dir", this.#state, "--run-dir", this.#run],
        ...["--listen", `${hostIp}:15012`, "--log-format", "json", "--proxy", this.#proxy, ...foreign],
      ],
      { stdio: ["ignore", log, log] },
    );
    closeSync(log);
    if (peer) {
      const nodes = new Map(pods.map(({ node }) => [node.name, node]));
      for (const name of peer.nodes) {
        const node = nodes.get(name);
        if (node) await this.#startZtunnel(peer.binary, name, node.netns);
      }
    }
    await eventually("the pods to be enrolled", async () => {
      const states = await this.#podStates();
      return pods.every(({ name }) => states.get(name) === "enrolled") ? true : undefined;
    }).catch(async (error: unknown) => {
      throw new MeltemiError("unavailable", `${messageOf(error)}\n${await this.#lastWords()}`, {
        cause: error,
      });
    });
  }

  /** The ends of all logs, for an error. */
  async #lastWords(): Promise<string> {
    const files = [
      "standalone.log",
      ...this.#ztunnels.map(({ logFile }) => basename(logFile)),
      ...(await readdir(join(this.#state, "logs"))).map((name) => join("state/logs", name)),
    ];
    const ends = files.map(async (file) => {
      const text = await readFile(join(this.#directory, file), "utf8").catch(() => "");
      return `${file}:\n${text.slice(-1_500)}`;
    });
    return (await Promise.all(ends)).join("\n");
  }

  async #startZtunnel(binary: string, nodeName: string, netns: string): Promise<void> {
    const paths = {
      zdsSocket: join(this.#run, "nodes", nodeName, "zds.sock"),
      rootCertificate: join(this.#run, "control-plane", "root-cert.pem"),
      tokenFile: join(this.#state, "tokens", nodeName),
    };
    await eventually(`what the ztunnel of ${nodeName} needs`, () =>
      Object.values(paths).every((path) => existsSync(path)) ? true : undefined,
    );
    this.#ztunnels.push(
      await Ztunnel.start({
        ...paths,
        binary,
        nodeName,
        netns,
        controlPlane: `${hostIp}:15012`,
        logFile: join(this.#directory, `ztunnel-${nodeName}.log`),
        logFormat: "plain",
        directory: join(this.#directory, `ztunnel-${nodeName}`),
      }),
    );
  }

  async #podStates(): Promise<Map<string, string>> {
    const result = await execa(meltemi, ["status", "--run-dir", this.#run, "-o", "json"], { reject: false });
    if (result.failed) throw new MeltemiError("unavailable", `meltemi status: ${result.stderr}`);
    const status = JSON.parse(result.stdout) as Status;
    return new Map(status.nodes.flatMap(({ pods }) => pods.map((pod) => [pod.name, pod.state] as const)));
  }

  async #children(): Promise<Map<string, number>> {
    const { children } = JSON.parse(await readFile(join(this.#run, "instance.json"), "utf8")) as {
      children: { name: string; pid: number }[];
    };
    return new Map(children.map(({ name, pid }) => [name, pid]));
  }

  async #processOf(name: string): Promise<number> {
    const pid = (await this.#children()).get(name);
    if (pid === undefined) throw new MeltemiError("not_found", `standalone has no process ${name}`);
    return pid;
  }

  #agents(nodes: readonly string[]): Promise<number[]> {
    return Promise.all(nodes.map((node) => this.#processOf(`node-${node}`)));
  }

  controlPlane(): Promise<number> {
    return this.#processOf("control-plane");
  }

  /** Agents of these nodes, and the data planes that they started. */
  async charged(nodes: readonly string[]): Promise<Charged> {
    const proxies = nodes.map(async (node) => {
      const file = await readFile(join(this.#run, "nodes", node, "proxy.json"), "utf8");
      return (JSON.parse(file) as { pid: number }).pid;
    });
    return { agents: await this.#agents(nodes), proxies: await Promise.all(proxies) };
  }

  /** Agents of these nodes, and the ztunnels. */
  async chargedWithZtunnels(nodes: readonly string[]): Promise<Charged> {
    return { agents: await this.#agents(nodes), proxies: this.#ztunnels.map(({ pid }) => pid) };
  }

  /** Ends all of it in order: agents take their capture away while the data planes are still there. */
  async down(): Promise<void> {
    const { pid } = this.#standalone ?? {};
    if (pid !== undefined && this.#standalone?.exitCode === null) {
      this.#standalone.kill("SIGTERM");
      await gone("meltemi standalone", pid);
    }
    for (const ztunnel of this.#ztunnels) ztunnel.stop();
    for (const ztunnel of this.#ztunnels) await gone("a ztunnel", ztunnel.pid);
  }
}
