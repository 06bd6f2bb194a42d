/** The gRPC status of an error. */
import { status, type ServiceError, Metadata } from "@grpc/grpc-js";
import { MeltemiError, messageOf, type ErrorCode } from "../domain/error.js";

const statusOf: Record<ErrorCode, status> = {
  bad_input: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  conflict: status.FAILED_PRECONDITION,
  unauthenticated: status.UNAUTHENTICATED,
  forbidden: status.PERMISSION_DENIED,
  unavailable: status.UNAVAILABLE,
  unsupported: status.UNIMPLEMENTED,
  system: status.INTERNAL,
  internal: status.INTERNAL,
};

/** What the caller is told: message and hint of our own errors, nothing of the inside of others. */
export function toServiceError(error: unknown): ServiceError {
  const known = error instanceof MeltemiError && error.code !== "system" && error.code !== "internal";
  const details = known
    ? `${error.message}${error.hint === undefined ? "" : `; ${error.hint}`}`
    : "internal error, see the control plane's log";
  return Object.assign(new Error(messageOf(error), { cause: error }), {
    code: known ? statusOf[error.code] : status.INTERNAL,
    details,
    metadata: new Metadata(),
  });
}
