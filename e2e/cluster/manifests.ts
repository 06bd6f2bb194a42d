/** What every cluster has from the start: DNS, and the load balancer's rights. */
import { network } from "./layout.js";

export const dnsImage = "docker.io/meltemi/coredns:1";

const labels = { "k8s-app": "kube-dns" };
const system = "kube-system";
const rbac = "rbac.authorization.k8s.io";

const clusterRole = (name: string, user: object, rules: readonly object[]): readonly object[] => [
  { apiVersion: `${rbac}/v1`, kind: "ClusterRole", metadata: { name }, rules },
  {
    apiVersion: `${rbac}/v1`,
    kind: "ClusterRoleBinding",
    metadata: { name },
    roleRef: { apiGroup: rbac, kind: "ClusterRole", name },
    subjects: [user],
  },
];

const corefile = `.:53 {
    errors
    health :8080
    ready :8181
    kubernetes ${network.domain} in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    loadbalance
}
`;

const watch = ["list", "watch"];

export const manifests: readonly object[] = [
  ...clusterRole("meltemi:load-balancer", { kind: "User", apiGroup: rbac, name: "meltemi:load-balancer" }, [
    { apiGroups: [""], resources: ["services", "nodes"], verbs: watch },
    { apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: watch },
    { apiGroups: [""], resources: ["services/status"], verbs: ["update"] },
  ]),
  ...clusterRole("meltemi:coredns", { kind: "ServiceAccount", namespace: system, name: "coredns" }, [
    { apiGroups: [""], resources: ["services", "pods", "namespaces"], verbs: watch },
    { apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: watch },
  ]),
  { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "coredns", namespace: system } },
  {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "coredns", namespace: system },
    data: { Corefile: corefile },
  },
  {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "kube-dns", namespace: system, labels },
    spec: {
      clusterIP: network.dns,
      selector: labels,
      ports: [
        { name: "dns", port: 53, protocol: "UDP" },
        { name: "dns-tcp", port: 53, protocol: "TCP" },
      ],
    },
  },
  {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "coredns", namespace: system, labels },
    spec: {
      replicas: 1,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          serviceAccountName: "coredns",
          priorityClassName: "system-cluster-critical",
          dnsPolicy: "Default",
          tolerations: [
            {
              key: "node.kubernetes.io/unreachable",
              operator: "Exists",
              effect: "NoExecute",
              tolerationSeconds: 10,
            },
            {
              key: "node.kubernetes.io/not-ready",
              operator: "Exists",
              effect: "NoExecute",
              tolerationSeconds: 10,
            },
          ],
          containers: [
            {
              name: "coredns",
              image: dnsImage,
              imagePullPolicy: "Never",
              args: ["-conf", "/etc/coredns/Corefile"],
              ports: [{ containerPort: 53, protocol: "UDP" }],
              readinessProbe: { httpGet: { path: "/ready", port: 8181 }, periodSeconds: 1 },
              livenessProbe: {
                httpGet: { path: "/health", port: 8080 },
                periodSeconds: 10,
                failureThreshold: 6,
              },
              volumeMounts: [{ name: "config", mountPath: "/etc/coredns" }],
            },
          ],
          volumes: [{ name: "config", configMap: { name: "coredns" } }],
        },
      },
    },
  },
];
