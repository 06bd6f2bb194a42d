/**
 * The API server's documented list and watch protocol over HTTP: versions, pages with continue tokens, bookmarks, history
 * that expires (410), streams that break. It knows objects as they are stored, and no rule about any kind of them.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { systemClock } from "../../src/platform/clock.js";
import type { KubeApi } from "../../src/platform/kube-api.js";
import type { KubeAccess } from "../../src/sources/kube/access.js";
import { HttpKubeApi } from "../../src/sources/kube/http-api.js";

export interface StoredObject {
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly [key: string]: unknown };
  readonly [key: string]: unknown;
}

interface Change {
  readonly version: number;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly object: StoredObject;
}

interface Watcher {
  readonly response: ServerResponse;
  readonly matches: (object: StoredObject) => boolean;
}

interface Collection {
  readonly objects: Map<string, StoredObject>;
  readonly history: Change[];
  readonly watchers: Set<Watcher>;
}

/** Answers a request that is neither a list nor a watch of a known collection; undefined: 404. */
export type Extra = (request: {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: unknown;
}) => { readonly status: number; readonly body: unknown } | undefined;

const keyOf = ({ metadata }: StoredObject): string => `${metadata.namespace ?? ""}/${metadata.name}`;

/** A path of the object, as `spec.nodeName`. */
function valueAt(object: unknown, path: string): unknown {
  return path
    .split(".")
    .reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], object);
}

function selector(query: URLSearchParams): (object: StoredObject) => boolean {
  const terms = (query.get("fieldSelector") ?? "").split(",").filter((term) => term !== "");
  return (object) =>
    terms.every((term) => {
      const [path = "", value] = term.split("=");
      return valueAt(object, path) === value;
    });
}

export class KubeApiDouble {
  readonly #collections = new Map<string, Collection>();
  readonly #server: Server;
  readonly #failures: { readonly path: string; readonly status: number; left: number }[] = [];
  #version = 100;
  /** Versions up to this are no longer in the history. */
  #expiredUpTo = 0;
  /** Every request, as `METHOD PATH?QUERY`. */
  readonly requests: string[] = [];
  ready = true;

