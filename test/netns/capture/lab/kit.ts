/** The test kit's programs, run inside pods and nodes, with the shapes of what they say. */
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { join } from "node:path";

export const root = fileURLToPath(new URL("../../../../", import.meta.url));
export const testkit = join(root, "target/release/meltemi-testkit");

/** One request, as `client http --lines` prints it. */
export interface Attempt {
  readonly status?: number;
  readonly server?: string;
  /** The client's address and port as the server saw it. */
  readonly client?: string;
  /** The client's own end of the connection. */
  readonly local?: string;
  readonly error?: string;
}

/** Many requests, summed up by `client http`. */
export interface Requests {
  readonly requests: number;
  readonly ok: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly started_at_ms: number;
  readonly first_failure_at_ms: number | null;
  readonly last_failure_at_ms: number | null;
  readonly last_success_at_ms: number | null;
  readonly longest_gap_ms: number;
}

/** One exchange, as `client tcp` prints it. */
export interface Exchange {
  readonly ok: boolean;
  readonly sent: number;
  readonly received: number;
  readonly error?: string;
  readonly message?: string;
}

/** A connection that was kept, as `client hold` prints it at its end. */
export interface Held {
  readonly ended: string;
  readonly echoed: number;
}

/** What an attacker says of its attempts. */
export interface Attempts {
  readonly attempted: number;
  readonly succeeded: number;
  readonly sent_bytes: number;
  readonly received_bytes: number;
  readonly echoed_bytes: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly capabilities: string;
}

/** What a capture saw. `drops` above 0 makes the rest worthless as a proof. */
export interface Captured {
  readonly packets: number;
  readonly drops: number;
  readonly marker_bytes: number;
  readonly marker_flows: readonly string[];
  readonly markers_found: readonly string[];
  readonly tls_records: number;
}

/** The container runtime's default set (containerd's and Docker's), and its effective form. */
export const containerCapabilities = {
  names:
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,audit_write,setfcap",
  effective: "00000000a80425fb",
} as const;

/** A command line inside a network namespace, with a container's capabilities where it is an attacker's. */
export function commandIn(netns: string, args: readonly string[], as: "root" | "container"): string[] {
  const bounding = containerCapabilities.names.split(",").map((name) => `+${name}`);
  const drop =
    as === "root" ? [] : ["setpriv", `--bounding-set=-all,${bounding.join(",")}`, "--inh-caps=-all"];
  return ["nsenter", `--net=/run/netns/${netns}`, "--", ...drop, ...args];
}

/** Runs a command of the kit to its end, and gives what it printed, line by line. */
export async function kit(
  netns: string,
  args: readonly string[],
  as: "root" | "container" = "root",
): Promise<unknown[]> {
  const [program = "", ...rest] = commandIn(netns, [testkit, ...args], as);
  const { stdout, stderr } = await execa(program, rest, { reject: false });
  const lines = stdout.split("\n").filter((line) => line.startsWith("{"));
  if (lines.length === 0) throw new Error(`testkit ${args.join(" ")} said nothing: ${stderr}`);
  return lines.map((line) => JSON.parse(line) as unknown);
}

/** One request over a connection of its own. */
export async function get(netns: string, url: string, ...more: readonly string[]): Promise<Attempt> {
  const [first] = await kit(netns, [
    "client",
    "http",
    "--timeout-ms",
    "2000",
    "--url",
    url,
    "--lines",
    ...more,
  ]);
  return first as Attempt;
}

export async function exchange(netns: string, to: string, ...more: readonly string[]): Promise<Exchange> {
  const lines = await kit(netns, ["client", "tcp", "--connect", to, ...more]);
  return lines.at(-1) as Exchange;
}

export async function attack(netns: string, args: readonly string[]): Promise<Attempts> {
  const lines = await kit(netns, ["attack", ...args], "container");
  return lines.at(-1) as Attempts;
}
