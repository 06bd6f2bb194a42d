/** Callers on a cluster: a pod's service-account token, made for us, judged by the API server (TokenReview). */
import { createHash } from "node:crypto";
import { z } from "zod";
import { MeltemiError } from "../domain/error.js";
import type { Clock } from "../platform/clock.js";
import type { KubeApi } from "../platform/kube-api.js";
import { waypointCaller } from "./callers.js";
import type { CallerCredentials, NodeAuthenticator } from "./ports.js";

/** The audience that a caller's token is made for (wire-contract.md, "Certificates"). */
export const tokenAudience = "istio-ca";

export interface TokenReviewOptions {
  readonly api: KubeApi;
  readonly clock: Pick<Clock, "now" | "monotonic">;
  /** Service accounts of node agents, as `NAMESPACE/NAME`. */
  readonly nodeAccounts: ReadonlySet<string>;
  /** Whether this account is a waypoint's own: a Gateway of that name that is one. */
  readonly isWaypoint: (namespace: string, account: string) => boolean;
  /** The node of a pod, where the token does not name it (Kubernetes before 1.30). */
  readonly nodeOfPod: (namespace: string, name: string, uid: string) => string | undefined;
}

/** A pod that is deleted has its token accepted for as long as this. */
const acceptedMs = 60_000;
const refusedMs = 5_000;
/** Callers are nodes and waypoints: room for more than a large cluster has of both. */
const mostRemembered = 16_384;
/** Refusals have a room of their own: whoever sends forged tokens drives out nobody who was accepted. */
const mostRefusals = 1_024;
/** Of strangers' tokens no more than these are before the API server at once. */
const mostReviews = 256;
/** Of one source address: forging what is asked about takes no key, and must not take all places. */
const mostReviewsOfOne = 4;

const username = /^system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})$/;

const claimsShape = z.object({
  sub: z.string(),
  aud: z.union([z.string(), z.array(z.string())]).transform((aud) => (typeof aud === "string" ? [aud] : aud)),
  exp: z.number(),
});

const reviewShape = z.object({
  status: z.object({
    authenticated: z.boolean().optional(),
    error: z.string().optional(),
    audiences: z.array(z.string()).optional(),
    user: z
      .object({
        username: z.string().optional(),
        extra: z.record(z.string(), z.array(z.string())).optional(),
      })
      .optional(),
  }),
});

interface Account {
  readonly namespace: string;
  readonly name: string;
}

type Verdict =
  | { readonly accepted: true; readonly caller: string }
  | { readonly accepted: false; readonly message: string };

interface Remembered {
  readonly verdict: Verdict;
  readonly untilMs: number;
}

const refused = (message: string): Verdict => ({ accepted: false, message });

/** What the token says of itself: reason to ask about it, and never to believe it. */
function readClaims(token: string): z.infer<typeof claimsShape> | undefined {
  const [, payload, signature] = token.split(".");
  if (payload === undefined || signature === undefined) return undefined;
  try {
    return claimsShape.parse(JSON.parse(Buffer.from(payload, "base64url").toString("utf8")));
  } catch {
    return undefined;
  }
}

function accountOf(user: string): Account | undefined {
  const [, namespace, name] = username.exec(user) ?? [];
  return namespace === undefined || name === undefined ? undefined : { namespace, name };
}

/** The address of a peer that gRPC names `ADDRESS:PORT`. */
const sourceOf = (peer: string): string => peer.replace(/:\d+$/, "");

export class ServiceAccountCallers implements NodeAuthenticator {
  readonly #accepted = new Map<string, Remembered>();
  readonly #refused = new Map<string, Remembered>();
  readonly #reviews = new Map<string, Promise<Verdict>>();
  /** Reviews under way by source address. */
  readonly #reviewsOf = new Map<string, number>();

  constructor(private readonly options: TokenReviewOptions) {}

  async authenticate(credentials: CallerCredentials): Promise<string> {
    const token = /^Bearer ([A-Za-z0-9._~+/=-]{16,16384})$/i.exec(credentials.authorization ?? "")?.[1];
    if (token === undefined) {
      const message =
        credentials.authorization === undefined ? "no token was sent" : "the token is malformed";
      throw new MeltemiError("unauthenticated", message, {
        hint: "send the header authorization: Bearer TOKEN",
      });
    }
    const verdict = await this.#judge(token, sourceOf(credentials.peer));
    if (verdict.accepted) return verdict.caller;
    throw new MeltemiError("unauthenticated", verdict.message);
  }

