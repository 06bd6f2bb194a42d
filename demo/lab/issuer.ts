import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";

const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Who signs tokens (JWT, ES256), with a key made anew. */
export class Issuer {
  readonly #key: KeyObject;
  /** Its public key, as a JSON Web Key Set. */
  readonly jwks: string;

  constructor(readonly name: string) {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    this.#key = privateKey;
    const key = { ...publicKey.export({ format: "jwk" }), kid: "demo", alg: "ES256", use: "sig" };
    this.jwks = JSON.stringify({ keys: [key] });
  }

  /** A token of this subject that ends `livesS` seconds from now. */
  token(subject: string, livesS = 3600): string {
    const issuedS = Math.floor(Date.now() / 1000);
    const head = { alg: "ES256", typ: "JWT", kid: "demo" };
    const claims = { iss: this.name, sub: subject, iat: issuedS, exp: issuedS + livesS };
    const text = `${encoded(head)}.${encoded(claims)}`;
    const signature = sign("sha256", Buffer.from(text), { key: this.#key, dsaEncoding: "ieee-p1363" });
    return `${text}.${signature.toString("base64url")}`;
  }
}
