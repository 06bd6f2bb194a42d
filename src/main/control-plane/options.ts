/** The control plane's flags, once, as one typed object. */
import { resolve } from "node:path";
import type { Command } from "commander";
import { MeltemiError } from "../../domain/error.js";
import { defaultRunDir, defaultStateDir } from "../../cli/run-directory.js";
import { defaultLogFormat, parseLogLevel, type LogLevel } from "../../platform/logger.js";
import type { ClusterOptions } from "./cluster.js";
import { parseDnsName, parseInteger, parseListen, parseLogFormat, type HostPort } from "../flags.js";

export interface ControlPlaneOptions {
  /** The directory of YAML; with `cluster`, what stands in its place for a person. */
  readonly config: string;
  /** Undefined: objects come from the directory. */
  readonly cluster: ClusterOptions | undefined;
  readonly stateDir: string;
  readonly runDir: string;
  readonly listen: HostPort | undefined;
  readonly advertise: readonly string[];
  readonly trustDomain: string;
  readonly clusterId: string;
  readonly network: string;
  readonly rootNamespace: string;
  readonly caDir: string | undefined;
  readonly certificateTtlMs: number;
  readonly rotationSettleMs: number;
  readonly rotationDeadlineMs: number;
  readonly metricsAddress: HostPort | undefined;
  readonly readyAddress: HostPort | undefined;
  readonly logLevel: LogLevel;
  readonly logFormat: "json" | "text";
}

type Flags = Readonly<Record<string, string | boolean | undefined>>;

/** Flags that standalone has in common with its control plane, with standalone's defaults. */
export function addMeshFlags(command: Command): Command {
  return command
    .option("--config <dir>", "directory of Kubernetes YAML")
    .option(
      "--state-dir <dir>",
      "keys, tokens and last good states (/var/lib/meltemi, or below ~/.local/state)",
    )
    .option("--run-dir <dir>", "sockets (/run/meltemi, or below $XDG_RUNTIME_DIR; MELTEMI_RUN_DIR)")
    .option(
      "--listen <host:port>",
      "TLS listener for nodes of this and other machines, or none",
      "127.0.0.1:15012",
    )
    .option("--trust-domain <name>", "trust domain of all identities", "cluster.local")
    .option("--cluster-id <id>", "name of this cluster", "Kubernetes")
    .option("--network <name>", "network of this cluster", "")
    .option("--root-namespace <name>", "namespace whose policies are the mesh's", "istio-system")
    .option(
      "--ca-dir <dir>",
      "CA keys given from outside (root-cert.pem, ca-cert.pem, ca-key.pem, cert-chain.pem)",
    )
    .option("--certificate-ttl-s <seconds>", "longest lifetime of a workload certificate", "86400")
    .option(
      "--rotation-settle-ms <ms>",
      "how long a rotation's phase lasts after the last node has renewed",
      "2000",
    )
    .option(
      "--rotation-deadline-ms <ms>",
      "a rotation's phase ends after this, whoever has not renewed",
      "86400000",
    )
    .option("--log-level <level>", "trace, debug, info, warn or error", "info")
    .option("--log-format <format>", "json or text (text on a terminal)");
}

export function addControlPlaneFlags(command: Command): Command {
  return addMeshFlags(command)
    .option("--advertise <names>", "further names and addresses for the server's certificate, by comma", "")
    .option("--kubernetes", "objects, callers and keys are those of the cluster that this pod runs in")
    .option("--kubeconfig <file>", "the same of the cluster of this kubeconfig's current context")
    .option("--namespace <name>", "on a cluster: the mesh's own namespace", "meltemi-system")
    .option(
      "--node-accounts <names>",
      "on a cluster: service accounts of node agents, NAMESPACE/NAME by comma",
      "meltemi-system/meltemi-node",
    )
    .option("--metrics-address <host:port>", "where /metrics is served, or none", "none")
    .option("--ready-address <host:port>", "where /healthz/ready is served, or none", "none");
}

