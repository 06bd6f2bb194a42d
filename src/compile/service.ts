import { serviceKey } from "../domain/ids.js";
import type { ServiceObject } from "../domain/objects.js";
import type { Mesh } from "../model/mesh.js";
import type { CompiledService } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { compileBinding, waypointOfService } from "./waypoint/binding.js";

type LoadBalancing = CompiledService["loadBalancing"];

export function serviceHostname(config: CompileConfig, namespace: string, name: string): string {
  return `${name}.${namespace}.svc.${config.domainSuffix}`;
}

/** `internalTrafficPolicy: Local` before `trafficDistribution`, as kube-proxy reads them. */
function loadBalancing(service: ServiceObject): LoadBalancing {
  const allowUnhealthy = service.publishNotReadyAddresses;
  if (service.internalTrafficPolicy === "Local") return { scopes: ["node"], mode: "strict", allowUnhealthy };
  switch (service.trafficDistribution) {
    case "PreferSameZone":
      return { scopes: ["network", "region", "zone"], mode: "failover", allowUnhealthy };
    case "PreferSameNode":
      return { scopes: ["network", "region", "zone", "subzone", "node"], mode: "failover", allowUnhealthy };
    case undefined:
      return allowUnhealthy ? { scopes: [], mode: "unspecified", allowUnhealthy } : undefined;
  }
}

function ipFamilies({ ipFamilies: [first, second] }: ServiceObject): CompiledService["ipFamilies"] {
  if (first === undefined) return "any";
  if (second !== undefined) return "dual";
  return first === "IPv4" ? "ipv4" : "ipv6";
}

/** Undefined for an ExternalName: it has no endpoints, its name resolves elsewhere. */
export function compileService(
  mesh: Mesh,
  service: ServiceObject,
  config: CompileConfig,
): CompiledService | undefined {
  if (service.type === "ExternalName") return undefined;
  const { namespace, name } = service.meta;
  const hostname = serviceHostname(config, namespace, name);
  return {
    type: "service",
    key: serviceKey(namespace, hostname),
    name,
    namespace,
    hostname,
    addresses: service.clusterIps.map((ip) => ({ network: config.network, ip, length: undefined })),
    ipFamilies: ipFamilies(service),
    ports: service.ports
      .filter(({ protocol }) => protocol === "TCP")
      // Ambient writes 0 where the port is a name: each endpoint says which number it is.
      .map(({ port, targetPort, appProtocol }) => ({
        servicePort: port,
        targetPort: typeof targetPort === "number" ? targetPort : 0,
        appProtocol,
      })),
    subjectAltNames: [],
    ...compileBinding(config, waypointOfService(mesh, service.meta)),
    loadBalancing: loadBalancing(service),
    clientIpAffinity:
      service.sessionAffinity === "ClientIP" ? { timeoutS: service.sessionAffinityTimeoutS } : undefined,
    headless: service.headless,
    canonical: true,
    ingressUseWaypoint: service.meta.labels.get("istio.io/ingress-use-waypoint") === "true",
  };
}
