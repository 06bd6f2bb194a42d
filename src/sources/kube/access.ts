/** How a process reaches its API server: from inside a pod, or by a kubeconfig. */
import { readFileSync } from "node:fs";
import type { RequestOptions } from "node:https";
import { join } from "node:path";
import type { SecureContextOptions } from "node:tls";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";

/** Asked for again whenever it may have changed: tokens and certificates are replaced while a process runs. */
export interface KubeAccess {
  /** `https://HOST:PORT`, with a path before every other where the server has one. */
  readonly server: URL;
  /** The name that the server's certificate must have, where it is not the URL's. */
  readonly serverName: string | undefined;
  tls(): Promise<SecureContextOptions & { readonly rejectUnauthorized?: boolean }>;
  headers(): Promise<Readonly<Record<string, string>>>;
}

/** Where the kubelet puts a pod's service account. */
export const serviceAccountDirectory = "/var/run/secrets/kubernetes.io/serviceaccount";
/** The kubelet replaces the token when a fifth of its life is left: an hour's token lives on for minutes. */
const tokenFreshMs = 30_000;

/**
 * The pod's own access: its service account's token, read again every half minute.
 * @throws MeltemiError `not_found` outside of a pod
 */
export function inClusterAccess(
  environment: NodeJS.ProcessEnv,
  clock: Pick<Clock, "monotonic">,
  directory = serviceAccountDirectory,
): KubeAccess {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = environment;
  if (host === undefined || host === "" || port === undefined || port === "") {
    throw new MeltemiError("not_found", "this process runs in no pod: KUBERNETES_SERVICE_HOST is not set", {
      hint: "name a kubeconfig: --kubeconfig FILE",
    });
  }
  let token = { text: "", readMs: -Infinity };
  const read = (name: string): string => {
    try {
      return readFileSync(join(directory, name), "utf8");
    } catch (error) {
      throw new MeltemiError("not_found", `the pod's service account cannot be read: ${messageOf(error)}`, {
        hint: "automountServiceAccountToken must not be false for this pod",
        cause: error,
      });
    }
  };
  return {
    server: new URL(`https://${host.includes(":") ? `[${host}]` : host}:${port}`),
    serverName: undefined,
    tls: () => Promise.resolve({ ca: read("ca.crt") }),
    headers: () => {
      if (clock.monotonic() - token.readMs >= tokenFreshMs)
        token = { text: read("token").trim(), readMs: clock.monotonic() };
      return Promise.resolve({ authorization: `Bearer ${token.text}` });
    },
  };
}

/**
 * A kubeconfig's current context, read by the Kubernetes project's own client: certificates, tokens and programs
 * that give them. That client is loaded here alone: it takes 70 MB, which no pod of ours needs (docs/adr/0038).
 * @param file undefined: as kubectl finds it (KUBECONFIG, ~/.kube/config)
 * @throws MeltemiError `bad_input` naming the file
 */
export async function kubeconfigAccess(file: string | undefined, context?: string): Promise<KubeAccess> {
  const { KubeConfig } = await import("@kubernetes/client-node");
  const config = new KubeConfig();
  const where = file ?? "the kubeconfig";
  try {
    if (file === undefined) config.loadFromDefault();
    else config.loadFromFile(file);
    if (context !== undefined) config.setCurrentContext(context);
  } catch (error) {
    throw new MeltemiError("bad_input", `${where} cannot be read: ${messageOf(error)}`, { cause: error });
  }
  const cluster = config.getCurrentCluster();
  if (cluster === null) {
    throw new MeltemiError("bad_input", `${where} has no current context with a cluster`, {
      hint: `its contexts: ${config.contexts.map(({ name }) => name).join(", ") || "none"}`,
    });
  }
  const applied = async (): Promise<RequestOptions> => {
    const options: RequestOptions = {};
    await config.applyToHTTPSOptions(options);
    return options;
  };
  return {
    server: new URL(cluster.server),
    serverName: cluster.tlsServerName,
    tls: async () => {
      const { ca, cert, key, rejectUnauthorized } = await applied();
      return {
        ...(ca !== undefined && { ca }),
        ...(cert !== undefined && { cert }),
        ...(key !== undefined && { key }),
        ...(rejectUnauthorized !== undefined && { rejectUnauthorized }),
      };
    },
    headers: async () => {
      const { headers = {}, auth } = await applied();
      const found: Record<string, string> = {};
      for (const [name, value] of Object.entries(headers)) found[name.toLowerCase()] = String(value);
      if (typeof auth === "string") found["authorization"] = `Basic ${Buffer.from(auth).toString("base64")}`;
      return found;
    },
  };
}
