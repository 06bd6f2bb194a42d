import { MeltemiError } from "./error.js";

/** Who a workload is: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`. */
export interface Identity {
  readonly trustDomain: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

const name = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;
const domain = /^[a-z0-9._-]+$/;

/** The SPIFFE id of an identity. */
export function spiffeId(identity: Identity): string {
  return `spiffe://${identity.trustDomain}/ns/${identity.namespace}/sa/${identity.serviceAccount}`;
}

/** Parses a SPIFFE id in the mesh's form. Throws `bad_input` with the value. */
export function parseSpiffeId(text: string): Identity {
  const match = /^spiffe:\/\/([^/]+)\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(text);
  const [, trustDomain = "", namespace = "", serviceAccount = ""] = match ?? [];
  if (!match || !domain.test(trustDomain) || !name.test(namespace) || !name.test(serviceAccount)) {
    throw new MeltemiError("bad_input", `"${text}" is not an identity of this mesh`, {
      hint: "expected spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT",
    });
  }
  return { trustDomain, namespace, serviceAccount };
}