/** Reads the flags. Throws `bad_input` naming the one that is wrong. */
export function readControlPlaneOptions(flags: Flags, environment: NodeJS.ProcessEnv): ControlPlaneOptions {
  const given = (name: string): string | undefined => {
    const value = flags[name];
    return typeof value === "string" ? value : undefined;
  };
  const text = (name: string): string => given(name) ?? "";
  const uid = process.getuid?.() ?? 0;
  const path = (value: string | undefined): string | undefined =>
    value === undefined ? undefined : resolve(value);
  const cluster = readClusterOptions(flags, given);
  return {
    config:
      cluster === undefined ? requireDirectory(given("config")) : (cluster.kubeconfig ?? "this cluster"),
    cluster,
    stateDir: path(given("stateDir")) ?? defaultStateDir(environment, uid),
    runDir: path(given("runDir")) ?? defaultRunDir(environment, uid),
    listen: parseListen("--listen", text("listen")),
    advertise: text("advertise")
      .split(",")
      .filter((name) => name !== ""),
    trustDomain: parseDnsName("--trust-domain", text("trustDomain")),
    clusterId: text("clusterId"),
    network: text("network"),
    rootNamespace: parseDnsName("--root-namespace", text("rootNamespace")),
    caDir: path(given("caDir")),
    certificateTtlMs: parseInteger("--certificate-ttl-s", text("certificateTtlS"), 10, 86_400) * 1000,
    rotationSettleMs: parseInteger("--rotation-settle-ms", text("rotationSettleMs"), 0, 86_400_000),
    rotationDeadlineMs: parseInteger(
      "--rotation-deadline-ms",
      text("rotationDeadlineMs"),
      1_000,
      30 * 86_400_000,
    ),
    metricsAddress: parseListen("--metrics-address", given("metricsAddress") ?? "none"),
    readyAddress: parseListen("--ready-address", given("readyAddress") ?? "none"),
    logLevel: parseLogLevel(text("logLevel")),
    logFormat:
      given("logFormat") === undefined
        ? defaultLogFormat(process.stdout)
        : parseLogFormat("--log-format", text("logFormat")),
  };
}

function requireDirectory(config: string | undefined): string {
  if (config !== undefined) return resolve(config);
  throw new MeltemiError("bad_input", "--config is missing", {
    hint: "name a directory of Kubernetes YAML; a control plane may read a cluster instead: --kubernetes or --kubeconfig FILE",
  });
}

/** @throws MeltemiError `bad_input` where a directory is named, too, or an account is none */
function readClusterOptions(
  flags: Flags,
  given: (name: string) => string | undefined,
): ClusterOptions | undefined {
  const kubeconfig = given("kubeconfig");
  if (flags["kubernetes"] !== true && kubeconfig === undefined) return undefined;
  for (const other of ["config", "caDir"] as const) {
    if (given(other) === undefined) continue;
    const flag = other === "config" ? "--config" : "--ca-dir";
    throw new MeltemiError("bad_input", `${flag} does not go together with a cluster`, {
      hint: other === "config" ? "leave one of them out" : "keys come from the Secret cacerts there",
    });
  }
  const nodeAccounts = (given("nodeAccounts") ?? "").split(",").filter((name) => name !== "");
  for (const account of nodeAccounts) {
    if (!/^[a-z0-9]([a-z0-9-]*[a-z0-9])?\/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(account))
      throw new MeltemiError("bad_input", `--node-accounts has "${account}", expected NAMESPACE/NAME`);
  }
  return {
    kubeconfig: kubeconfig === undefined ? undefined : resolve(kubeconfig),
    namespace: parseDnsName("--namespace", given("namespace") ?? ""),
    nodeAccounts,
  };
}

/** The same as arguments for a child process. */
export function controlPlaneArguments(options: ControlPlaneOptions): string[] {
  const { listen } = options;
  const host = listen?.host.includes(":") ? `[${listen.host}]` : listen?.host;
  return [
    ...["--config", options.config, "--state-dir", options.stateDir, "--run-dir", options.runDir],
    ...["--listen", listen === undefined ? "none" : `${host ?? ""}:${listen.port}`],
    ...["--advertise", options.advertise.join(",")],
    ...[
      "--trust-domain",
      options.trustDomain,
      "--cluster-id",
      options.clusterId,
      "--network",
      options.network,
    ],
    ...["--root-namespace", options.rootNamespace],
    ...(options.caDir === undefined ? [] : ["--ca-dir", options.caDir]),
    ...["--certificate-ttl-s", String(options.certificateTtlMs / 1000)],
    ...["--rotation-settle-ms", String(options.rotationSettleMs)],
    ...["--rotation-deadline-ms", String(options.rotationDeadlineMs)],
    ...["--log-level", options.logLevel, "--log-format", options.logFormat],
  ];
}
