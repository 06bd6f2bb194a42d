import { MeltemiError } from "../../domain/error.js";
import { Version, WorkloadRequest, WorkloadResponse, ZdsHello } from "../../gen/istio/workload/zds/zds.js";

/** One packet of ZDS at most (wire-contract.md, "Node agent to data plane"). */
export const maxPacketBytes = 1024;

/** What a data plane is told about a pod. */
export interface WorkloadInfo {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

export type Request =
  | { readonly type: "add"; readonly uid: string; readonly info: WorkloadInfo }
  | { readonly type: "del"; readonly uid: string }
  | { readonly type: "snapshot_sent" };

/** Throws `bad_input` where the message does not fit one packet. */
export function encodeRequest(request: Request): Buffer {
  const bytes = Buffer.from(WorkloadRequest.encode({ payload: payload(request) }).finish());
  if (bytes.length > maxPacketBytes) {
    throw new MeltemiError(
      "bad_input",
      `the message about a pod has ${bytes.length} bytes; a data plane takes ${maxPacketBytes}`,
    );
  }
  return bytes;
}

function payload(request: Request): WorkloadRequest["payload"] {
  switch (request.type) {
    case "add":
      return { $case: "add", value: { uid: request.uid, workloadInfo: { ...request.info } } };
    case "del":
      return { $case: "del", value: { uid: request.uid } };
    case "snapshot_sent":
      return { $case: "snapshotSent", value: {} };
  }
}

/** Checks the data plane's first packet. Throws `bad_input` or `unsupported`. */
export function decodeHello(data: Uint8Array): void {
  const { version } = decoded("hello", () => ZdsHello.decode(data));
  if (version !== Version.V1)
    throw new MeltemiError(
      "unsupported",
      `the data plane speaks version ${version} of ZDS, the agent version 1`,
    );
}

/** The error text of an acknowledgement; empty on success. Throws `bad_input` for anything else. */
export function decodeAck(data: Uint8Array): string {
  const response = decoded("response", () => WorkloadResponse.decode(data));
  if (response.payload?.$case !== "ack")
    throw new MeltemiError("bad_input", "the data plane's response is not an acknowledgement");
  return response.payload.value.error;
}

function decoded<T>(what: string, decode: () => T): T {
  try {
    return decode();
  } catch (cause) {
    throw new MeltemiError("bad_input", `the data plane's ${what} cannot be decoded`, { cause });
  }
}
