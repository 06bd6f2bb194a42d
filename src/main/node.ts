/** `meltemi node`: flags to one typed object, the real platform, signals. */
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { MeltemiError } from "../domain/error.js";
import { redirectModes } from "../node/capture/support.js";
import type { AgentOptions } from "../node/agent-options.js";
import { runAgent } from "../node/agent.js";
import { whenUnknownRules } from "../node/cni/chain.js";
import { systemClock, type Clock } from "../platform/clock.js";
import { systemFiles } from "../platform/files.js";
import { createLogger, defaultLogFormat, parseLogLevel, type Logger } from "../platform/logger.js";
import { loadNative } from "../platform/native.js";
import { keepHeapSmall } from "../platform/small-heap.js";
import { systemRandom } from "../platform/random.js";
import { FileSource } from "../sources/files/file-source.js";
import { parseChoice, parseDnsName, parseListen, parseLogFormat } from "./flags.js";
import { redirectModeHelp } from "./redirect-mode.js";
import { readVersion } from "./version.js";

type Flags = Readonly<Record<string, string | boolean | undefined>>;

export function addNodeFlags(command: Command): Command {
  return command
    .requiredOption("--node <name>", "this node's name, as in spec.nodeName")
    .requiredOption("--config <dir>", "directory of Kubernetes YAML")
    .requiredOption("--run-dir <dir>", "this node's sockets")
    .requiredOption("--state-dir <dir>", "this node's last good state and logs")
    .requiredOption("--control-plane <address>", "https://HOST:PORT or unix:PATH")
    .requiredOption("--control-plane-root <file>", "PEM bundle of the control plane's roots")
    .requiredOption("--token-file <file>", "this node's bearer token")
    .option("--trust-domain <name>", "trust domain of all identities", "cluster.local")
    .option("--cluster-id <id>", "name of this cluster", "Kubernetes")
    .option("--network <name>", "network of this node", "")
    .option("--proxy <path>", "the data plane's program; without it another one is expected to connect")
    .option(
      "--data-plane-registers",
      "the one that is expected is meltemi-proxy, which the guard can tell apart",
    )
    .option("--redirect-mode <mode>", redirectModeHelp, "auto")
    .option("--bpf-dir <dir>", "where BPF programs and maps are pinned (RUN_DIR/bpf)")
    .option("--metrics-address <host:port>", "where /metrics is served, or none", "0.0.0.0:15020")
    .option("--ready-address <host:port>", "where /healthz/ready is served, or none", "0.0.0.0:15021")
    .option("--cni-socket <path>", "where the CNI plugin asks, or none", "none")
    .option("--cni-bin-dir <dir>", "the runtime's CNI plugins: ours is installed there; or none", "none")
    .option(
      "--cni-conf-dir <dir>",
      "the runtime's network configurations: ours is chained there; or none",
      "none",
    )
    .option(
      "--cni-kubernetes <file>",
      "how the plugin may ask the API while no agent answers, or none",
      "none",
    )
    .option("--cni-when-unknown <rule>", "a pod that nobody knows: retry, namespace or allow", "retry")
    .option("--leave-data-plane", "on a clean exit leave data plane and capture in place, for the next agent")
    .option("--log-level <level>", "trace, debug, info, warn or error", "info")
    .option("--log-format <format>", "json or text (text on a terminal)");
}

/** Reads the flags. Throws `bad_input` naming the one that is wrong. */
export function readNodeOptions(flags: Flags): AgentOptions {
  const text = (name: string): string => {
    const value = flags[name];
    return typeof value === "string" ? value : "";
  };
  const proxy = text("proxy");
  const format = text("logFormat");
  return {
    node: parseDnsName("--node", text("node")),
    config: resolve(text("config")),
    runDir: resolve(text("runDir")),
    stateDir: resolve(text("stateDir")),
    controlPlane: text("controlPlane"),
    controlPlaneRoot: resolve(text("controlPlaneRoot")),
    tokenFile: resolve(text("tokenFile")),
    trustDomain: parseDnsName("--trust-domain", text("trustDomain")),
    clusterId: text("clusterId"),
    network: text("network"),
    proxy: proxy === "" ? undefined : resolve(proxy),
    dataPlaneRegisters: flags["dataPlaneRegisters"] === true,
    redirectMode: parseChoice("--redirect-mode", text("redirectMode"), redirectModes),
    bpfDir: resolve(text("bpfDir") || join(text("runDir"), "bpf")),
    metricsAddress: parseListen("--metrics-address", text("metricsAddress")),
    readyAddress: parseListen("--ready-address", text("readyAddress")),
    cni: readCniOptions(text),
    leaveDataPlane: flags["leaveDataPlane"] === true,
    logLevel: parseLogLevel(text("logLevel")),
    logFormat: format === "" ? defaultLogFormat(process.stdout) : parseLogFormat("--log-format", format),
  };
}

/** `none`, or left out, everywhere: no plugin is served. */
function readCniOptions(text: (name: string) => string): AgentOptions["cni"] {
  const path = (name: string): string | undefined => {
    const value = text(name);
    return value === "none" || value === "" ? undefined : resolve(value);
  };
  const [socket, binDir, confDir] = [path("cniSocket"), path("cniBinDir"), path("cniConfDir")];
  const whenUnknown = parseChoice("--cni-when-unknown", text("cniWhenUnknown") || "retry", whenUnknownRules);
  const kubernetes = path("cniKubernetes");
  if (socket !== undefined) return { socket, binDir, confDir, whenUnknown, kubernetes };
  if (binDir === undefined && confDir === undefined) return undefined;
  throw new MeltemiError("bad_input", "--cni-socket is none, and --cni-bin-dir or --cni-conf-dir is not", {
    hint: "an installed plugin asks the agent at its socket: name one, as /run/meltemi/cni.sock",
  });
}

/** This node's pods. A file that is broken when the machine starts must not take its pods out of the mesh. */
export function podSource(
  options: Pick<AgentOptions, "config" | "stateDir">,
  clock: Clock,
  logger: Logger,
): FileSource {
  const lastGood = { directory: join(options.stateDir, "last-good"), files: systemFiles };
  return new FileSource({ directory: options.config, clock, logger, lastGood });
}

/** Runs the agent until SIGTERM or SIGINT; a second signal ends the process at once. */
export async function runNode(options: AgentOptions): Promise<void> {
  keepHeapSmall();
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    });
  }
  const clock = systemClock;
  const log = createLogger({
    level: options.logLevel,
    format: options.logFormat,
    clock,
    fields: { scope: "node", node: options.node },
  });
  const { PATH = "/usr/sbin:/usr/bin:/sbin:/bin" } = process.env;
  await runAgent(
    options,
    {
      native: loadNative(),
      files: systemFiles,
      clock,
      random: systemRandom,
      log,
      source: podSource(options, clock, log),
      version: readVersion(),
      proxyEnvironment: { PATH },
    },
    stop.signal,
  );
}
