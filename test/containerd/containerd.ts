/** Debian's containerd with places of its own, and an image of one static program for it. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa, execaSync } from "execa";
import { eventually } from "../helpers/eventually.js";
import { Cri } from "./cri.js";

const image = "docker.io/meltemi/pause:1";

export interface Containerd {
  readonly cri: Cri;
  readonly pid: number;
  readonly log: () => string;
  end(): Promise<void>;
}

function config(directory: string, binDir: string, confDir: string): string {
  // restrict_oom_score_adj: a container of its own may not lower it.
  return `
version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "${directory}/containerd.sock"
[ttrpc]
  address = "${directory}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "${image}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${binDir}"
    conf_dir = "${confDir}"
`;
}

/** An image's archive: one layer with one program, its configuration, and the list of both. */
function writeImage(directory: string): string {
  const stage = join(directory, "image");
  mkdirSync(join(stage, "layer"), { recursive: true });
  const source = fileURLToPath(new URL("pause.rs", import.meta.url));
  execaSync("rustc", [
    "-C",
    "target-feature=+crt-static",
    "-C",
    "opt-level=s",
    "-C",
    "strip=symbols",
    "-o",
    join(stage, "layer/pause"),
    source,
  ]);
  execaSync("tar", ["-cf", join(stage, "layer.tar"), "-C", join(stage, "layer"), "pause"]);
  const digest = createHash("sha256")
    .update(readFileSync(join(stage, "layer.tar")))
    .digest("hex");
  const configuration = {
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    config: { Entrypoint: ["/pause"] },
    rootfs: { type: "layers", diff_ids: [`sha256:${digest}`] },
  };
  writeFileSync(join(stage, "config.json"), JSON.stringify(configuration));
  const manifest = [{ Config: "config.json", RepoTags: [image], Layers: ["layer.tar"] }];
  writeFileSync(join(stage, "manifest.json"), JSON.stringify(manifest));
  const archive = join(directory, "pause.tar");
  execaSync("tar", ["-cf", archive, "-C", stage, "manifest.json", "config.json", "layer.tar"]);
  return archive;
}

export async function startContainerd(
  directory: string,
  binDir: string,
  confDir: string,
): Promise<Containerd> {
  mkdirSync(directory, { recursive: true });
  const archive = writeImage(directory);
  const configFile = join(directory, "config.toml");
  writeFileSync(configFile, config(directory, binDir, confDir));
  const socket = join(directory, "containerd.sock");
  const daemon = execa("containerd", ["-c", configFile], { reject: false, all: true, buffer: false });
  let log = "";
  daemon.all.on("data", (chunk: Buffer) => (log += chunk.toString()));
  const cri = new Cri(socket);
  const end = async (): Promise<void> => {
    cri.close();
    daemon.kill("SIGTERM");
    await daemon;
  };
  try {
    await eventually(
      "containerd",
      () =>
        cri.notReady().then(
          () => true,
          () => false,
        ),
      60_000,
    );
    await execa("ctr", ["-a", socket, "-n", "k8s.io", "images", "import", archive]);
  } catch (error) {
    await end();
    throw new Error(`containerd did not start: ${String(error)}\n${log}`, { cause: error });
  }
  return { cri, pid: daemon.pid ?? 0, log: () => log, end };
}

const cgroups = "/sys/fs/cgroup";
const prefix = "meltemi-cni-";
/** A parent for the sandboxes' cgroups. */
export const cgroupParent = (random: string): string => `/${prefix}${random}`;

/**
 * Removes our cgroups below every hierarchy: of this run, and those that a killed one has left. Those with processes
 * in them, of a run beside this one, cannot be removed.
 */
export function removeCgroups(): void {
  for (const hierarchy of readdirSync(cgroups)) {
    const root = join(cgroups, hierarchy);
    if (!statSync(root).isDirectory()) continue;
    for (const name of readdirSync(root).filter((one) => one.startsWith(prefix)))
      removeTree(join(root, name));
  }
}

function removeTree(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeTree(join(path, entry.name));
  try {
    rmdirSync(path);
  } catch {
    // In use, or removed by somebody else.
  }
}
