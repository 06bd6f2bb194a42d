/** Kubernetes' syntax for names and labels (documentation: "Object Names and IDs", "Labels and Selectors"). */
const label = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const qualifiedPart = /^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/;

/** RFC 1123 label, at most 63 characters: namespaces, services, ports' names. */
export function isDnsLabel(text: string): boolean {
  return text.length <= 63 && label.test(text);
}

/** RFC 1123 subdomain, at most 253 characters: most objects' names. */
export function isDnsSubdomain(text: string): boolean {
  return text.length <= 253 && subdomain.test(text);
}

/** `NAME` or `PREFIX/NAME`, the key of a label or annotation. */
export function isLabelKey(text: string): boolean {
  const slash = text.indexOf("/");
  const name = slash < 0 ? text : text.slice(slash + 1);
  if (slash >= 0 && !isDnsSubdomain(text.slice(0, slash).toLowerCase())) return false;
  return name.length <= 63 && qualifiedPart.test(name);
}

/** The value of a label: empty, or at most 63 characters. */
export function isLabelValue(text: string): boolean {
  return text === "" || (text.length <= 63 && qualifiedPart.test(text));
}
