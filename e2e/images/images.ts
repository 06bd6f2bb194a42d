/** The three images of an installation, described from this build (e2e/cluster/image.ts puts them together). */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ImageDescription } from "../cluster/image.js";

type Files = ImageDescription["files"];

/** Loaded for kubeconfigs only, which no pod has (docs/adr/0038): with what it brings, half of all modules. */
const notInPods: ReadonlySet<string> = new Set(["@kubernetes/client-node"]);

interface Package {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const read = (directory: string): Package =>
  JSON.parse(readFileSync(join(directory, "package.json"), "utf8")) as Package;

/** Directories of the modules that the program needs while it runs, as Node would find them. */
function modulesOf(root: string): readonly string[] {
  const found = new Set<string>();
  const visit = (from: string): void => {
    const { dependencies = {}, optionalDependencies = {} } = read(join(root, from));
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      if (notInPods.has(name)) continue;
      const place = nearest(root, from, name);
      if (place === undefined || found.has(place)) continue;
      found.add(place);
      visit(place);
    }
  };
  visit("");
  return [...found].sort();
}

/** `node_modules/NAME` of the innermost directory that has it. */
function nearest(root: string, from: string, name: string): string | undefined {
  for (let directory = from; ; directory = directory.slice(0, directory.lastIndexOf("/node_modules/"))) {
    const place = join(directory, "node_modules", name);
    if (existsSync(join(root, place))) return place;
    if (!directory.includes("/node_modules/")) break;
  }
  const place = join("node_modules", name);
  return existsSync(join(root, place)) ? place : undefined;
}

/** Node with the program and its modules, at /meltemi. */
function program(root: string): Files {
  const parts = ["dist/src", "native/dist/node-addon.node", "bin/meltemi", "package.json", "daemonset"];
  return [
    { from: process.execPath, to: "/usr/bin/node", libraries: true },
    ...[...parts, ...modulesOf(root)].map((path) => ({ from: join(root, path), to: join("/meltemi", path) })),
  ];
}

/** Tools of modes nftables and iptables, where this machine has them. */
function tools(): Files {
  const wanted = ["/usr/sbin/nft", "/usr/sbin/ip", "/sbin/ip"];
  return wanted
    .filter((path) => existsSync(path))
    .map((path) => ({ from: path, to: path.replace(/^\/sbin/, "/usr/sbin"), libraries: true }));
}

const entrypoint = ["/usr/bin/node", "/meltemi/bin/meltemi"];
/** As the agent's own process asks for it (src/platform/small-heap.ts). */
const links = { "/bin/meltemi": "/meltemi/bin/meltemi" };
const passwd = {
  "/etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nmeltemi:x:65532:65532:meltemi:/:/sbin/nologin\n",
};

/**
 * @param root the repository, built (npm run setup)
 * @param prefix before the images' names, as `docker.io/meltemi`
 */
export function meltemiImages(root: string, prefix: string, tag: string): readonly ImageDescription[] {
  const name = (image: string): string => `${prefix}/${image}:${tag}`;
  return [
    { name: name("control-plane"), entrypoint, files: program(root), links, contents: passwd },
    {
      name: name("agent"),
      entrypoint,
      files: [
        ...program(root),
        ...tools(),
        { from: join(root, "native/dist/meltemi-cni"), to: "/meltemi/native/dist/meltemi-cni" },
      ],
      links,
      contents: passwd,
    },
    {
      name: name("data-plane"),
      entrypoint: ["/meltemi-proxy"],
      files: [{ from: join(root, "target/release/meltemi-proxy"), to: "/meltemi-proxy", libraries: true }],
      contents: passwd,
    },
  ];
}
