/** `meltemi node`: flags to one typed object, the real platform, signals. */
import { join, resolve } from "node:path";
import type { Command } from "commander";
import type { Registry } from "prom-client";
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
import type { Source } from "../domain/source-event.js";
import { FileSource } from "../sources/files/file-source.js";
import { openKubeApi } from "../sources/kube/http-api.js";
import { KubeSource } from "../sources/kube/kube-source.js";
import { KubeMetrics } from "../sources/kube/metrics.js";
import { parseChoice, parseDnsName, parseListen, parseLogFormat } from "./flags.js";
import { redirectModeHelp } from "./redirect-mode.js";
import { readVersion } from "./version.js";

type Flags = Readonly<Record<string, string | boolean | undefined>>;

export function addNodeFlags(command: Command): Command {
  return command
    .requiredOption("--node <name>", "this node's name, as in spec.nodeName")
    .option("--config <dir>", "directory of Kubernetes YAML")
    .option("--kubernetes", "pods and namespaces are those of the cluster that this pod runs in")
    .option("--kubeconfig <file>", "the same of the cluster of this kubeconfig's current context")
    .option("--cri-socket <path>", "the container runtime's socket, or none", "none")
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
    .option("--bpf-dir <dir>", "where BPF programs and maps are pinned (RUN_DIR/bpf), or none: use no BPF")
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
    ...readSource(flags, text),
    criSocket: readPath(text("criSocket")),
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
    bpfDir: text("bpfDir") === "none" ? undefined : resolve(text("bpfDir") || join(text("runDir"), "bpf")),
    metricsAddress: parseListen("--metrics-address", text("metricsAddress")),
    readyAddress: parseListen("--ready-address", text("readyAddress")),
    cni: readCniOptions(text),
    leaveDataPlane: flags["leaveDataPlane"] === true,
    logLevel: parseLogLevel(text("logLevel")),
    logFormat: format === "" ? defaultLogFormat(process.stdout) : parseLogFormat("--log-format", format),
  };
}

const readPath = (value: string): string | undefined =>
  value === "none" || value === "" ? undefined : resolve(value);

/** A directory or a cluster. @throws MeltemiError `bad_input` where both are named, or neither */
function readSource(flags: Flags, text: (name: string) => string): Pick<AgentOptions, "config" | "cluster"> {
  const [config, kubeconfig] = [text("config"), text("kubeconfig")];
  const onCluster = flags["kubernetes"] === true || kubeconfig !== "";
  if (onCluster === (config === "")) {
    return {
      config: config === "" ? "" : resolve(config),
      cluster: onCluster ? { kubeconfig: readPath(kubeconfig) } : undefined,
    };
  }
  throw new MeltemiError(
    "bad_input",
    onCluster ? "--config does not go together with a cluster" : "--config is missing",
    {
      hint: "name a directory of Kubernetes YAML (--config), or a cluster (--kubernetes or --kubeconfig FILE)",
    },
  );
}

/** `none`, or left out, everywhere: no plugin is served. */
function readCniOptions(text: (name: string) => string): AgentOptions["cni"] {
  const path = (name: string): string | undefined => readPath(text(name));
  const [socket, binDir, confDir] = [path("cniSocket"), path("cniBinDir"), path("cniConfDir")];
  const whenUnknown = parseChoice("--cni-when-unknown", text("cniWhenUnknown") || "retry", whenUnknownRules);
  const kubernetes = path("cniKubernetes");
  if (socket !== undefined) return { socket, binDir, confDir, whenUnknown, kubernetes };
  if (binDir === undefined && confDir === undefined) return undefined;
  throw new MeltemiError("bad_input", "--cni-socket is none, and --cni-bin-dir or --cni-conf-dir is not", {
    hint: "an installed plugin asks the agent at its socket: name one, as /run/meltemi/cni.sock",
  });
}

/** This node's pods, and all namespaces: of neither more is asked for than the agent needs. */
async function clusterSource(
  { kubeconfig }: NonNullable<AgentOptions["cluster"]>,
  options: AgentOptions,
  clock: Clock,
  log: Logger,
): Promise<(registry: Registry) => Source> {
  const api = await openKubeApi(kubeconfig, { clock, version: readVersion() }, "node");
  return (registry) =>
    new KubeSource({
      api,
      cluster: options.clusterId,
      clock,
      random: systemRandom,
      log,
      metrics: new KubeMetrics(registry, clock),
      kinds: ["Pod", "Namespace"],
      select: { Pod: { fieldSelector: `spec.nodeName=${options.node}` } },
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
  const source =
    options.cluster === undefined
      ? () => podSource(options, clock, log)
      : await clusterSource(options.cluster, options, clock, log);
  const { PATH = "/usr/sbin:/usr/bin:/sbin:/bin" } = process.env;
  await runAgent(
    options,
    {
      native: loadNative(),
      files: systemFiles,
      clock,
      random: systemRandom,
      log,
      source,
      version: readVersion(),
      proxyEnvironment: { PATH },
    },
    stop.signal,
  );
}