  async #judge(token: string, source: string): Promise<Verdict> {
    const key = createHash("sha256").update(token).digest("base64url");
    const remembered = this.#accepted.get(key) ?? this.#refused.get(key);
    if (remembered !== undefined && remembered.untilMs > this.options.clock.monotonic())
      return remembered.verdict;
    const claims = readClaims(token);
    if (claims === undefined) return refused("the token is no service account's");
    const unasked = this.#refuseUnasked(claims);
    if (unasked !== undefined) return unasked;
    const running = this.#reviews.get(key);
    if (running !== undefined) return running;
    const ofSource = this.#reviewsOf.get(source) ?? 0;
    if (this.#reviews.size >= mostReviews || ofSource >= mostReviewsOfOne) {
      throw new MeltemiError("unavailable", "too many tokens are being reviewed", { hint: "try again" });
    }
    this.#reviewsOf.set(source, ofSource + 1);
    const review = this.#review(token)
      .then((verdict) => {
        this.#remember(key, verdict, claims.exp);
        return verdict;
      })
      .finally(() => {
        this.#reviews.delete(key);
        this.#reviewDone(source);
      });
    this.#reviews.set(key, review);
    return review;
  }

  #reviewDone(source: string): void {
    const left = (this.#reviewsOf.get(source) ?? 1) - 1;
    if (left > 0) this.#reviewsOf.set(source, left);
    else this.#reviewsOf.delete(source);
  }

  /** Tokens that are refused whatever the API server would say: it is not asked by everybody who has none of ours. */
  #refuseUnasked({ sub, aud, exp }: z.infer<typeof claimsShape>): Verdict | undefined {
    const account = accountOf(sub);
    if (account === undefined || !this.#isExpected(account))
      return refused(`the token is of ${sub}, which is no node agent's account and no waypoint's`);
    if (!aud.includes(tokenAudience))
      return refused(`the token is not made for the audience ${tokenAudience}`);
    if (exp * 1000 <= this.options.clock.now()) return refused("the token has expired");
    return undefined;
  }

  #isExpected({ namespace, name }: Account): boolean {
    const { nodeAccounts, isWaypoint } = this.options;
    return nodeAccounts.has(`${namespace}/${name}`) || isWaypoint(namespace, name);
  }

  /** @throws MeltemiError where the API server gives no answer: then nobody is let in, and nothing is remembered */
  async #review(token: string): Promise<Verdict> {
    const answer = await this.options.api.call({
      method: "POST",
      path: "/apis/authentication.k8s.io/v1/tokenreviews",
      body: {
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenReview",
        spec: { token, audiences: [tokenAudience] },
      },
      timeoutMs: 5_000,
    });
    const { authenticated, error, audiences, user } = reviewShape.parse(answer).status;
    if (authenticated !== true)
      return refused(`the API server does not accept the token: ${error ?? "no reason"}`);
    // A server that knows no audiences answers without: such a token may have been made for somebody else.
    if (audiences?.includes(tokenAudience) !== true)
      return refused(`the token is not made for the audience ${tokenAudience}`);
    const account = accountOf(user?.username ?? "");
    if (account === undefined)
      return refused(`the token is of ${user?.username ?? "nobody"}, no service account`);
    return this.#callerOf(account, user?.extra ?? {});
  }

  #callerOf(account: Account, extra: Readonly<Record<string, readonly string[]>>): Verdict {
    const { nodeAccounts, isWaypoint, nodeOfPod } = this.options;
    const { namespace, name } = account;
    const of = (key: string): string | undefined => extra[`authentication.kubernetes.io/${key}`]?.[0];
    const [pod, uid] = [of("pod-name"), of("pod-uid")];
    if (!nodeAccounts.has(`${namespace}/${name}`)) {
      if (!isWaypoint(namespace, name))
        return refused(`${namespace}/${name} is no node agent's account and no waypoint's`);
      // One that somebody made by hand outlives every pod, and nothing takes it back.
      return uid === undefined
        ? refused(
            `the token of the waypoint ${namespace}/${name} is bound to no pod: mount it as a projected volume`,
          )
        : { accepted: true, caller: waypointCaller(namespace, name) };
    }
    const node =
      of("node-name") ??
      (pod === undefined || uid === undefined ? undefined : nodeOfPod(namespace, pod, uid));
    return node === undefined
      ? refused(
          `the token of ${namespace}/${name} is bound to no pod on a node: mount it as a projected volume`,
        )
      : { accepted: true, caller: node };
  }

  #remember(key: string, verdict: Verdict, expiresS: number): void {
    const { clock } = this.options;
    const lifeMs = verdict.accepted ? Math.min(acceptedMs, expiresS * 1000 - clock.now()) : refusedMs;
    this.#accepted.delete(key);
    this.#refused.delete(key);
    const [room, most] = verdict.accepted ? [this.#accepted, mostRemembered] : [this.#refused, mostRefusals];
    room.set(key, { verdict, untilMs: clock.monotonic() + lifeMs });
    if (room.size <= most) return;
    const [oldest] = room.keys();
    if (oldest !== undefined) room.delete(oldest);
  }
}
