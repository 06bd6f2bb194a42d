/** A VirtualService's `fault`. */
import type { VirtualFilter } from "../../domain/virtual-service.js";
import { readIstioDuration } from "./duration.js";
import type { Fields } from "./fields.js";
import { readPercentage } from "./istio-host.js";

type Fault = Extract<VirtualFilter, { type: "fault" }>;

const grpcStatuses = [
  "OK",
  "CANCELLED",
  "UNKNOWN",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
  "UNAUTHENTICATED",
];

/** Of a million requests. Istio: none where it is not said. */
function readShare(fields: Fields, deprecated: readonly string[]): number {
  const share = readPercentage(fields, "percentage", deprecated);
  if (share === undefined) {
    fields.report.warning(fields.at("percentage"), {
      message: "is missing: no request has the fault",
      hint: "write percentage: { value: 100 } for all",
    });
  }
  return share ?? 0;
}

function readDelay(delay: Fields): Fault["delay"] {
  const ms = readIstioDuration(delay, "fixedDelay");
  if (!delay.has("fixedDelay")) delay.report.error(delay.at("fixedDelay"), { message: "is missing" });
  const perMillion = readShare(delay, ["percent"]);
  delay.refuseUnknown();
  return ms === undefined ? undefined : { ms, perMillion };
}

function readAbort(abort: Fields): Fault["abort"] {
  const status = abort.integer("httpStatus", { min: 200, max: 599 });
  const name = abort.string("grpcStatus");
  if (abort.has("http2Error")) {
    const message = "is not supported: a waypoint aborts with a status";
    abort.report.error(abort.at("http2Error"), { message, hint: "write httpStatus or grpcStatus" });
  }
  if (!abort.has("httpStatus") && !abort.has("grpcStatus") && !abort.has("http2Error"))
    abort.report.error(abort.at("httpStatus"), { message: "is missing", hint: "or write grpcStatus" });
  if (abort.has("httpStatus") && abort.has("grpcStatus"))
    abort.report.error(abort.at("grpcStatus"), { message: "stands beside httpStatus" });
  const perMillion = readShare(abort, []);
  abort.refuseUnknown();
  if (name === undefined)
    return status === undefined ? undefined : { status, grpcStatus: undefined, perMillion };
  const code = /^\d+$/.test(name) ? Number(name) : grpcStatuses.indexOf(name);
  if (code < 0 || code >= grpcStatuses.length) {
    const hint = `a number, or one of: ${grpcStatuses.join(", ")}`;
    abort.report.error(abort.at("grpcStatus"), { value: name, message: "is not a gRPC status", hint });
    return undefined;
  }
  return { status: 200, grpcStatus: code, perMillion };
}

export function readFault(fault: Fields): Fault {
  const delay = fault.child("delay");
  const abort = fault.child("abort");
  fault.refuseUnknown();
  if (!delay && !abort) fault.report.error(fault.path, { message: "is empty", hint: "write delay or abort" });
  return { type: "fault", delay: delay && readDelay(delay), abort: abort && readAbort(abort) };
}
