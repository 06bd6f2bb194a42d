/** Services by host name, whichever object describes them: what Istio's traffic objects name. */
import { fullHost } from "../../domain/host-name.js";
import { serviceKey, type ServiceKey } from "../../domain/ids.js";
import type { Meta, ServiceEntryObject, ServiceObject } from "../../domain/objects.js";
import { isOlder } from "../../domain/policy-age.js";
import { type Mesh, nameOf } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { serviceHostname } from "../service.js";

export interface KnownService {
  readonly object: ServiceObject | ServiceEntryObject;
  readonly meta: Meta;
  readonly hostname: string;
  readonly key: ServiceKey;
  /** Of TCP. */
  readonly ports: readonly number[];
}

/** What a Service is known as; undefined for an ExternalName. */
export function knownService(config: CompileConfig, service: ServiceObject): KnownService | undefined {
  if (service.type === "ExternalName") return undefined;
  const { namespace, name } = service.meta;
  const hostname = serviceHostname(config, namespace, name);
  const ports = service.ports.filter(({ protocol }) => protocol === "TCP").map(({ port }) => port);
  return { object: service, meta: service.meta, hostname, key: serviceKey(namespace, hostname), ports };
}

/** What an entry is known as: one service for each host, but for those that another object has. */
export function knownEntryServices(
  mesh: Mesh,
  config: CompileConfig,
  entry: ServiceEntryObject,
): readonly KnownService[] {
  const { namespace } = entry.meta;
  return [...new Set(entry.hosts)].flatMap((hostname) =>
    servicesNamed(mesh, config, hostname).filter(
      (service) => service.object === entry && service.meta.namespace === namespace,
    ),
  );
}

/**
 * Every service of a full host name: at most one of each namespace, of its entries the first by name. A Service
 * comes first, then the namespace with the oldest entry, as nodes have it (service-claim.ts): who writes another's
 * host into a younger entry diverts nobody, whatever the name of the namespace.
 */
export function servicesNamed(mesh: Mesh, config: CompileConfig, hostname: string): readonly KnownService[] {
  const found = new Map<string, KnownService>();
  const [name = "", namespace = ""] = hostname.split(".");
  const service =
    hostname === serviceHostname(config, namespace, name) ? mesh.services.get(namespace, name) : undefined;
  const known = service && knownService(config, service);
  if (known) found.set(namespace, known);
  const entries = [...mesh.entriesByHostname.get(hostname)].sort((a, b) => (isOlder(a, b) ? -1 : 1));
  const firsts = new Map<string, ServiceEntryObject>();
  for (const entry of entries) {
    const first = firsts.get(entry.meta.namespace);
    if (!first || nameOf(entry) < nameOf(first)) firsts.set(entry.meta.namespace, entry);
  }
  for (const [own, entry] of firsts) {
    if (found.has(own)) continue;
    const ports = entry.ports.filter(({ protocol }) => protocol === "TCP").map(({ number }) => number);
    found.set(own, { object: entry, meta: entry.meta, hostname, key: serviceKey(own, hostname), ports });
  }
  return [...found.values()];
}

/** Every service of the mesh. */
export function* allServices(mesh: Mesh, config: CompileConfig): Iterable<KnownService> {
  for (const service of mesh.services.all()) {
    const known = knownService(config, service);
    if (known) yield known;
  }
  for (const entry of mesh.serviceEntries.all()) yield* knownEntryServices(mesh, config, entry);
}

/** The service that a host means to an object of a namespace: one of its own before others'. */
export function serviceMeant(
  mesh: Mesh,
  config: CompileConfig,
  host: string,
  namespace: string,
): KnownService | undefined {
  const services = servicesNamed(mesh, config, fullHost(host, namespace, config.domainSuffix));
  return services.find(({ meta }) => meta.namespace === namespace) ?? services[0];
}
