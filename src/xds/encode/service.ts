import type { CompiledService } from "../../compile/compiled.js";
import {
  IPFamilies,
  LoadBalancing_HealthPolicy,
  LoadBalancing_Mode,
  LoadBalancing_Scope,
  Service_Visibility,
  type LoadBalancing,
  type Service,
} from "../../gen/istio/workload/workload.js";
import { ServiceExtension, ServiceExtension_Affinity } from "../../gen/meltemi/v1/extensions.js";
import type { Dialect } from "../resource.js";
import { addressBytes } from "./bytes.js";
import { encodeExtension } from "./extension.js";
import { encodePort } from "./port.js";
import { encodeWaypoint } from "./waypoint.js";

type Balancing = NonNullable<CompiledService["loadBalancing"]>;

const scopes: Readonly<Record<Balancing["scopes"][number], LoadBalancing_Scope>> = {
  region: LoadBalancing_Scope.REGION,
  zone: LoadBalancing_Scope.ZONE,
  subzone: LoadBalancing_Scope.SUBZONE,
  node: LoadBalancing_Scope.NODE,
  cluster: LoadBalancing_Scope.CLUSTER,
  network: LoadBalancing_Scope.NETWORK,
};

const modes: Readonly<Record<Balancing["mode"], LoadBalancing_Mode>> = {
  strict: LoadBalancing_Mode.STRICT,
  failover: LoadBalancing_Mode.FAILOVER,
  passthrough: LoadBalancing_Mode.PASSTHROUGH,
  unspecified: LoadBalancing_Mode.UNSPECIFIED_MODE,
};

const families: Readonly<Record<CompiledService["ipFamilies"], IPFamilies>> = {
  any: IPFamilies.AUTOMATIC,
  ipv4: IPFamilies.IPV4_ONLY,
  ipv6: IPFamilies.IPV6_ONLY,
  dual: IPFamilies.DUAL,
};

function encodeLoadBalancing(balancing: Balancing): LoadBalancing {
  return {
    routingPreference: balancing.scopes.map((scope) => scopes[scope]),
    mode: modes[balancing.mode],
    healthPolicy: balancing.allowUnhealthy
      ? LoadBalancing_HealthPolicy.ALLOW_ALL
      : LoadBalancing_HealthPolicy.ONLY_HEALTHY,
  };
}

function encodeExtensions(service: CompiledService): Service["extensions"] {
  if (!service.clientIpAffinity && !service.headless) return [];
  const bytes = ServiceExtension.encode({
    sessionAffinity: service.clientIpAffinity
      ? ServiceExtension_Affinity.CLIENT_IP
      : ServiceExtension_Affinity.NONE,
    affinityTimeoutSeconds: service.clientIpAffinity?.timeoutS ?? 0,
    headless: service.headless,
  }).finish();
  return [encodeExtension("meltemi.v1.ServiceExtension", bytes)];
}

export function encodeService(service: CompiledService, dialect: Dialect): Service {
  return {
    name: service.name,
    namespace: service.namespace,
    hostname: service.hostname,
    addresses: service.addresses.map(({ network, ip, length }) => ({
      network,
      address: addressBytes(ip),
      length,
    })),
    ports: service.ports.map(encodePort),
    subjectAltNames: [...service.subjectAltNames],
    waypoint: encodeWaypoint(service.waypoint),
    loadBalancing: service.loadBalancing && encodeLoadBalancing(service.loadBalancing),
    ipFamilies: families[service.ipFamilies],
    extensions: dialect === "meltemi" ? encodeExtensions(service) : [],
    canonical: service.canonical,
    ingressUseWaypoint: service.ingressUseWaypoint,
    weightedWaypoints: [],
    visibility: Service_Visibility.PUBLIC,
  };
}