  private constructor(private readonly extra: Extra) {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        response.destroy(error instanceof Error ? error : undefined);
      });
    });
  }

  static async start(extra: Extra = () => undefined): Promise<KubeApiDouble> {
    const double = new KubeApiDouble(extra);
    await new Promise<void>((resolve) => double.#server.listen(0, "127.0.0.1", resolve));
    return double;
  }

  get access(): KubeAccess {
    const { port } = this.#server.address() as AddressInfo;
    return {
      server: new URL(`http://127.0.0.1:${port}`),
      serverName: undefined,
      tls: () => Promise.resolve({}),
      headers: () => Promise.resolve({ authorization: "Bearer test" }),
    };
  }

  /** A client of it, as the program has. */
  get api(): KubeApi {
    return new HttpKubeApi(this.access, systemClock, "test");
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Installs collections, as `/api/v1/pods`. */
  serve(...paths: readonly string[]): void {
    for (const path of paths)
      this.#collections.set(path, { objects: new Map(), history: [], watchers: new Set() });
  }

  /** Takes a collection away, as the removal of its CustomResourceDefinition does. */
  uninstall(path: string): void {
    this.#at(path).watchers.forEach(({ response }) => response.end());
    this.#collections.delete(path);
  }

  put(path: string, object: StoredObject): void {
    const collection = this.#at(path);
    const type = collection.objects.has(keyOf(object)) ? "MODIFIED" : "ADDED";
    this.#change(collection, type, object);
  }

  delete(path: string, namespace: string, name: string): void {
    const collection = this.#at(path);
    const object = collection.objects.get(`${namespace}/${name}`);
    if (object !== undefined) this.#change(collection, "DELETED", object);
  }

  /** Ends all watches: in order, or within whatever they were sending. */
  disconnect(how: "end" | "break" = "end"): void {
    for (const { watchers } of this.#collections.values()) {
      for (const { response } of watchers) {
        if (how === "end") response.end();
        else response.write('{"type":"MODIFIED","obj', () => response.destroy());
      }
      watchers.clear();
    }
  }

  /** Forgets all history, as etcd's compaction does, and ends the watches. */
  compact(): void {
    this.#expiredUpTo = this.#version;
    this.#version += 1;
    this.disconnect();
  }

  bookmark(path: string): void {
    const event = { type: "BOOKMARK", object: { metadata: { resourceVersion: String(this.#version) } } };
    for (const { response } of this.#at(path).watchers) response.write(`${JSON.stringify(event)}\n`);
  }

  watchers(path: string): number {
    return this.#at(path).watchers.size;
  }

  /** The next requests of a path are answered with this status. */
  fail(path: string, status: number, times = 1): void {
    this.#failures.push({ path, status, left: times });
  }

  #at(path: string): Collection {
    const found = this.#collections.get(path);
    if (found === undefined) throw new Error(`the double does not serve ${path}`);
    return found;
  }

  #change(collection: Collection, type: Change["type"], given: StoredObject): void {
    this.#version += 1;
    const object = {
      ...given,
      metadata: { ...given.metadata, resourceVersion: String(this.#version) },
    };
    if (type === "DELETED") collection.objects.delete(keyOf(object));
    else collection.objects.set(keyOf(object), object);
    const change = { version: this.#version, type, object };
    collection.history.push(change);
    for (const { response, matches } of collection.watchers)
      if (matches(object)) response.write(`${JSON.stringify({ type, object })}\n`);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "GET", url = "/" } = request;
    const { pathname: path, searchParams: query } = new URL(url, "http://double");
    this.requests.push(`${method} ${url}`);
    let text = "";
    for await (const part of request as AsyncIterable<Buffer>) text += part.toString();
    const send = (status: number, body: unknown): void => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    };
    const failure = this.#failures.find((one) => one.path === path && one.left > 0);
    if (failure !== undefined) {
      failure.left -= 1;
      send(failure.status, status(failure.status, "Injected", "as the test wants it"));
      return;
    }
    if (path === "/readyz") {
      response.writeHead(this.ready ? 200 : 500, { "content-type": "text/plain" });
      response.end(this.ready ? "ok" : "[-]poststarthook/crd-informer-synced failed");
      return;
    }
    const body: unknown = text === "" ? undefined : JSON.parse(text);
    const found = this.extra({ method, path, query, body });
    if (found !== undefined) {
      send(found.status, found.body);
      return;
    }
    const collection = this.#collections.get(path);
    if (method !== "GET" || collection === undefined) {
      const { status: code, answer } = this.#one(method, path, body);
      send(code, answer);
      return;
    }
    if (query.get("watch") === "true") this.#watch(collection, query, response);
    else this.#list(collection, query, send);
  }

  /** An object by its own path: read, made, replaced (if its version is the present one), applied. */
  #one(method: string, path: string, body: unknown): { readonly status: number; readonly answer: unknown } {
    const match = /^(.*\/v1)(?:\/namespaces\/([^/]+))?\/([a-z]+)(?:\/([^/]+))?$/.exec(path);
    const [, group = "", namespace = "", plural = "", name = ""] = match ?? [];
    const missing = { status: 404, answer: status(404, "NotFound", `there is no ${path}`) };
    const collection = this.#collections.get(`${group}/${plural}`);
    if (collection === undefined) return missing;
    const given = body as StoredObject | undefined;
    const key = `${namespace}/${name || (given?.metadata.name ?? "")}`;
    const present = collection.objects.get(key);
    const stored = (): { readonly status: number; readonly answer: unknown } => ({
      status: 200,
      answer: collection.objects.get(key),
    });
    if (method === "GET") return present === undefined ? missing : stored();
    if (given === undefined) return missing;
    const conflict = { status: 409, answer: status(409, "Conflict", `${key} was changed by another`) };
    if (method === "POST" && present !== undefined) return conflict;
    if (method === "PUT" && present === undefined) return missing;
    if (method === "PUT" && present?.metadata["resourceVersion"] !== given.metadata["resourceVersion"])
      return conflict;
    this.#change(collection, present === undefined ? "ADDED" : "MODIFIED", { ...present, ...given });
    return stored();
  }

  get(path: string, namespace: string, name: string): StoredObject | undefined {
    return this.#at(path).objects.get(`${namespace}/${name}`);
  }

  #list(collection: Collection, query: URLSearchParams, send: (status: number, body: unknown) => void): void {
    const all = [...collection.objects.values()].filter(selector(query));
    const [version, offset] = (query.get("continue") ?? `${this.#version}.0`).split(".").map(Number);
    if (version === undefined || offset === undefined || version <= this.#expiredUpTo) {
      send(410, status(410, "Expired", "The provided continue parameter is too old"));
      return;
    }
    const limit = Number(query.get("limit") ?? all.length);
    const items = all.slice(offset, offset + limit);
    const end = offset + limit;
    send(200, {
      metadata: {
        resourceVersion: String(version),
        ...(end < all.length && { continue: `${version}.${end}` }),
      },
      items,
    });
  }

  #watch(collection: Collection, query: URLSearchParams, response: ServerResponse): void {
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    const from = Number(query.get("resourceVersion"));
    if (from <= this.#expiredUpTo) {
      const object = status(410, "Expired", `too old resource version: ${from}`);
      response.end(`${JSON.stringify({ type: "ERROR", object })}\n`);
      return;
    }
    const watcher = { response, matches: selector(query) };
    collection.watchers.add(watcher);
    response.on("close", () => collection.watchers.delete(watcher));
    for (const { version, type, object } of collection.history)
      if (version > from && watcher.matches(object)) response.write(`${JSON.stringify({ type, object })}\n`);
  }
}

function status(code: number, reason: string, message: string): object {
  return { kind: "Status", apiVersion: "v1", status: "Failure", code, reason, message };
}
