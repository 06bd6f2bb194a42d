import { labelsOf, nameOf, selectorOf, type KubeObject } from "./objects.js";
import type { ManifestValues } from "./values.js";

const component = "control-plane";
/** Discovery, certificates and the trust bundle; metrics; readiness. */
export const controlPlanePorts = { xds: 15_012, metrics: 15_014, ready: 15_021 } as const;
export const controlPlaneService = "meltemi";

const volumes = [
  { name: "run", emptyDir: { medium: "Memory", sizeLimit: "16Mi" } },
  { name: "state", emptyDir: { sizeLimit: "256Mi" } },
  { name: "tmp", emptyDir: { sizeLimit: "16Mi" } },
];
const volumeMounts = [
  { name: "run", mountPath: "/run/meltemi" },
  { name: "state", mountPath: "/var/lib/meltemi" },
  { name: "tmp", mountPath: "/tmp" },
];

function container(values: ManifestValues): object {
  const { namespace, imagePrefix, imageTag, imagePullPolicy, trustDomain, clusterId, logLevel } = values;
  return {
    name: component,
    image: `${imagePrefix}/control-plane:${imageTag}`,
    imagePullPolicy,
    args: [
      "control-plane",
      "--kubernetes",
      `--namespace=${namespace}`,
      `--node-accounts=${namespace}/${nameOf.node}`,
      `--advertise=${controlPlaneService}.${namespace}.svc,${controlPlaneService}.${namespace}.svc.cluster.local`,
      `--listen=0.0.0.0:${controlPlanePorts.xds}`,
      `--metrics-address=0.0.0.0:${controlPlanePorts.metrics}`,
      `--ready-address=0.0.0.0:${controlPlanePorts.ready}`,
      // Of their own: a volume's directory belongs to root.
      "--run-dir=/run/meltemi/control-plane",
      "--state-dir=/var/lib/meltemi/control-plane",
      `--trust-domain=${trustDomain}`,
      `--cluster-id=${clusterId}`,
      `--log-level=${logLevel}`,
      "--log-format=json",
    ],
    env: [{ name: "MELTEMI_RUN_DIR", value: "/run/meltemi/control-plane" }],
    ports: [
      { name: "grpc-xds", containerPort: controlPlanePorts.xds },
      { name: "http-metrics", containerPort: controlPlanePorts.metrics },
      { name: "http-ready", containerPort: controlPlanePorts.ready },
    ],
    readinessProbe: {
      httpGet: { path: "/healthz/ready", port: "http-ready" },
      periodSeconds: 2,
      failureThreshold: 2,
    },
    livenessProbe: {
      tcpSocket: { port: "http-ready" },
      initialDelaySeconds: 60,
      periodSeconds: 10,
      failureThreshold: 6,
    },
    resources: { requests: { cpu: "100m", memory: "192Mi" }, limits: { memory: "2Gi" } },
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    },
    volumeMounts,
  };
}

export function controlPlane(values: ManifestValues): KubeObject[] {
  const { namespace, replicas } = values;
  const labels = labelsOf(component);
  const metadata = { name: nameOf[component], namespace, labels };
  return [
    {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata,
      spec: {
        replicas,
        selector: { matchLabels: selectorOf(component) },
        // A replica that comes is ready before one goes.
        strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
        template: {
          metadata: {
            labels,
            annotations: {
              "prometheus.io/scrape": "true",
              "prometheus.io/port": String(controlPlanePorts.metrics),
              "prometheus.io/path": "/metrics",
            },
          },
          spec: {
            serviceAccountName: nameOf[component],
            priorityClassName: "system-cluster-critical",
            securityContext: {
              runAsNonRoot: true,
              runAsUser: 65_532,
              runAsGroup: 65_532,
              fsGroup: 65_532,
              seccompProfile: { type: "RuntimeDefault" },
            },
            affinity: {
              podAntiAffinity: {
                preferredDuringSchedulingIgnoredDuringExecution: [
                  {
                    weight: 100,
                    podAffinityTerm: {
                      topologyKey: "kubernetes.io/hostname",
                      labelSelector: { matchLabels: selectorOf(component) },
                    },
                  },
                ],
              },
            },
            // It makes nodes ready, so it cannot wait for them to be.
            tolerations: [{ key: "meltemi.io/agent-not-ready", operator: "Exists" }],
            containers: [container(values)],
            volumes,
          },
        },
      },
    },
    {
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      metadata,
      // With one replica nothing could be drained.
      spec: {
        ...(replicas > 1 ? { minAvailable: 1 } : { maxUnavailable: 1 }),
        selector: { matchLabels: selectorOf(component) },
      },
    },
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: controlPlaneService, namespace, labels },
      spec: {
        selector: selectorOf(component),
        ports: [
          { name: "grpc-xds", port: controlPlanePorts.xds, targetPort: "grpc-xds", appProtocol: "grpc" },
          { name: "http-metrics", port: controlPlanePorts.metrics, targetPort: "http-metrics" },
        ],
      },
    },
  ];
}
