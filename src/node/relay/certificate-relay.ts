import {
  status as grpcCode,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServiceError,
  type StatusObject,
} from "@grpc/grpc-js";
import { messageOf } from "../../domain/error.js";
import { parseSpiffeId, type Identity } from "../../domain/identity.js";
import {
  IstioCertificateServiceClient,
  type IstioCertificateRequest,
  type IstioCertificateResponse,
} from "../../gen/istio/v1/auth/ca.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { Upstream } from "../../xds/client.js";
import { SharedClient } from "./shared-client.js";

export interface CertificateRelayOptions {
  readonly trustDomain: string;
  readonly upstream: () => Promise<Upstream>;
  /** Whether an enrolled pod of this node has that service account. */
  readonly hosts: (namespace: string, serviceAccount: string) => boolean;
  readonly deadlineMs: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly onResult: (result: "issued" | "refused" | "failed") => void;
}

type Call = ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>;
type Answer = { readonly ok: IstioCertificateResponse } | { readonly error: Partial<StatusObject> };

/**
 * The certificate service towards the data plane. An identity is asked for only where a pod of this node
 * has it; the CA checks the same again with its own knowledge. The node's token goes with the request,
 * the data plane never sees it. Keys do not pass here: a request carries a public key.
 */
export class CertificateRelay {
  readonly #authority: SharedClient<IstioCertificateServiceClient>;

  constructor(private readonly options: CertificateRelayOptions) {
    this.#authority = new SharedClient({
      upstream: options.upstream,
      connect: ({ target, credentials, options: channel }) =>
        new IstioCertificateServiceClient(target, credentials, channel),
      clock: options.clock,
      isAnswer: (error) => judgements.has((error as Partial<ServiceError>).code),
    });
  }

  readonly createCertificate = (call: Call, done: sendUnaryData<IstioCertificateResponse>): void => {
    void this.#answer(call).then((answer) => {
      if ("ok" in answer) done(null, answer.ok);
      else done(answer.error);
    });
  };

  async #answer(call: Call): Promise<Answer> {
    const { log, onResult } = this.options;
    const checked = this.#identity(call.request);
    if ("error" in checked) {
      onResult("refused");
      log.warn("certificate request refused", { error: checked.error.details });
      return checked;
    }
    const fields = {
      namespace: checked.identity.namespace,
      service_account: checked.identity.serviceAccount,
    };
    try {
      const ok = await this.#forward(call);
      onResult("issued");
      return { ok };
    } catch (error) {
      onResult("failed");
      log.warn("certificate request failed", { ...fields, error: messageOf(error) });
      return { error: passedOn(error) };
    }
  }

  #identity({
    metadata,
  }: IstioCertificateRequest): { readonly identity: Identity } | { readonly error: Partial<StatusObject> } {
    const asked: unknown = metadata?.["ImpersonatedIdentity"];
    let identity: Identity;
    try {
      identity = parseSpiffeId(typeof asked === "string" ? asked : "");
    } catch (error) {
      return {
        error: { code: grpcCode.INVALID_ARGUMENT, details: `ImpersonatedIdentity: ${messageOf(error)}` },
      };
    }
    const { namespace, serviceAccount, trustDomain } = identity;
    if (trustDomain !== this.options.trustDomain) {
      const details = `this node's trust domain is ${this.options.trustDomain}, not ${trustDomain}`;
      return { error: { code: grpcCode.PERMISSION_DENIED, details } };
    }
    if (!this.options.hosts(namespace, serviceAccount)) {
      const details = `no enrolled pod of service account ${namespace}/${serviceAccount} runs on this node`;
      return { error: { code: grpcCode.PERMISSION_DENIED, details } };
    }
    return { identity };
  }

  #forward(call: Call): Promise<IstioCertificateResponse> {
    const { deadlineMs, clock } = this.options;
    return this.#authority.call(
      (client, metadata) =>
        new Promise<IstioCertificateResponse>((resolve, reject) => {
          // Meanwhile: then nothing more is told of it.
          if (call.cancelled) {
            reject(Object.assign(new Error("cancelled by the data plane"), cancelled));
            return;
          }
          const forwarded = client.createCertificate(
            call.request,
            metadata,
            { deadline: clock.now() + deadlineMs },
            (error, response) => {
              if (error) reject(error);
              else resolve(response);
            },
          );
          call.on("cancelled", () => forwarded.cancel());
        }),
    );
  }
}

const cancelled: Partial<StatusObject> = {
  code: grpcCode.CANCELLED,
  details: "cancelled by the data plane",
};

/** What the CA says of a request, and the data plane of its own: the connection is none the worse for it. */
const judgements: ReadonlySet<unknown> = new Set([
  grpcCode.CANCELLED,
  grpcCode.INVALID_ARGUMENT,
  grpcCode.PERMISSION_DENIED,
  grpcCode.FAILED_PRECONDITION,
  grpcCode.RESOURCE_EXHAUSTED,
]);

/** The CA's own status, or that it cannot be reached. */
function passedOn(error: unknown): Partial<StatusObject> {
  const { code, details } = error as Partial<ServiceError>;
  if (typeof code === "number" && typeof details === "string") return { code, details };
  return {
    code: grpcCode.UNAVAILABLE,
    details: `the certificate authority cannot be asked: ${messageOf(error)}`,
  };
}
