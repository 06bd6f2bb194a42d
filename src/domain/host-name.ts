/**
 * Host names as Istio's objects write them: a short name is a Service of the object's own namespace, what has a
 * dot is a full name, and a leading `*` stands for the rest.
 */

export function isWildcard(host: string): boolean {
  return host.startsWith("*");
}

/** The full name: `reviews` in namespace `shop` is `reviews.shop.svc.DOMAIN`. Wildcards stay as they are. */
export function fullHost(host: string, namespace: string, domainSuffix: string): string {
  return host.includes(".") || isWildcard(host) ? host : `${host}.${namespace}.svc.${domainSuffix}`;
}

/**
 * What a host is indexed under without knowing the mesh's domain: `NAMESPACE/NAME` for what may be a Service, else
 * the name itself. Two names of one service have one key; what shares a key need not be one service.
 */
export function hostKey(host: string, namespace: string): string {
  if (!host.includes(".")) return `${namespace}/${host}`;
  const [, name, of] = /^([^.]+)\.([^.]+)\.svc(?:\.|$)/.exec(host) ?? [];
  return name === undefined || of === undefined ? host : `${of}/${name}`;
}

/** Whether a full name falls under the host, which may be a wildcard. */
export function coversHost(host: string, fullName: string): boolean {
  if (!isWildcard(host)) return host === fullName;
  const rest = host.slice(1);
  return fullName.length > rest.length && fullName.endsWith(rest);
}

/** Of two hosts that cover a name, the more specific is first: exact, then the longer wildcard. */
export function compareHosts(a: string, b: string): number {
  if (isWildcard(a) !== isWildcard(b)) return isWildcard(a) ? 1 : -1;
  return b.length - a.length;
}

/** Whether an object that is exported to these namespaces is seen from this one; an empty list is all. */
export function isVisible(exportTo: readonly string[], own: string, from: string): boolean {
  if (exportTo.length === 0) return true;
  return exportTo.some((to) => to === "*" || to === from || (to === "." && own === from));
}
