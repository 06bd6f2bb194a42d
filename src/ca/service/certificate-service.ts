/** `istio.v1.auth.IstioCertificateService` on the control plane's listener (wire-contract.md, "Certificates"). */
import type { sendUnaryData, Server, ServerUnaryCall } from "@grpc/grpc-js";
import { MeltemiError, messageOf } from "../../domain/error.js";
import { parseSpiffeId, spiffeId, type Identity } from "../../domain/identity.js";
import {
  IstioCertificateServiceService,
  type IstioCertificateRequest,
  type IstioCertificateResponse,
} from "../../gen/istio/v1/auth/ca.js";
import type { Logger } from "../../platform/logger.js";
import type { Authority, IssuedCertificate } from "../authority.js";
import { readCertificateRequest } from "../csr.js";
import type { CaCounters, NodeAuthenticator, PodsOnNode, RefusalReason } from "../ports.js";
import { toServiceError } from "../../platform/grpc-status.js";

export interface CertificateServiceOptions {
  readonly authority: Authority;
  readonly authenticator: NodeAuthenticator;
  readonly pods: PodsOnNode;
  readonly counters: CaCounters;
  /** One record for every issue and every refusal: the audit trail. */
  readonly audit: Logger;
  /**
   * How long a request for an identity that no pod of the node has yet waits for one to appear: the
   * node may have seen its new pod before the control plane has.
   */
  readonly podGraceMs: number;
}

class Refusal extends Error {
  constructor(
    readonly reason: RefusalReason,
    readonly error: unknown,
  ) {
    super(messageOf(error));
  }
}

const refusal = (
  reason: RefusalReason,
  code: "bad_input" | "forbidden",
  message: string,
  hint?: string,
): Refusal => new Refusal(reason, new MeltemiError(code, message, hint === undefined ? {} : { hint }));

/** Waiting requests of one node; more than this are refused at once. */
const maxWaitingPerNode = 64;

class CertificateRequests {
  readonly #options: CertificateServiceOptions;
  readonly #waiting = new Map<string, number>();

  constructor(options: CertificateServiceOptions) {
    this.#options = options;
  }

  async answer(
    call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
  ): Promise<IstioCertificateResponse> {
    const peer = call.getPeer();
    const fields: { peer: string; node?: string; identity?: string } = { peer };
    try {
      fields.node = await this.#authenticate(call);
      const identity = this.#identityOf(call.request);
      fields.identity = spiffeId(identity);
      const issued = await this.#issue(fields.node, identity, call.request);
      this.#options.counters.issued();
      this.#options.audit.info("certificate issued", {
        ...fields,
        serial: issued.serial,
        not_after: new Date(issued.notAfterMs).toISOString(),
        trust_version: issued.version,
      });
      return { certChain: [...issued.chain, issued.roots] };
    } catch (thrown) {
      const { reason, error } = thrown instanceof Refusal ? thrown : new Refusal("internal", thrown);
      this.#options.counters.refused(reason);
      this.#options.audit.warn("certificate refused", { ...fields, reason, error: messageOf(error) });
      throw toServiceError(error);
    }
  }

  async #authenticate(
    call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
  ): Promise<string> {
    const [authorization] = call.metadata.get("authorization");
    try {
      return await this.#options.authenticator.authenticate({
        authorization: authorization?.toString(),
        peer: call.getPeer(),
      });
    } catch (error) {
      throw new Refusal("unauthenticated", error);
    }
  }

  /** The identity asked for. It must be named: an agent has no workload identity of its own to fall back to. */
  #identityOf(request: IstioCertificateRequest): Identity {
    const asked: unknown = request.metadata?.["ImpersonatedIdentity"];
    if (typeof asked !== "string" || asked === "") {
      throw refusal(
        "bad_request",
        "bad_input",
        "metadata ImpersonatedIdentity is missing",
        "name the identity of the node's pod",
      );
    }
    let identity: Identity;
    try {
      identity = parseSpiffeId(asked);
    } catch (error) {
      throw new Refusal("bad_request", error);
    }
    const { trustDomain } = this.#options.authority;
    if (identity.trustDomain !== trustDomain) {
      throw refusal(
        "identity_mismatch",
        "forbidden",
        `${asked} is not of this mesh's trust domain "${trustDomain}"`,
      );
    }
    return identity;
  }

  async #issue(
    node: string,
    identity: Identity,
    request: IstioCertificateRequest,
  ): Promise<IssuedCertificate> {
    let csr;
    try {
      csr = readCertificateRequest(request.csr);
    } catch (error) {
      throw new Refusal("bad_request", error);
    }
    const id = spiffeId(identity);
    if (csr.uris.length > 1 || (csr.uris.length === 1 && csr.uris[0] !== id)) {
      throw refusal(
        "identity_mismatch",
        "forbidden",
        `the request is for ${csr.uris.join(", ")}, and its metadata names ${id}`,
      );
    }
    if (!(await this.#hosts(node, identity))) {
      throw refusal(
        "not_on_node",
        "forbidden",
        `no enrolled pod of service account ${identity.namespace}/${identity.serviceAccount} runs on node ${node}`,
      );
    }
    try {
      return this.#options.authority.issueWorkload(node, identity, csr, request.validityDuration * 1000);
    } catch (error) {
      throw new Refusal(
        error instanceof MeltemiError && error.code === "forbidden" ? "identity_refused" : "internal",
        error,
      );
    }
  }

  async #hosts(node: string, identity: Identity): Promise<boolean> {
    const { pods, podGraceMs } = this.#options;
    if (pods.hosts(node, identity)) return true;
    const waiting = this.#waiting.get(node) ?? 0;
    if (podGraceMs <= 0 || waiting >= maxWaitingPerNode) return false;
    this.#waiting.set(node, waiting + 1);
    const deadline = AbortSignal.timeout(podGraceMs);
    try {
      while (!deadline.aborted) {
        await pods.nextChange(deadline);
        if (pods.hosts(node, identity)) return true;
      }
      return false;
    } finally {
      const left = (this.#waiting.get(node) ?? 1) - 1;
      if (left === 0) this.#waiting.delete(node);
      else this.#waiting.set(node, left);
    }
  }
}

/** Adds the service to a gRPC server. */
export function addCertificateService(server: Server, options: CertificateServiceOptions): void {
  const requests = new CertificateRequests(options);
  server.addService(IstioCertificateServiceService, {
    createCertificate(
      call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
      done: sendUnaryData<IstioCertificateResponse>,
    ): void {
      requests.answer(call).then(
        (response) => done(null, response),
        (error: unknown) => done(toServiceErrorOnce(error)),
      );
    },
  });
}

/** `answer` has translated already; what else is thrown is a defect and stays inside. */
function toServiceErrorOnce(error: unknown): ReturnType<typeof toServiceError> {
  return error instanceof Error && "details" in error && "code" in error
    ? (error as ReturnType<typeof toServiceError>)
    : toServiceError(error);
}
