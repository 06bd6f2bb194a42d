/** The plugin's program, called as a runtime calls it. */
import { fileURLToPath } from "node:url";
import { execa, execaSync } from "execa";

export const pluginProgram = fileURLToPath(new URL("../../../native/dist/meltemi-cni", import.meta.url));

/** Whether there is a second user to be: in a sandbox without root there is none. */
export const otherUser = execaSync("setpriv", ["--reuid", "65534", "true"], { reject: false }).exitCode === 0;

export interface CniCall {
  readonly verb: string | undefined;
  readonly config: unknown;
  readonly containerId?: string;
  readonly netns?: string;
  readonly interface?: string;
  /** `NAMESPACE/NAME`, and Kubernetes' uid. */
  readonly pod?: string;
  readonly uid?: string;
  /** Further variables, or others' values. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface CniAnswer {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly tookMs: number;
  /** stdout as JSON; undefined where it is empty. */
  readonly json: Record<string, unknown> | undefined;
}

function variables(call: CniCall): Record<string, string> {
  const [namespace, name] = call.pod?.split("/") ?? [];
  const args = {
    IgnoreUnknown: "1",
    ...(namespace !== undefined && name !== undefined
      ? { K8S_POD_NAMESPACE: namespace, K8S_POD_NAME: name }
      : {}),
    ...(call.uid === undefined ? {} : { K8S_POD_UID: call.uid }),
  };
  return {
    PATH: process.env["PATH"] ?? "",
    CNI_PATH: "/usr/lib/cni",
    CNI_CONTAINERID: call.containerId ?? "c1",
    CNI_IFNAME: call.interface ?? "eth0",
    CNI_ARGS: Object.entries(args)
      .map(([key, value]) => `${key}=${value}`)
      .join(";"),
    ...(call.verb === undefined ? {} : { CNI_COMMAND: call.verb }),
    ...(call.netns === undefined ? {} : { CNI_NETNS: call.netns }),
    ...call.env,
  };
}

/** Runs a CNI plugin; `config` is written to stdin as JSON, or as it is where it is text. */
export async function callCni(call: CniCall, program = pluginProgram): Promise<CniAnswer> {
  const beganMs = performance.now();
  const result = await execa(program, {
    env: variables(call),
    extendEnv: false,
    input: typeof call.config === "string" ? call.config : JSON.stringify(call.config),
    reject: false,
    timeout: 30_000,
  });
  const { stdout, stderr } = result;
  return {
    exitCode: result.exitCode ?? -1,
    stdout,
    stderr,
    tookMs: performance.now() - beganMs,
    json: stdout === "" ? undefined : (JSON.parse(stdout) as Record<string, unknown>),
  };
}
