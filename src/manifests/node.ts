import { dirname } from "node:path";
import { startupTaint } from "../controllers/startup-taint.js";
import { controlPlanePorts, controlPlaneService } from "./control-plane.js";
import { labelsOf, nameOf, selectorOf, type KubeObject } from "./objects.js";
import type { ContainerProfile } from "./profiles.js";
import type { ManifestValues } from "./values.js";

const component = "node";
const metricsPort = 15_020;
const readyPort = 15_021;
/** On the node: sockets and records, and the last good state. */
const runRoot = "/run/meltemi";
const stateRoot = "/var/lib/meltemi";
const bpfRoot = "/sys/fs/bpf";
const bpfDir = `${bpfRoot}/meltemi`;
const tokenDirectory = "/var/run/secrets/tokens";
const apiAccessDirectory = "/var/run/secrets/kubernetes.io/serviceaccount";
const rootDirectory = "/var/run/secrets/meltemi/root";

interface HostMount {
  readonly name: string;
  /** On the node; in the agent at the same path, unless told. */
  readonly path: string;
  readonly mountPath?: string;
  readonly type: "Directory" | "DirectoryOrCreate";
  readonly readOnly?: boolean;
  /** What is mounted there later is seen, too. */
  readonly follows?: boolean;
}

const agentMounts = (values: ManifestValues): readonly HostMount[] => [
  { name: "run", path: runRoot, type: "DirectoryOrCreate" },
  { name: "state", path: stateRoot, type: "DirectoryOrCreate" },
  { name: "netns", path: "/run/netns", type: "DirectoryOrCreate", readOnly: true, follows: true },
  { name: "bpf", path: bpfRoot, type: "Directory", follows: true },
  // A container's own /proc/sys is read-only; which network namespace's this one shows depends on who looks.
  { name: "sysctls", path: "/proc/sys/net", mountPath: "/host/proc/sys/net", type: "Directory" },
  { name: "cni-bin", path: values.cniBinDir, type: "DirectoryOrCreate" },
  { name: "cni-conf", path: values.cniConfDir, type: "DirectoryOrCreate" },
  // The directory: the socket is another file after the runtime's restart.
  { name: "cri", path: dirname(values.criSocket), type: "Directory", readOnly: true },
];

/** A container's own /sys/fs takes no further mounts. */
const dataPlaneBpfDir = "/bpf";

const dataPlaneMounts: readonly HostMount[] = [
  { name: "run", path: runRoot, type: "DirectoryOrCreate" },
  { name: "bpf-maps", path: bpfDir, mountPath: dataPlaneBpfDir, type: "DirectoryOrCreate", follows: true },
];

const seccompDirectory = "/host/seccomp";

const mountOf = ({ name, path, mountPath, readOnly, follows }: HostMount): object => ({
  name,
  mountPath: mountPath ?? path,
  ...(readOnly === true && { readOnly }),
  ...(follows === true && { mountPropagation: "HostToContainer" }),
});

const volumeOf = ({ name, path, type }: HostMount): object => ({ name, hostPath: { path, type } });

const nodeName = { name: "NODE_NAME", valueFrom: { fieldRef: { fieldPath: "spec.nodeName" } } };

function agent(values: ManifestValues, { securityContext }: ContainerProfile): object {
  const { namespace, imagePrefix, imageTag, imagePullPolicy, trustDomain, clusterId, logLevel } = values;
  return {
    name: "agent",
    image: `${imagePrefix}/agent:${imageTag}`,
    imagePullPolicy,
    args: [
      "node",
      "--kubernetes",
      "--node=$(NODE_NAME)",
      `--run-dir=${runRoot}/node`,
      `--state-dir=${stateRoot}/node`,
      `--control-plane=https://${controlPlaneService}.${namespace}.svc:${controlPlanePorts.xds}`,
      `--control-plane-root=${rootDirectory}/root-cert.pem`,
      `--token-file=${tokenDirectory}/istio-token`,
      `--cri-socket=${values.criSocket}`,
      `--cni-socket=${runRoot}/cni/cni.sock`,
      `--cni-bin-dir=${values.cniBinDir}`,
      `--cni-conf-dir=${values.cniConfDir}`,
      `--bpf-dir=${bpfDir}`,
      `--redirect-mode=${values.redirectMode}`,
      "--data-plane-registers",
      "--leave-data-plane",
      `--metrics-address=0.0.0.0:${metricsPort}`,
      `--ready-address=0.0.0.0:${readyPort}`,
      `--trust-domain=${trustDomain}`,
      `--cluster-id=${clusterId}`,
      `--log-level=${logLevel}`,
      "--log-format=json",
    ],
    env: [nodeName, { name: "MELTEMI_RUN_DIR", value: `${runRoot}/node` }],
    ports: [
      { name: "http-metrics", containerPort: metricsPort },
      { name: "http-ready", containerPort: readyPort },
    ],
    readinessProbe: {
      httpGet: { path: "/healthz/ready", port: "http-ready" },
      periodSeconds: 2,
      failureThreshold: 3,
    },
    resources: { requests: { cpu: "50m", memory: "96Mi" }, limits: { memory: "1Gi" } },
    securityContext,
    volumeMounts: [
      ...agentMounts(values).map(mountOf),
      { name: "token", mountPath: tokenDirectory, readOnly: true },
      { name: "api-access", mountPath: apiAccessDirectory, readOnly: true },
      { name: "root", mountPath: rootDirectory, readOnly: true },
      { name: "tmp", mountPath: "/tmp" },
    ],
  };
}

