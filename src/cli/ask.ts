/** Asking admin sockets, and reading their answers. */
import type { z } from "zod";
import { MeltemiError, messageOf } from "../domain/error.js";
import { callUnixJson } from "../platform/unix-http-client.js";
import type { NodeTarget, Target } from "./run-directory.js";

/** One answer, checked. Throws `unavailable` when nobody answers, `internal` when the answer is not as documented. */
export async function ask<T>(
  socketPath: string,
  path: string,
  shape: z.ZodType<T>,
  timeoutMs?: number,
): Promise<T> {
  const answer = await callUnixJson({ socketPath, path, ...(timeoutMs === undefined ? {} : { timeoutMs }) });
  const parsed = shape.safeParse(answer);
  if (parsed.success) return parsed.data;
  throw new MeltemiError(
    "internal",
    `the answer to GET ${path} on ${socketPath} is not as expected: ${messageOf(parsed.error)}`,
    {
      hint: "are the CLI and the running processes of the same version?",
    },
  );
}

/** Tells a control socket to do something. */
export async function tell<T>(
  socketPath: string,
  path: string,
  body: unknown,
  shape: z.ZodType<T>,
): Promise<T> {
  const answer = await callUnixJson({
    socketPath,
    path,
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
  });
  return shape.parse(answer);
}

/** The control plane's admin socket. Throws `unavailable` when the run directory is one node's. */
export function controlPlaneOf(target: Target): NonNullable<Target["controlPlane"]> {
  if (target.controlPlane) return target.controlPlane;
  throw new MeltemiError("unavailable", `no control plane runs in ${target.runDir}`, {
    hint: "name the run directory of a standalone or of a control plane with --run-dir",
  });
}

export interface NodeAnswers<T> {
  readonly answers: readonly { readonly node: string; readonly value: T }[];
  /** One sentence per node that did not answer. */
  readonly notes: readonly string[];
}

/** Asks every node at once; one that does not answer is named and does not hide the others. Throws when none answers. */
export async function askNodes<T>(
  target: Target,
  path: string,
  shape: z.ZodType<T>,
  timeoutMs?: number,
): Promise<NodeAnswers<T>> {
  const results = await Promise.all(
    target.nodes.map(async (node) => {
      try {
        return { node, value: await ask(node.admin, path, shape, timeoutMs) };
      } catch (error) {
        return { node, error };
      }
    }),
  );
  const answers = results.flatMap((result) =>
    "value" in result ? [{ node: nameOf(result.node), value: result.value as T }] : [],
  );
  const failures = results.flatMap((result) =>
    "error" in result ? [{ node: nameOf(result.node), error: result.error }] : [],
  );
  const [first] = failures;
  if (answers.length === 0 && first) throw first.error;
  return { answers, notes: failures.map(({ node, error }) => `node ${node}: ${messageOf(error)}`) };
}

const nameOf = (node: NodeTarget): string => node.name;
