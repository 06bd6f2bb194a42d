import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { HttpAnswer, HttpHandler, HttpRequest } from "../../platform/unix-http-server.js";
import type { Standing } from "../enrol/desired.js";
import { report, type PodState } from "../enrol/pod-state.js";
import { readAttachment, readAttachmentId, readCollection, type Attachment } from "./requests.js";
import type { Sandboxes } from "./sandboxes.js";

/** The node's pods as the plugin's requests see them (enrol/node-pods.ts). */
export interface PlacedPods {
  standing(key: string, uid: string): Standing | undefined;
  stateIn(key: string, netnsInode: number): PodState | undefined;
  until<T>(look: () => T | undefined, signal: AbortSignal): Promise<T | undefined>;
}

export interface CniParts {
  readonly pods: PlacedPods;
  readonly sandboxes: Sandboxes;
  readonly clock: Clock;
  readonly log: Logger;
  /** For how long a pod may be unknown to the source: the runtime often hears of it first. */
  readonly knownWithinMs: number;
  /** For how long an ADD waits for capture; less than the plugin waits for the answer. */
  readonly capturedWithinMs: number;
  /** For how long a DEL waits for the pod's traces to go. */
  readonly goneWithinMs: number;
  readonly onAnswer: (verb: CniVerb, result: CniResult) => void;
}

export type CniVerb = "add" | "check" | "del" | "gc" | "status";
export type CniResult = "enrolled" | "out" | "unknown" | "done" | "later" | "refused";

/** In these the kernel lets nothing pass but by the data plane. */
const inForce = (state: PodState | undefined): boolean =>
  state?.phase === "serving" || state?.phase === "refusing";

/** Serves the plugin's requests, each verb a path of its own. */
export function cniHandler(parts: CniParts): HttpHandler {
  const verbs: Readonly<Record<string, readonly [CniVerb, (request: HttpRequest) => Promise<Outcome>]>> = {
    "/cmdadd": ["add", (request) => add(parts, readAttachment(request.body), request.signal)],
    "/cmdcheck": ["check", (request) => Promise.resolve(check(parts, readAttachment(request.body)))],
    "/cmddel": ["del", (request) => del(parts, request)],
    "/cmdgc": ["gc", async (request) => (await parts.sandboxes.collect(readCollection(request.body)), done)],
    "/cmdstatus": ["status", () => Promise.resolve(done)],
  };
  return async (request): Promise<HttpAnswer> => {
    const found = verbs[request.path];
    if (request.method !== "POST" || found === undefined)
      throw new MeltemiError("not_found", `there is no ${request.method} ${request.path}`);
    const [verb, serve] = found;
    try {
      const outcome = await serve(request);
      parts.onAnswer(verb, outcome.result);
      return { status: 200, body: outcome.body };
    } catch (error) {
      const refused = error instanceof MeltemiError && error.code === "bad_input";
      parts.onAnswer(verb, refused ? "refused" : "later");
      throw error;
    }
  };
}

interface Outcome {
  readonly result: CniResult;
  readonly body: unknown;
}

const done: Outcome = { result: "done", body: {} };

async function add(parts: CniParts, attachment: Attachment, client: AbortSignal): Promise<Outcome> {
  const { pods, sandboxes, clock, log } = parts;
  const { key, podUid, netnsInode } = attachment;
  // Also of a pod that is not known or not enrolled: it may be later, and the runtime does not tell again.
  const failure = sandboxes.add(attachment).then(
    () => undefined,
    (error: unknown) => ({ error }),
  );
  const standing = await within(clock, parts.knownWithinMs, client, (signal) =>
    pods.until(() => pods.standing(key, podUid), signal),
  );
  const failed = await failure;
  if (failed !== undefined) {
    // Whoever did not ask is not held up by what the agent cannot see.
    if (standing?.asks !== false) throw failed.error;
    log.warn("sandbox not taken", { pod: key, error: messageOf(failed.error) });
  }
  if (standing === undefined) {
    log.info("sandbox of a pod that is not known", { pod: key });
    return { result: "unknown", body: { decision: "unknown" } };
  }
  if (!standing.asks) return { result: "out", body: { decision: "out", reason: standing.reason } };
  const captured = await within(clock, parts.capturedWithinMs, client, (signal) =>
    pods.until(() => {
      // The pod may have left meanwhile, for which nobody need wait.
      if (pods.standing(key, podUid)?.asks === false) return "out" as const;
      return inForce(pods.stateIn(key, netnsInode)) ? ("enrolled" as const) : undefined;
    }, signal),
  );
  if (captured !== undefined) return { result: captured, body: { decision: captured } };
  throw notInForce(key, pods.stateIn(key, netnsInode));
}

function check({ pods }: CniParts, { key, podUid, netnsInode }: Attachment): Outcome {
  const standing = pods.standing(key, podUid);
  if (standing === undefined) return { result: "unknown", body: { decision: "unknown" } };
  if (!standing.asks) return { result: "out", body: { decision: "out", reason: standing.reason } };
  const state = pods.stateIn(key, netnsInode);
  if (inForce(state)) return { result: "enrolled", body: { decision: "enrolled" } };
  throw notInForce(key, state);
}

/** Whatever is asked for the second time, or was never there, is gone. */
async function del(
  { pods, sandboxes, clock, goneWithinMs, log }: CniParts,
  request: HttpRequest,
): Promise<Outcome> {
  const removed = await sandboxes.remove(readAttachmentId(request.body));
  if (removed === undefined) return done;
  const { key, netnsInode } = removed;
  const gone = await within(clock, goneWithinMs, request.signal, (signal) =>
    pods.until(() => (pods.stateIn(key, netnsInode) === undefined ? true : undefined), signal),
  );
  // The runtime goes on all the same: the enrolment lets go of the namespace by itself.
  if (gone === undefined && !request.signal.aborted) log.warn("pod is slow to leave", { pod: key });
  return done;
}

function notInForce(key: string, state: PodState | undefined): MeltemiError {
  const reported = state === undefined ? undefined : report(state);
  const why = reported?.reason ?? reported?.state ?? "the agent has no sandbox of it";
  return new MeltemiError("unavailable", `pod ${key} is to be in the mesh and is not captured: ${why}`);
}

/** Runs a wait that ends with the client, or after `ms`. */
async function within<T>(
  clock: Clock,
  ms: number,
  client: AbortSignal,
  wait: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const cancel = clock.schedule(ms, () => over.abort());
  try {
    return await wait(AbortSignal.any([client, over.signal]));
  } finally {
    cancel();
  }
}
