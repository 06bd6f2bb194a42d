/** What issuers publish: JSON Web Key Sets (RFC 7517), and where these are (OpenID discovery). */
import { z } from "zod";
import { MeltemiError } from "../../domain/error.js";

const keySetShape = z.looseObject({ keys: z.array(z.record(z.string(), z.unknown())) });
const discoveryShape = z.looseObject({
  issuer: z.string().optional(),
  jwks_uri: z.url({ protocol: /^https?$/ }),
});

/** What of a key is handed on: what verifies signatures, nothing that signs. */
const publicFields = ["kty", "kid", "alg", "use", "key_ops", "crv", "x", "y", "n", "e"] as const;
const verifying = new Set(["RSA", "EC", "OKP"]);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function bad(message: string): MeltemiError {
  return new MeltemiError("bad_input", message);
}

/** The set in one spelling, public parts only: the same keys are the same text. Throws `bad_input` where no key could verify anything. */
export function readKeySet(text: string): string {
  const set = keySetShape.safeParse(parsed(text));
  if (!set.success) throw bad("it is no JSON Web Key Set");
  const keys = set.data.keys
    .filter(({ kty, use }) => typeof kty === "string" && verifying.has(kty) && (use ?? "sig") === "sig")
    .map((key) =>
      Object.fromEntries(publicFields.flatMap((field) => (field in key ? [[field, key[field]]] : []))),
    );
  if (keys.length === 0) throw bad("it has no key that verifies signatures");
  return JSON.stringify({ keys });
}

/**
 * `jwks_uri` of an issuer's metadata. Throws `bad_input` where it is not there, of another issuer, or http of an
 * https issuer.
 */
export function readDiscovery(text: string, issuer: string): string {
  const metadata = discoveryShape.safeParse(parsed(text));
  if (!metadata.success) throw bad("it is no OpenID provider's metadata with a jwks_uri");
  // OpenID Connect Discovery, 4.3: who answers for another issuer is not believed.
  if (metadata.data.issuer !== undefined && metadata.data.issuer !== issuer)
    throw bad("it is the metadata of another issuer");
  const keys = metadata.data.jwks_uri;
  if (new URL(issuer).protocol === "https:" && new URL(keys).protocol !== "https:")
    throw bad("its jwks_uri is http, which an https issuer's must not be");
  return keys;
}

/** For how long an answer may be kept, in milliseconds; undefined where it does not say. */
export function maxAgeMs(cacheControl: string): number | undefined {
  if (/(?:^|[\s,])no-(?:cache|store)(?:[\s,]|$)/i.test(cacheControl)) return undefined;
  const [, seconds] = /(?:^|[\s,])max-age\s*=\s*"?(\d{1,9})/i.exec(cacheControl) ?? [];
  return seconds === undefined || Number(seconds) === 0 ? undefined : Number(seconds) * 1000;
}
