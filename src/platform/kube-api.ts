/** The Kubernetes API as an argument: requests in JSON, and streams of newline-delimited JSON (a watch). */
import { MeltemiError, type ErrorCode } from "../domain/error.js";

export interface KubeRequest {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** `/api/v1/namespaces/shop/pods`, without query. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** The body's type; `application/json` unless told (a PATCH names its kind). */
  readonly contentType?: string;
  readonly signal?: AbortSignal | undefined;
  /** For the whole answer; 30 s unless told. A watch has the time that it asks the server for. */
  readonly timeoutMs?: number;
}

export interface KubeApi {
  /** The answer's body, parsed; the text of one that is no JSON. @throws KubeStatusError for an answer that is no success, MeltemiError `unavailable` for none */
  call(request: KubeRequest): Promise<unknown>;
  /** The objects of a watch as they come; ends with the server's stream. @throws as `call`, also while it is read */
  stream(request: KubeRequest): AsyncIterable<unknown>;
}

const codes: Readonly<Record<number, ErrorCode>> = {
  400: "bad_input",
  401: "unauthenticated",
  403: "forbidden",
  404: "not_found",
  409: "conflict",
  410: "conflict",
  422: "bad_input",
};

/** An answer of the API server that is no success (`meta/v1 Status`). */
export class KubeStatusError extends MeltemiError {
  constructor(
    /** The HTTP status, or the `code` of a Status that came in a stream. */
    readonly status: number,
    /** The API's word: `Expired`, `AlreadyExists`, `Conflict`; empty where it says none. */
    readonly reason: string,
    message: string,
    /** For how long the server asks to be left alone. */
    readonly retryAfterMs?: number,
  ) {
    super(codes[status] ?? "unavailable", message);
    this.name = "KubeStatusError";
  }
}

/** Whether the error is the API server's answer of that status. */
export function hasStatus(error: unknown, ...statuses: readonly number[]): boolean {
  return error instanceof KubeStatusError && statuses.includes(error.status);
}
