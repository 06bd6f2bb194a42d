/** One bounded GET over http or https: for documents of others, which may be slow, endless or somewhere else. */
import { lookup, type LookupAddress } from "node:dns";
import { existsSync, readFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import type { BlockList, LookupFunction } from "node:net";
import { rootCertificates } from "node:tls";
import { MeltemiError, messageOf } from "../domain/error.js";
import { isListed } from "./node-addresses.js";

export interface HttpGetOptions {
  /** Of all redirects together. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Of the body; more is an error. */
  readonly mostBytes: number;
  readonly redirects: number;
}

export interface HttpDocument {
  readonly body: string;
  readonly cacheControl: string;
}

export type HttpGet = (url: string, options: HttpGetOptions) => Promise<HttpDocument>;

/** Where systems keep the roots that they trust. */
const rootFiles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
] as const;

/** The roots of the file that `SSL_CERT_FILE` names, else the system's, else Node's own. */
export function systemRoots(environment: NodeJS.ProcessEnv): string | readonly string[] {
  const named = environment["SSL_CERT_FILE"];
  const file = named ?? rootFiles.find((path) => existsSync(path));
  return file === undefined ? rootCertificates : readFileSync(file, "utf8");
}

/**
 * Answers with the body of a 200. Redirects are followed, never from https to http, and no hop goes to an address of
 * `refused`, whether it is written or resolved. Throws `unavailable` with a text that names what went wrong and
 * nothing of the body.
 */
export function httpGet(roots: () => string | readonly string[], refused?: BlockList): HttpGet {
  return async (url, options) => {
    const late = AbortSignal.timeout(options.timeoutMs);
    const signal = AbortSignal.any([options.signal, late]);
    const described = (error: unknown): string => {
      if (options.signal.aborted) return "no longer wanted";
      return late.aborted ? `no answer within ${options.timeoutMs} ms` : messageOf(error);
    };
    let at = new URL(url);
    for (let hop = 0; ; hop += 1) {
      const response = await answered(at, signal, roots, refused).catch((error: unknown) => {
        throw failure(at, described(error));
      });
      const location = response.headers.location;
      if (isRedirect(response.statusCode) && location !== undefined) {
        response.destroy();
        const next = URL.canParse(location, at.href) ? new URL(location, at.href) : undefined;
        if (hop >= options.redirects) throw failure(at, "too many redirects");
        if (
          !next ||
          !/^https?:$/.test(next.protocol) ||
          (at.protocol === "https:" && next.protocol === "http:")
        )
          throw failure(at, "it redirects to where nothing may be fetched");
        at = next;
        continue;
      }
      if (response.statusCode !== 200) {
        response.destroy();
        throw failure(at, `it answers ${response.statusCode ?? 0}`);
      }
      const body = await bodyOf(response, options.mostBytes).catch((error: unknown) => {
        throw failure(at, described(error));
      });
      return { body, cacheControl: response.headers["cache-control"] ?? "" };
    }
  };
}

function isRedirect(status: number | undefined): boolean {
  return status !== undefined && [301, 302, 303, 307, 308].includes(status);
}

function failure(url: URL, message: string): MeltemiError {
  return new MeltemiError("unavailable", `${url.origin}${url.pathname}: ${message}`);
}

function answered(
  url: URL,
  signal: AbortSignal,
  roots: () => string | readonly string[],
  refused: BlockList | undefined,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    // An address that is written is not looked up.
    if (refused && isListed(refused, url.hostname)) throw ofOwnNode(url.hostname);
    // A connection of its own: keys are fetched seldom.
    const options = {
      signal,
      agent: false as const,
      headers: { accept: "application/json" },
      ...(refused && { lookup: lookupOutside(refused) }),
    };
    const request =
      url.protocol === "https:"
        ? httpsRequest(url, { ...options, ca: asCa(roots()) }, resolve)
        : httpRequest(url, options, resolve);
    request.on("error", reject);
    request.end();
  });
}

function ofOwnNode(host: string): MeltemiError {
  return new MeltemiError("unavailable", `${host} is an address of the control plane's own node; refused`);
}

/** The look-up of the connection itself: a name cannot become another address after it was judged. */
function lookupOutside(refused: BlockList): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, found: LookupAddress[]) => {
      const [first] = error ? [] : found;
      if (error) callback(error, []);
      else if (found.some(({ address }) => isListed(refused, address))) callback(ofOwnNode(hostname), []);
      else if (options.all === true || !first) callback(null, found);
      else callback(null, first.address, first.family);
    });
  };
}

function asCa(roots: string | readonly string[]): string | string[] {
  return typeof roots === "string" ? roots : [...roots];
}

async function bodyOf(response: IncomingMessage, mostBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > mostBytes) {
      response.destroy();
      throw new MeltemiError("unavailable", `it answers with more than ${mostBytes} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
