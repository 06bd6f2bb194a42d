/** Kubernetes' programs, CoreDNS and the pause image's, built from their Go modules once and kept outside the repository. */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { MeltemiError } from "../../src/domain/error.js";

/** What one file does under several names. */
export const kubernetesPrograms = [
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kube-proxy",
  "kubelet",
  "kubectl",
  "load-balancer",
] as const;

const usualPlaces = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"];

/** The Go command, or undefined where there is none. */
export function findGo(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const inPath = (env.PATH ?? "").split(":").map((directory) => join(directory, "go"));
  return [...inPath, ...usualPlaces].find((path) => existsSync(path));
}

function sources(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.go$|^go\.(mod|sum)$/.test(name))
    .sort();
}

/** Where the build of exactly these sources is kept. */
export function cacheDirectory(module: string, env: NodeJS.ProcessEnv = process.env): string {
  const hash = createHash("sha256");
  for (const name of sources(module)) hash.update(`${name}\0`).update(readFileSync(join(module, name)));
  const base = env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  return join(base, "meltemi", `cluster-${hash.digest("hex").slice(0, 16)}`);
}

/** The version that the module asks for, which the programs do not know by themselves. */
function kubernetesVersion(module: string): string {
  const version = /k8s\.io\/kubernetes (v[\d.]+)/.exec(readFileSync(join(module, "go.mod"), "utf8"))?.[1];
  if (version === undefined) throw new MeltemiError("internal", "go.mod does not name k8s.io/kubernetes");
  return version;
}

/** Removes builds that nothing has used for two weeks: each is 190 MB. */
function forgetUnused(directory: string): void {
  const oldest = Date.now() - 14 * 86_400_000;
  for (const name of readdirSync(directory).filter((one) => one.startsWith("cluster-"))) {
    const path = join(directory, name);
    if (statSync(path).mtimeMs < oldest) rmSync(path, { recursive: true, force: true });
  }
}

/**
 * Builds what is not there yet, and gives the directory of `kube`, `coredns` and `pause`. Cold it takes about six
 * minutes of one core, and a gigabyte and a half of modules.
 * @throws MeltemiError `unavailable` where there is no Go
 */
export async function buildPrograms(module: string, say: (text: string) => void): Promise<string> {
  const directory = cacheDirectory(module);
  if (existsSync(directory)) {
    utimesSync(directory, new Date(), new Date());
    return directory;
  }
  const go = findGo();
  if (go === undefined) {
    throw new MeltemiError("unavailable", "the cluster's programs cannot be built: there is no Go", {
      hint: "install Go 1.26 (go.dev/dl) and have `go` in PATH or below /usr/local/go",
    });
  }
  const version = kubernetesVersion(module);
  const [, major, minor] = /^v(\d+)\.(\d+)/.exec(version) ?? [];
  const facts = {
    gitVersion: version,
    gitMajor: major,
    gitMinor: minor,
    gitTreeState: "clean",
    gitCommit: "module",
  };
  const flags = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].flatMap((place) =>
    Object.entries(facts).map(([name, value]) => `-X ${place}.${name}=${value}`),
  );
  const fresh = `${directory}.${process.pid}`;
  mkdirSync(fresh, { recursive: true });
  try {
    say("building Kubernetes and CoreDNS (once; about five minutes on two cores) …");
    const build = execa(
      go,
      // Debugging information is not wanted, and costs a tenth of the time.
      [
        "build",
        "-v",
        "-trimpath",
        "-gcflags=all=-dwarf=false",
        `-ldflags=-s -w ${flags.join(" ")}`,
        "-o",
        fresh,
        "./kube",
        "./coredns",
        "./pause",
      ],
      {
        cwd: module,
        reject: false,
        all: true,
        buffer: true,
        env: { CGO_ENABLED: "0", GOFLAGS: "-mod=readonly -buildvcs=false -p=2" },
      },
    );
    let packages = 0;
    let told = Date.now();
    build.all.on("data", (chunk: Buffer) => {
      packages += chunk.toString().split("\n").length - 1;
      if (Date.now() - told < 30_000) return;
      told = Date.now();
      say(`  ${packages} of about 2800 lines of progress`);
    });
    const result = await build;
    if (result.failed)
      throw new MeltemiError("system", `go build failed:\n${result.all.split("\n").slice(-30).join("\n")}`);
    renameSync(fresh, directory);
    forgetUnused(dirname(directory));
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  return directory;
}
