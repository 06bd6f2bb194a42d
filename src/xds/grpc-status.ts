import { status } from "@grpc/grpc-js";
import { type ErrorCode, MeltemiError, messageOf } from "../domain/error.js";

const codes: Readonly<Record<ErrorCode, status>> = {
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

/** What a client is told: the message of our own errors, nothing of others'. */
export function grpcStatus(error: unknown): { readonly code: status; readonly details: string } {
  if (!(error instanceof MeltemiError)) return { code: status.INTERNAL, details: "internal error" };
  return { code: codes[error.code], details: messageOf(error) };
}
