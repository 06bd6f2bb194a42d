/** Standalone's node credentials: one random bearer token per node, in a file that only its owner reads. */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { MeltemiError } from "../domain/error.js";
import type { CallerCredentials, NodeAuthenticator } from "./ports.js";
import { makePrivateDirectory, readPrivateFile, requirePrivate, createPrivateFile } from "./private-files.js";

const nodePattern = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const digest = (token: string): Buffer => createHash("sha256").update(token).digest();

export class NodeTokens implements NodeAuthenticator {
  readonly #directory: string;
  readonly #digests = new Map<string, Buffer>();

  constructor(directory: string) {
    this.#directory = directory;
    makePrivateDirectory(directory);
    requirePrivate(directory);
    for (const name of readdirSync(directory)) if (nodePattern.test(name)) this.ensure(name);
  }

  /** The file with the node's token; made when there is none. Throws `bad_input` for a name that is no node's. */
  ensure(node: string): string {
    if (!nodePattern.test(node)) {
      throw new MeltemiError("bad_input", `"${node}" is not the name of a node`, {
        hint: "lower-case letters, digits, - and . as in DNS",
      });
    }
    const path = join(this.#directory, node);
    if (this.#digests.has(node)) return path;
    requirePrivate(path);
    // The standalone and its control plane both may be first: the one that is makes it, the other reads it.
    createPrivateFile(path, randomBytes(32).toString("base64url"));
    const token = readPrivateFile(path)?.trim() ?? "";
    if (token.length < 32) {
      throw new MeltemiError("bad_input", `${path} holds no token`, {
        hint: "remove the file: a new token is made",
      });
    }
    this.#digests.set(node, digest(token));
    return path;
  }

  /** The node's token is no longer valid. */
  revoke(node: string): void {
    this.#digests.delete(node);
    if (nodePattern.test(node)) rmSync(join(this.#directory, node), { force: true });
  }

  authenticate(credentials: CallerCredentials): Promise<string> {
    const token = /^Bearer ([A-Za-z0-9._~+/=-]{16,4096})$/i.exec(credentials.authorization ?? "")?.[1];
    if (token === undefined) {
      return Promise.reject(
        new MeltemiError(
          "unauthenticated",
          credentials.authorization === undefined ? "no token was sent" : "the token is malformed",
          {
            hint: "send the header authorization: Bearer TOKEN",
          },
        ),
      );
    }
    // Every token is compared, each in constant time: the answer's time tells nothing about which node's is near.
    const given = digest(token);
    let found: string | undefined;
    for (const [node, expected] of this.#digests) if (timingSafeEqual(expected, given)) found = node;
    return found === undefined
      ? Promise.reject(new MeltemiError("unauthenticated", "the token belongs to no node"))
      : Promise.resolve(found);
  }
}