function dataPlane(values: ManifestValues, { securityContext }: ContainerProfile): object {
  const { imagePrefix, imageTag, imagePullPolicy, trustDomain, clusterId, logLevel } = values;
  return {
    name: "data-plane",
    image: `${imagePrefix}/data-plane:${imageTag}`,
    imagePullPolicy,
    args: [
      "ztunnel",
      "--node=$(NODE_NAME)",
      `--run-dir=${runRoot}/node`,
      `--bpf-dir=${dataPlaneBpfDir}`,
      `--trust-domain=${trustDomain}`,
      `--cluster-id=${clusterId}`,
      `--log-level=${logLevel}`,
      "--log-format=json",
    ],
    env: [nodeName],
    resources: { requests: { cpu: "100m", memory: "64Mi" }, limits: { memory: "2Gi" } },
    securityContext,
    volumeMounts: dataPlaneMounts.map(mountOf),
  };
}

/** Writes the other containers' seccomp profiles where the kubelet looks for them, before these start. */
function profilesWriter({ imagePrefix, imageTag, imagePullPolicy }: ManifestValues): object {
  return {
    name: "seccomp-profiles",
    image: `${imagePrefix}/agent:${imageTag}`,
    imagePullPolicy,
    args: ["node-profiles", `--to=${seccompDirectory}`],
    securityContext: {
      runAsUser: 0,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
      seccompProfile: { type: "RuntimeDefault" },
    },
    volumeMounts: [{ name: "seccomp", mountPath: seccompDirectory }],
  };
}

export function nodes(
  values: ManifestValues,
  profiles: Readonly<Record<"agent" | "data-plane", ContainerProfile>>,
): KubeObject[] {
  const { namespace, kubeletDir } = values;
  const labels = labelsOf(component);
  return [
    {
      apiVersion: "apps/v1",
      kind: "DaemonSet",
      metadata: { name: nameOf[component], namespace, labels },
      spec: {
        selector: { matchLabels: selectorOf(component) },
        updateStrategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 1 } },
        template: {
          metadata: {
            labels,
            annotations: {
              "prometheus.io/scrape": "true",
              "prometheus.io/port": String(metricsPort),
              "prometheus.io/path": "/metrics",
            },
          },
          spec: {
            serviceAccountName: nameOf[component],
            // Of the containers only the agent may ask the API: it has the same volume below.
            automountServiceAccountToken: false,
            priorityClassName: "system-node-critical",
            // The guard and the probes' table are in the node's namespace, at the other end of the pods' links.
            hostNetwork: true,
            dnsPolicy: "ClusterFirstWithHostNet",
            terminationGracePeriodSeconds: 30,
            // On every node, whatever state it is in; without it no pod of the mesh starts there.
            tolerations: [{ operator: "Exists" }],
            nodeSelector: { "kubernetes.io/os": "linux" },
            initContainers: [profilesWriter(values)],
            containers: [agent(values, profiles.agent), dataPlane(values, profiles["data-plane"])],
            volumes: [
              ...[...agentMounts(values), ...dataPlaneMounts.filter(({ name }) => name !== "run")].map(
                volumeOf,
              ),
              { name: "seccomp", hostPath: { path: `${kubeletDir}/seccomp`, type: "DirectoryOrCreate" } },
              {
                name: "token",
                projected: {
                  sources: [
                    {
                      serviceAccountToken: {
                        audience: "istio-ca",
                        expirationSeconds: 3_600,
                        path: "istio-token",
                      },
                    },
                  ],
                },
              },
              {
                name: "api-access",
                projected: {
                  sources: [
                    { serviceAccountToken: { expirationSeconds: 3_607, path: "token" } },
                    { configMap: { name: "kube-root-ca.crt", items: [{ key: "ca.crt", path: "ca.crt" }] } },
                  ],
                },
              },
              // The control plane writes it: the agent starts before it is there, and reads it when it connects.
              { name: "root", configMap: { name: "meltemi-ca-root-cert", optional: true } },
              { name: "tmp", emptyDir: { sizeLimit: "16Mi" } },
            ],
          },
        },
      },
    },
  ];
}

/** What a kubelet registers its node with, so that no pod starts there before the agent: `--register-with-taints`. */
export const registerWithTaint = `${startupTaint}=:NoSchedule`;
