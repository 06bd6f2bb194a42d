/** The control plane's programs and how they are called. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { apiServer, network, type Layout } from "./layout.js";
import { kubeconfig, type Credential, type Pki } from "./pki.js";

/** Users of the control plane's components, and the person's own. */
const users = {
  admin: { commonName: "meltemi-admin", organization: "system:masters" },
  "controller-manager": { commonName: "system:kube-controller-manager", organization: "meltemi" },
  scheduler: { commonName: "system:kube-scheduler", organization: "meltemi" },
  "kube-proxy": { commonName: "system:kube-proxy", organization: "meltemi" },
  "load-balancer": { commonName: "meltemi:load-balancer", organization: "meltemi" },
} as const;

export type User = keyof typeof users;

export interface Component {
  readonly name: string;
  readonly command: readonly string[];
}

export function writeKubeconfig(layout: Layout, pki: Pki, who: string, user: Credential): string {
  const path = layout.kubeconfig(who);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, kubeconfig(apiServer, pki.ca, user), { mode: 0o600 });
  return path;
}

/** Makes every key and kubeconfig of the control plane, and says how its programs are called, in their order. */
export function controlPlane(
  layout: Layout,
  pki: Pki,
  apiServerFlags: readonly string[],
): readonly Component[] {
  for (const [name, subject] of Object.entries(users))
    writeKubeconfig(layout, pki, name, pki.client(name, subject));
  const serving = pki.server("kube-apiserver", { commonName: "kube-apiserver", organization: "meltemi" }, [
    ...["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(
      (value) => ({ type: "dns", value }) as const,
    ),
    { type: "dns", value: `kubernetes.default.svc.${network.domain}` },
    ...[network.lan.address, network.apiService, "127.0.0.1"].map(
      (value) => ({ type: "ip", value }) as const,
    ),
  ]);
  const toKubelets = pki.client("kubelet-client", {
    commonName: "kube-apiserver-kubelet-client",
    organization: "system:masters",
  });
  const tokens = pki.signingKey("service-accounts");
  const as = (who: User): readonly string[] => {
    const path = layout.kubeconfig(who);
    return [
      `--kubeconfig=${path}`,
      `--authentication-kubeconfig=${path}`,
      `--authorization-kubeconfig=${path}`,
    ];
  };
  const etcd = "http://127.0.0.1:2379";
  const peer = "http://127.0.0.1:2380";
  return [
    {
      name: "etcd",
      command: [
        "etcd",
        `--data-dir=${layout.etcd}`,
        `--listen-client-urls=${etcd}`,
        `--advertise-client-urls=${etcd}`,
        `--listen-peer-urls=${peer}`,
        `--initial-advertise-peer-urls=${peer}`,
        `--initial-cluster=default=${peer}`,
        "--log-level=warn",
      ],
    },
    {
      name: "kube-apiserver",
      command: [
        layout.program("kube-apiserver"),
        `--etcd-servers=${etcd}`,
        `--secure-port=${network.apiPort}`,
        "--bind-address=0.0.0.0",
        `--advertise-address=${network.lan.address}`,
        `--tls-cert-file=${serving.certificate}`,
        `--tls-private-key-file=${serving.key}`,
        `--client-ca-file=${pki.ca.certificate}`,
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        `--service-account-issuer=https://kubernetes.default.svc.${network.domain}`,
        `--service-account-signing-key-file=${tokens}`,
        `--service-account-key-file=${tokens}`,
        `--service-cluster-ip-range=${network.services}`,
        "--allow-privileged=true",
        `--kubelet-certificate-authority=${pki.ca.certificate}`,
        `--kubelet-client-certificate=${toKubelets.certificate}`,
        `--kubelet-client-key=${toKubelets.key}`,
        "--kubelet-preferred-address-types=InternalIP",
        // It is on no node, so webhooks and aggregated APIs are reached by their pods' addresses.
        "--enable-aggregator-routing=true",
        "--profiling=false",
        ...apiServerFlags,
      ],
    },
    {
      name: "kube-controller-manager",
      command: [
        layout.program("kube-controller-manager"),
        ...as("controller-manager"),
        "--bind-address=127.0.0.1",
        `--cert-dir=${layout.pki}/controller-manager`,
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        `--service-account-private-key-file=${tokens}`,
        `--root-ca-file=${pki.ca.certificate}`,
        `--cluster-signing-cert-file=${pki.ca.certificate}`,
        `--cluster-signing-key-file=${pki.ca.key}`,
        // A dead node is noticed while somebody watches.
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=16s",
        "--profiling=false",
      ],
    },
    {
      name: "kube-scheduler",
      command: [
        layout.program("kube-scheduler"),
        ...as("scheduler"),
        "--bind-address=127.0.0.1",
        `--cert-dir=${layout.pki}/scheduler`,
        "--leader-elect=false",
        "--profiling=false",
      ],
    },
    {
      name: "load-balancer",
      command: [
        layout.program("load-balancer"),
        `--kubeconfig=${layout.kubeconfig("load-balancer")}`,
        `--pool=${network.loadBalancers}`,
      ],
    },
  ];
}
