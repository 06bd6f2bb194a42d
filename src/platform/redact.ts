/** What stands in a log in the place of a secret. */
export const redacted = "[redacted]";

/** Names of fields that hold a secret, compared without case, `_` and `-`. */
const secretNames = new Set([
  "authorization",
  "bearer",
  "cookie",
  "keypem",
  "passphrase",
  "password",
  "privatekey",
  "privatekeypem",
  "secret",
  "signingkey",
  "token",
  "accesstoken",
  "authtoken",
  "serviceaccounttoken",
]);

/** A PEM private key of any kind, or a JSON Web Token, anywhere in a text. */
const secretText =
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*/g;

const deepest = 8;

/** A text without the keys and tokens in it. */
export function redactText(text: string): string {
  return text.replace(secretText, redacted);
}

/**
 * A copy of log fields that is safe to print: secrets replaced, errors as `{message, code, hint, cause}`, bytes as their
 * count, maps and sets as objects and arrays, nothing deeper than eight levels.
 */
export function redactFields(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return copyRecord(Object.entries(fields), 0);
}

function copyRecord(entries: Iterable<readonly [unknown, unknown]>, depth: number): Record<string, unknown> {
  const copy: Record<string, unknown> = {};
  for (const [key, value] of entries) {
    const name = String(key);
    copy[name] =
      isSecretName(name) && value !== undefined && value !== null ? redacted : safe(value, depth + 1);
  }
  return copy;
}

function isSecretName(name: string): boolean {
  return secretNames.has(name.toLowerCase().replaceAll(/[_-]/g, ""));
}

function safe(value: unknown, depth: number): unknown {
  if (typeof value === "string") return redactText(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  if (depth > deepest) return "[deeper]";
  if (value instanceof Error) return safeError(value, depth);
  if (value instanceof Uint8Array) return `[${value.byteLength} bytes]`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "[no date]" : value.toISOString();
  if (value instanceof Map) return copyRecord(value, depth);
  if (value instanceof Set) return [...(value as Set<unknown>)].map((item) => safe(item, depth + 1));
  if (Array.isArray(value)) return value.map((item) => safe(item, depth + 1));
  return copyRecord(Object.entries(value), depth);
}

function safeError(error: Error, depth: number): Record<string, unknown> {
  const { code, hint } = error as { code?: unknown; hint?: unknown };
  return {
    message: redactText(error.message),
    ...(typeof code === "string" || typeof code === "number" ? { code } : {}),
    ...(typeof hint === "string" ? { hint: redactText(hint) } : {}),
    ...(error.cause === undefined ? {} : { cause: safe(error.cause, depth + 1) }),
  };
}
