import { MeltemiError } from "../domain/error.js";

/** What an installation decides; the rest of the manifests follows from it. */
export interface ManifestValues {
  /** The mesh's own namespace. */
  readonly namespace: string;
  /** Before the names of the images: `REGISTRY/PATH`. */
  readonly imagePrefix: string;
  readonly imageTag: string;
  readonly imagePullPolicy: string;
  readonly trustDomain: string;
  readonly clusterId: string;
  readonly replicas: number;
  readonly logLevel: string;
  /** How pods are captured: the agent's `--redirect-mode`. */
  readonly redirectMode: string;
  /** Directories of the nodes. */
  readonly cniBinDir: string;
  readonly cniConfDir: string;
  readonly kubeletDir: string;
  /** The container runtime's socket on the nodes. */
  readonly criSocket: string;
}

export const defaultValues: ManifestValues = {
  namespace: "meltemi-system",
  imagePrefix: "meltemi",
  imageTag: "dev",
  imagePullPolicy: "IfNotPresent",
  trustDomain: "cluster.local",
  clusterId: "Kubernetes",
  replicas: 2,
  logLevel: "info",
  redirectMode: "auto",
  cniBinDir: "/opt/cni/bin",
  cniConfDir: "/etc/cni/net.d",
  kubeletDir: "/var/lib/kubelet",
  criSocket: "/run/containerd/containerd.sock",
};

const dnsLabel = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const absolutePath = /^(\/[A-Za-z0-9._-]+)+$/;

/** What each value has to look like. */
const forms: Readonly<Record<keyof ManifestValues, readonly [RegExp, string]>> = {
  namespace: [dnsLabel, "a namespace's name"],
  imagePrefix: [/^[a-z0-9][a-z0-9._:/-]*$/, "REGISTRY/PATH, without a / at its end"],
  imageTag: [/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, "a tag"],
  imagePullPolicy: [/^(Always|IfNotPresent|Never)$/, "Always, IfNotPresent or Never"],
  trustDomain: [/^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$/, "a DNS name"],
  clusterId: [/^[A-Za-z0-9][A-Za-z0-9._-]*$/, "a name"],
  replicas: [/^[1-9]$/, "a number from 1 to 9"],
  logLevel: [/^(trace|debug|info|warn|error)$/, "trace, debug, info, warn or error"],
  redirectMode: [/^(auto|bpf|nftables|iptables)$/, "auto, bpf, nftables or iptables"],
  cniBinDir: [absolutePath, "an absolute path"],
  cniConfDir: [absolutePath, "an absolute path"],
  kubeletDir: [absolutePath, "an absolute path"],
  criSocket: [absolutePath, "an absolute path"],
};

function isName(name: string): name is keyof ManifestValues {
  return Object.hasOwn(forms, name);
}

/** The defaults with `NAME=VALUE` over them. @throws MeltemiError `bad_input` naming the one that is wrong, and those that there are */
export function readValues(settings: readonly string[]): ManifestValues {
  const values: Record<string, string | number> = { ...defaultValues };
  for (const setting of settings) {
    const equals = setting.indexOf("=");
    const [name, value] = [setting.slice(0, equals), setting.slice(equals + 1)];
    if (equals < 1 || !isName(name)) {
      throw new MeltemiError("bad_input", `--set ${setting}: there is no such value`, {
        hint: `NAME=VALUE, with one of: ${Object.keys(forms).join(", ")}`,
      });
    }
    const [form, expected] = forms[name];
    if (!form.test(value)) throw new MeltemiError("bad_input", `--set ${setting}: expected ${expected}`);
    values[name] = typeof defaultValues[name] === "number" ? Number(value) : value;
  }
  // Each has been given by its own name in its own form.
  return values as unknown as ManifestValues;
}
