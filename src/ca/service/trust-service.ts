/** `meltemi.v1.TrustService`: tells node agents which roots are trusted and what to renew (docs/adr/0004-root-rotation.md). */
import type { Server, ServerWritableStream } from "@grpc/grpc-js";
import {
  TrustServiceService,
  type TrustBundle,
  type WatchTrustBundleRequest,
} from "../../gen/meltemi/v1/trust.js";
import type { Authority } from "../authority.js";
import type { NodeAuthenticator } from "../ports.js";
import { toServiceError } from "../../platform/grpc-status.js";

function encodeBundle(authority: Authority): TrustBundle {
  const bundle = authority.trustBundle();
  return {
    version: bundle.version,
    roots: [...bundle.roots],
    renewNotBeforeUntilS: bundle.renewNotBeforeUntilMs / 1000,
    spreadMs: bundle.spreadMs,
    trustDomain: bundle.trustDomain,
  };
}

/** Adds the service to a gRPC server; its streams end when the caller goes or the server shuts down. */
export function addTrustService(
  server: Server,
  authority: Authority,
  authenticator: NodeAuthenticator,
  shutdown: AbortSignal,
): void {
  // One listener for all: as many as streams would be noise on a signal that the whole process shares.
  const open = new Set<() => void>();
  shutdown.addEventListener(
    "abort",
    () => {
      for (const end of open) end();
    },
    { once: true },
  );
  const watch = async (call: ServerWritableStream<WatchTrustBundleRequest, TrustBundle>): Promise<void> => {
    const [authorization] = call.metadata.get("authorization");
    await authenticator.authenticate({ authorization: authorization?.toString(), peer: call.getPeer() });
    if (call.cancelled || shutdown.aborted) return void call.end();
    let sentVersion = 0;
    const send = (): void => {
      // A change while an earlier message waits for the network is told by the one after it.
      if (authority.trustBundle().version === sentVersion || call.writableNeedDrain) return;
      sentVersion = authority.trustBundle().version;
      call.write(encodeBundle(authority));
    };
    const stop = authority.onChange(send);
    const end = (): void => void call.end();
    const forget = (): void => {
      stop();
      open.delete(end);
    };
    call.on("drain", send);
    open.add(end);
    call.once("close", forget);
    call.once("cancelled", forget);
    send();
  };
  server.addService(TrustServiceService, {
    watchTrustBundle(call: ServerWritableStream<WatchTrustBundleRequest, TrustBundle>): void {
      watch(call).catch((error: unknown) => call.emit("error", toServiceError(error)));
    },
  });
}
