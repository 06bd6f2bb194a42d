/** An issuer of tokens as they are found in the world: keys that change, and an address where they are published. */
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

const base64 = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

class Key {
  readonly #private: KeyObject;
  readonly jwk: object;

  constructor(
    readonly kind: "ES256" | "RS256",
    readonly id: string,
  ) {
    const pair =
      kind === "ES256"
        ? generateKeyPairSync("ec", { namedCurve: "P-256" })
        : generateKeyPairSync("rsa", { modulusLength: 2048 });
    this.#private = pair.privateKey;
    this.jwk = { ...pair.publicKey.export({ format: "jwk" }), kid: id, alg: kind, use: "sig" };
  }

  sign(text: string): string {
    const options = { key: this.#private, dsaEncoding: "ieee-p1363" as const };
    return sign("sha256", Buffer.from(text), options).toString("base64url");
  }
}

export class Issuer {
  #published: readonly Key[] = [];
  #server: Server | undefined;
  #port = 0;
  /** Requests for keys. */
  asked = 0;

  static key(kind: Key["kind"], id: string): Key {
    return new Key(kind, id);
  }

  async up(): Promise<void> {
    const server = createServer((request, response) => {
      this.asked += 1;
      const published =
        request.url === "/.well-known/openid-configuration"
          ? { issuer: this.name, jwks_uri: `${this.name}/keys` }
          : { keys: this.#published.map(({ jwk }) => jwk) };
      response.writeHead(200, { "content-type": "application/json", "cache-control": "max-age=1" });
      response.end(JSON.stringify(published));
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    this.#port = (server.address() as AddressInfo).port;
  }

  get name(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  publish(...keys: readonly Key[]): void {
    this.#published = keys;
  }

  token(key: Key, more: object = {}): string {
    const head = { alg: key.kind, kid: key.id, typ: "JWT" };
    const claims = {
      iss: this.name,
      sub: "ann",
      aud: "shop",
      exp: Math.floor(Date.now() / 1000) + 600,
      ...more,
    };
    const text = `${base64(head)}.${base64(claims)}`;
    return `${text}.${key.sign(text)}`;
  }

  down(): void {
    this.#server?.closeAllConnections();
    this.#server?.close();
  }
}
