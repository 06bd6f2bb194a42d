/** The control plane's admin sockets: what docs/node-interfaces.md lists, and nothing that holds a key or token. */
import type { Registry } from "prom-client";
import { z } from "zod";
import type { Authority } from "../../ca/authority.js";
import { MeltemiError, messageOf } from "../../domain/error.js";
import { parseSpiffeId } from "../../domain/identity.js";
import { parseLogLevel, type Logger } from "../../platform/logger.js";
import type { HttpAnswer, HttpHandler, HttpRequest } from "../../platform/unix-http-server.js";
import { promClientContentType } from "./metrics.js";

/** What the pages show, each made when it is asked for. */
export interface AdminPages {
  readonly waiting: () => readonly string[];
  readonly status: () => object;
  readonly workloads: () => readonly object[];
  readonly services: () => readonly object[];
  readonly policies: () => readonly object[];
  readonly problems: () => readonly object[];
  readonly streams: () => readonly object[];
}

export interface AdminOptions {
  readonly pages: AdminPages;
  readonly authority: Authority;
  readonly registry: Registry;
  readonly log: Logger;
}

type Route = (request: HttpRequest) => Promise<HttpAnswer> | HttpAnswer;

const json = (body: unknown, status = 200): HttpAnswer => ({ status, body });

function dispatch(method: string, routes: Readonly<Record<string, Route>>): HttpHandler {
  return (request) => {
    const route = Object.hasOwn(routes, request.path) ? routes[request.path] : undefined;
    if (!route) {
      throw new MeltemiError("not_found", `there is no ${request.path} here`, {
        hint: `one of: ${Object.keys(routes).join(", ")}`,
      });
    }
    if (request.method !== method) {
      throw new MeltemiError("bad_input", `${request.path} takes ${method}, not ${request.method}`);
    }
    return route(request);
  };
}

/** `control-admin.sock`: reading only. */
export function adminHandler({ pages, authority, registry, log }: AdminOptions): HttpHandler {
  return dispatch("GET", {
    "/ready": () => {
      const waiting = pages.waiting();
      return waiting.length === 0 ? json({ ready: true }) : json({ ready: false, waiting }, 503);
    },
    "/status": () => json(pages.status()),
    "/workloads": () => json(pages.workloads()),
    "/services": () => json(pages.services()),
    "/policies": () => json(pages.policies()),
    "/problems": () => json(pages.problems()),
    "/xds/streams": () => json(pages.streams()),
    "/ca": () => json(authority.describe()),
    "/logging": () => json({ level: log.level }),
    "/metrics": async () => ({
      status: 200,
      contentType: promClientContentType,
      body: await registry.metrics(),
    }),
  });
}

const rotateShape = z.strictObject({ what: z.enum(["root", "issuing"]), advance: z.boolean().optional() });
const identityShape = z.strictObject({ identity: z.string() });
const loggingShape = z.strictObject({ level: z.string() });

/** The body as JSON of a shape. Throws `bad_input` saying what is wrong. */
function read<T>(request: HttpRequest, shape: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(request.body.toString("utf8"));
  } catch (error) {
    throw new MeltemiError("bad_input", `the body is not JSON: ${messageOf(error)}`, { cause: error });
  }
  const parsed = shape.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new MeltemiError("bad_input", `the body is not as expected: ${z.prettifyError(parsed.error)}`);
}

/** `control-control.sock`: what changes something. Each change is logged. */
export function controlHandler({ authority, log }: AdminOptions): HttpHandler {
  return dispatch("POST", {
    "/logging": (request) => {
      const level = parseLogLevel(read(request, loggingShape).level);
      log.level = level;
      return json({ level });
    },
    "/ca/rotate": (request) => {
      const { what, advance } = read(request, rotateShape);
      log.info("rotation asked for", { what, advance: advance ?? false });
      if (advance === true) authority.advance();
      else authority.startRotation(what);
      return json(authority.describe(), 202);
    },
    "/ca/refuse": (request) => {
      const { identity } = read(request, identityShape);
      authority.refuse(parseSpiffeId(identity));
      log.info("identity refused from now on", { identity });
      return json(authority.describe());
    },
    "/ca/allow": (request) => {
      const { identity } = read(request, identityShape);
      authority.allow(parseSpiffeId(identity));
      log.info("identity allowed again", { identity });
      return json(authority.describe());
    },
  });
}
